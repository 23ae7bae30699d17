"""What the SDK does in a sandbox, through the platform's one port: real guests are needed."""

import asyncio
import uuid

import pytest
from e2b import (
    AsyncSandbox,
    AsyncTemplate,
    BuildException,
    CommandExitException,
    FileNotFoundException,
    PtySize,
    SandboxException,
    SandboxState,
    wait_for_port,
)

BOOT_ID = "/proc/sys/kernel/random/boot_id"


async def test_a_life(platform):
    """As a program does that was written for E2B's cloud."""
    sandbox = await platform.create(envs={"FOR": "everybody"}, metadata={"kind": "life"})
    assert await sandbox.is_running()
    result = await sandbox.commands.run("echo $FOR; echo oh >&2; whoami; pwd")
    assert (result.stdout, result.stderr, result.exit_code) == ("everybody\nuser\n/home/user\n", "oh\n", 0)
    with pytest.raises(CommandExitException) as failed:
        await sandbox.commands.run("exit 3")
    assert failed.value.exit_code == 3

    await sandbox.files.write("work/numbers.txt", "1\n2\n3\n")
    assert await sandbox.files.read("work/numbers.txt") == "1\n2\n3\n"
    assert [entry.name for entry in await sandbox.files.list("work")] == ["numbers.txt"]
    content = bytes(range(256)) * 4096
    await sandbox.files.write("/tmp/bytes", content)
    assert bytes(await sandbox.files.read("/tmp/bytes", format="bytes")) == content
    with pytest.raises(FileNotFoundException):
        await sandbox.files.read("nothing")
    code = "print(sum(int(line) for line in open('work/numbers.txt')))"
    assert (await sandbox.commands.run(f'python3 -c "{code}"')).stdout == "6\n"

    # What runs goes on after a pause, in the same memory.
    boot = await sandbox.files.read(BOOT_ID)
    sleeper = await sandbox.commands.run("sleep 100000", background=True)
    assert await sandbox.pause()
    assert not await sandbox.is_running()
    again = await platform.kind.connect(sandbox.sandbox_id, timeout=600)
    assert await again.files.read(BOOT_ID) == boot
    assert sleeper.pid in [process.pid for process in await again.commands.list()]
    assert await again.commands.kill(sleeper.pid)

    # Without memory it boots: other processes, the same files and the same token.
    sleeper = await again.commands.run("sleep 100000", background=True)
    assert await again.pause(mode="filesystem")
    booted = await platform.kind.connect(sandbox.sandbox_id, timeout=600)
    assert await booted.files.read(BOOT_ID) != boot
    assert await again.files.read("work/numbers.txt") == "1\n2\n3\n"
    assert sleeper.pid not in [process.pid for process in await booted.commands.list()]
    assert (await booted.commands.run("echo $FOR")).stdout == "everybody\n"

    snapshot = await again.create_snapshot()
    other = await platform.create(snapshot.snapshot_id)
    assert await other.files.read("work/numbers.txt") == "1\n2\n3\n"
    await other.files.write("work/numbers.txt", "4\n")
    assert await again.files.read("work/numbers.txt") == "1\n2\n3\n"
    assert await platform.kind.delete_snapshot(snapshot.snapshot_id)
    assert await other.commands.run("true")

    assert await again.kill()
    assert not await again.is_running()
    with pytest.raises(SandboxException):
        await again.commands.run("true")


async def test_children_go_on_by_themselves(platform):
    sandbox = await platform.create()
    await sandbox.files.write("who", "parent")
    children = await platform.fork(sandbox, count=2, timeout=600)
    for number, child in enumerate(children):
        assert await child.files.read("who") == "parent"
        await child.files.write("who", str(number))
    assert await sandbox.files.read("who") == "parent"
    assert [await child.files.read("who") for child in children] == ["0", "1"]
    hosts = {(await one.commands.run("hostname")).stdout for one in (sandbox, *children)}
    assert len(hosts) == 3


async def test_a_terminal(platform):
    sandbox = await platform.create()
    shown, seen = [], asyncio.Event()
    loop = asyncio.get_running_loop()

    def show(data):
        shown.append(data)
        if b"42-done" in b"".join(shown):
            loop.call_soon_threadsafe(seen.set)

    # The synchronous flavour hands output to whoever waits.
    on_data = {} if platform.is_sync else {"on_data": show}
    terminal = await sandbox.pty.create(PtySize(rows=24, cols=80), **on_data)
    await sandbox.pty.send_stdin(terminal.pid, b"echo $((6 * 7))-done; exit 5\n")
    waiting = terminal.wait(on_pty=show) if platform.is_sync else terminal.wait()
    with pytest.raises(CommandExitException) as ended:
        await waiting
    assert ended.value.exit_code == 5
    await asyncio.wait_for(seen.wait(), 60)


async def test_a_time_that_is_over(platform):
    sandbox = await platform.create(timeout=600, lifecycle={"on_timeout": "pause"})
    await sandbox.set_timeout(1)
    async with asyncio.timeout(120):
        # Used all the while: its time is over all the same.
        while (await sandbox.get_info()).state == SandboxState.RUNNING:
            try:
                await sandbox.commands.run("true")
            except SandboxException:
                pass
    await sandbox.connect(timeout=600)
    assert (await sandbox.commands.run("echo back")).stdout == "back\n"


async def test_figures_of_a_machine(platform):
    sandbox = await platform.create()
    async with asyncio.timeout(60):
        while not (metrics := await sandbox.get_metrics()):
            pass
    assert metrics[0].mem_used > 32 << 20


async def test_a_template_and_what_it_started():
    name = f"t-{uuid.uuid4().hex}"
    made = (
        AsyncTemplate()
        .from_template("base")
        .set_envs({"GREETING": 'hello "there"'})
        .set_workdir("app")
        .run_cmd("echo $GREETING > index.html\nid -un >> index.html; [[ -O . ]] && pwd >> index.html")
        .run_cmd("id -un > /root/who; pwd >> /root/who", user="root")
        .set_start_cmd("python3 -m http.server 8123", wait_for_port(8123))
    )
    await AsyncTemplate.build(made, f"{name}:v1")
    sandbox = await AsyncSandbox.create(f"{name}:v1", timeout=600)
    try:
        seen = await sandbox.commands.run("pwd; curl -s http://127.0.0.1:8123/; sudo cat /root/who")
        assert seen.stdout.split("\n") == ["/home/user/app", 'hello "there"', "user", "/home/user/app", "root", "/home/user/app", ""]
    finally:
        await sandbox.kill()
    unknown = AsyncTemplate().from_template(f"{name}:v1").run_cmd("whoami", user="root123")
    why = "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'"
    with pytest.raises(BuildException, match=why):
        await AsyncTemplate.build(unknown, name)
    await AsyncTemplate.remove_tags(name, "v1")
    assert not await AsyncTemplate.exists(name)
