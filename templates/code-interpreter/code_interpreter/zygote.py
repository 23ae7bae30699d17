"""The process that Python's kernels are forks of. It has imported, and used once, what takes long to import, so that a new kernel is there
at once and shares that memory with all others.

It is spoken to over a socket of packets, one JSON object each:

    -> {"start": ID, "cwd": PATH}          with the files that are the kernel's outputs and its connection
    <- {"started": ID, "pid": PID}
    <- {"failed": ID, "why": TEXT}         instead: no such folder, no memory
    <- {"ended": ID, "status": STATUS}     as waitpid has it

A zygote that is told nothing more (end of file) ends with its kernels. It has one thread and no event loop: only so can it fork.
"""

import contextlib
import gc
import importlib
import importlib.machinery
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

from . import ipython

# What is imported. Those that are not installed are left out.
_MODULES = ("numpy", "pandas", "matplotlib", "matplotlib.pyplot", "matplotlib_inline.backend_inline", "IPython")
PACKET = 64 * 1024

_WARM = """
def _first_use():
    import io
    import matplotlib.pyplot as plt
    import pandas
    from IPython.display import display
    figure, axes = plt.subplots()
    axes.plot([0, 1], [1, 0], label="line")
    axes.bar([0, 1], [1, 2])
    axes.set_title("title")
    axes.legend()
    plt.show()
    table = pandas.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"], "c": pandas.to_datetime(["2024-01-01", "2024-01-02"])})
    display(table)
    table.describe()

_first_use()
del _first_use
1 / 0
"""


class _Zygote:
    def __init__(self, channel: socket.socket, shell: "ipython.Shell") -> None:
        self._channel = channel
        self._shell = shell
        # Kernels by process id.
        self._kernels: dict[int, str] = {}
        self._imported = _installed()

    def serve(self) -> None:
        """Until there is nothing more to do."""
        woken, wake = os.pipe()
        for fd in (woken, wake):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # The kernels' own.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            ready, _, _ = select.select([self._channel, woken], [], [])
            if woken in ready:
                os.read(woken, PACKET)
                self._reap()
            if self._channel in ready:
                packet, files, _, _ = socket.recv_fds(self._channel, PACKET, 3)
                if not packet:
                    break
                self._start(json.loads(packet), files)
                for fd in files:
                    os.close(fd)
        for pid in self._kernels:
            _kill(pid)

    def _start(self, request: dict[str, Any], files: list[int]) -> None:
        id, cwd = request["start"], request["cwd"]
        try:
            os.chdir(cwd)
            pid = os.fork()
        except OSError as error:
            self._tell({"failed": id, "why": f"Python does not start in {cwd}: {error}"})
            return
        if pid == 0:
            self._become_kernel(files)
        self._kernels[pid] = id
        self._tell({"started": id, "pid": pid})

    def _become_kernel(self, files: list[int]) -> NoReturn:
        status = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._channel.close()
            out, err, control = files
            os.dup2(out, 1)
            os.dup2(err, 2)
            # What was imported may not be what is installed by now: then this kernel begins with nothing.
            if _installed() != self._imported:
                os.set_inheritable(control, True)
                package = str(Path(__file__).parent.parent)
                code = f"import sys; sys.path.append({package!r}); from code_interpreter import ipython; ipython.main({control})"
                os.execv(sys.executable, [sys.executable, "-c", code])
            gc.unfreeze()
            status = ipython.serve(self._shell, socket.socket(fileno=control))
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            # Neither the zygote's way out nor its buffers are the kernel's.
            os._exit(status)

    def _reap(self) -> None:
        while self._kernels:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._tell({"ended": self._kernels.pop(pid), "status": status})

    def _tell(self, packet: dict[str, Any]) -> None:
        # If the server is gone, the end of file says so as well.
        with contextlib.suppress(OSError):
            self._channel.send(json.dumps(packet).encode())


def _kill(pid: int) -> None:
    # It leads its group as soon as it has come to itself.
    for kill in (os.kill, os.killpg):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _installed() -> dict[str, Any]:
    """Which files the modules are, as an import would find them now."""
    found: dict[str, Any] = {}
    importlib.invalidate_caches()
    for name in {module.partition(".")[0] for module in _MODULES}:
        spec = importlib.machinery.PathFinder.find_spec(name)
        if spec is not None and spec.origin is not None:
            with contextlib.suppress(FileNotFoundError):
                stat = os.stat(spec.origin)
                found[name] = (spec.origin, stat.st_ino, stat.st_mtime_ns)
    return found


def main() -> None:
    """With the socket's number as its argument; without, to have used everything once."""
    for name in _MODULES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:
                raise
    shell = ipython.new_shell()
    # What a first use loads or computes: fonts, tables of formats, how a traceback is written. Nobody hears of it.
    shell.run_cell(_WARM)
    if len(sys.argv) < 2:
        return
    # Collections in a kernel shall not touch, and so copy, what all share.
    gc.collect()
    gc.freeze()
    _Zygote(socket.socket(fileno=int(sys.argv[1])), shell).serve()


if __name__ == "__main__":
    main()
