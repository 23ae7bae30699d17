"""What an agent does with a sandbox, as it is written for E2B's cloud. Where the sandboxes are is for the environment to say:

    E2B_API_KEY=... python3 agent_loop.py                                                      # in E2B's cloud
    E2B_DOMAIN=sbx.example.com:8443 E2B_API_KEY=... SSL_CERT_FILE=ca.pem python3 agent_loop.py    # in yours

Needs Python 3.9 and `pip install e2b`. The package that it installs in the sandbox may be a wheel of this machine: agent_loop.py FILE.whl
"""

import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from e2b import Sandbox

CODE = """
import humanize, time
for step in range(1, 4):
    print("step", step, flush=True)
    time.sleep(0.2)
numbers = [int(line) for line in open("numbers.txt")]
with open("report.txt", "w") as report:
    print("the sum is", humanize.intcomma(sum(numbers)), file=report)
"""


def install(sandbox: Sandbox, package: str) -> None:
    if package.endswith(".whl"):
        wheel = Path(package)
        package = f"/tmp/{wheel.name}"
        sandbox.files.write(package, wheel.read_bytes())
    sandbox.commands.run(f"pip install --quiet {package}", timeout=300)


def fetch(url: str) -> str:
    """What a server answers that has been started just now: until it listens, its port is closed (502)."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(url) as response:
                return response.read().decode()
        except urllib.error.HTTPError as refusal:
            if refusal.code != 502:
                raise
        time.sleep(0.2)
    raise TimeoutError(url)


def main(package: str = "humanize") -> None:
    sandbox = Sandbox.create(timeout=900, metadata={"made-by": "agent_loop.py"})
    try:
        print("sandbox", sandbox.sandbox_id)
        install(sandbox, package)

        # A file in, code that somebody's model wrote, its output as it comes, a file out.
        sandbox.files.write("numbers.txt", "\n".join(str(number) for number in range(1_000_000, 1_000_003)))
        sandbox.files.write("task.py", CODE)
        sandbox.commands.run("python3 task.py", on_stdout=lambda text: print(text, end=""))
        report = sandbox.files.read("report.txt")
        print(report, end="")
        assert report == "the sum is 3,000,003\n"

        # A port, opened to the world, for longer than a command's usual minute.
        sandbox.commands.run("python3 -m http.server 8000", background=True, timeout=0)
        url = f"https://{sandbox.get_host(8000)}/report.txt"
        assert fetch(url) == report
        print("served at", url)

        # Days may pass here. What ran goes on, the server too.
        sandbox.pause()
        sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=900)
        assert fetch(url) == report
        print("paused, and back")

        # All of it, kept: a start for as many others as there are ideas to try.
        snapshot = sandbox.create_snapshot()
        try:
            other = Sandbox.create(snapshot.snapshot_id, timeout=900)
            try:
                other.files.write("report.txt", "another report\n")
                assert fetch(f"https://{other.get_host(8000)}/report.txt") == "another report\n"
                assert sandbox.files.read("report.txt") == report
            finally:
                other.kill()
        finally:
            Sandbox.delete_snapshot(snapshot.snapshot_id)
        print("kept, and begun again from there")
    finally:
        sandbox.kill()
    assert not sandbox.is_running()
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
