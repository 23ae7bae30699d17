"""The process that Python's kernels are forks of. It has imported, and used once, what takes long to import, so that a new kernel is there
at once and shares that memory with all others.

It is spoken to over a socket of packets, one JSON object each:

    -> {"start": ID, "connection_file": PATH, "cwd": PATH}
    <- {"ready": ID, "pid": PID}       from the kernel itself
    <- {"failed": ID, "why": TEXT}     instead: no such folder, no memory
    <- {"stale": ID}                   instead: what was imported is not what is installed by now
    <- {"ended": ID, "status": STATUS} as waitpid has it; instead of the first, too

A zygote that is told nothing more (end of file) ends with its kernels; one that is to be replaced is sent {"retire": true}, and ends after
the last of them. It has one thread and no event loop: only so can it fork.
"""

import gc
import importlib
import importlib.machinery
import io
import json
import os
import select
import signal
import socket
import sys
from typing import Any, NoReturn

# What is imported. Those that are not installed are left out.
_MODULES = ("numpy", "pandas", "matplotlib", "matplotlib.pyplot", "matplotlib_inline.backend_inline", "IPython", "ipykernel.kernelapp")
PACKET = 64 * 1024


class _Zygote:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        # Kernels by process id.
        self._kernels: dict[int, str] = {}
        self._is_retired = False
        self._imported = _installed()

    def serve(self) -> None:
        """Until there is nothing more to do."""
        wake, woken = os.pipe()
        for fd in (wake, woken):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while not self._is_retired or self._kernels:
            ready, _, _ = select.select([self._channel, wake], [], [])
            if wake in ready:
                os.read(wake, PACKET)
                self._reap()
            if self._channel in ready:
                packet = self._channel.recv(PACKET)
                if not packet:
                    self._end_kernels()
                    return
                self._do(json.loads(packet))

    def _do(self, request: dict[str, Any]) -> None:
        if request.get("retire"):
            self._is_retired = True
            return
        id, cwd = request["start"], request["cwd"]
        if _installed() != self._imported:
            self._tell({"stale": id})
            return
        try:
            os.chdir(cwd)
            pid = os.fork()
        except OSError as error:
            self._tell({"failed": id, "why": str(error)})
            return
        if pid == 0:
            self._become_kernel(id, request["connection_file"])
        self._kernels[pid] = id

    def _become_kernel(self, id: str, connection_file: str) -> NoReturn:
        status = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            gc.unfreeze()
            from .ipython import serve

            serve(connection_file, lambda: (self._tell({"ready": id, "pid": os.getpid()}), self._channel.close()))
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            # Neither the zygote's way out nor its buffers are the kernel's.
            os._exit(status & 0xFF)

    def _reap(self) -> None:
        while self._kernels:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._tell({"ended": self._kernels.pop(pid), "status": status})

    def _end_kernels(self) -> None:
        for pid in self._kernels:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _tell(self, packet: dict[str, Any]) -> None:
        try:
            self._channel.send(json.dumps(packet).encode())
        except OSError:
            # The server is gone, which the end of file says as well.
            pass


def _installed() -> dict[str, Any]:
    """Which files the modules are, as an import would find them now."""
    found: dict[str, Any] = {}
    for name in {module.partition(".")[0] for module in _MODULES}:
        spec = importlib.machinery.PathFinder.find_spec(name)
        if spec is not None and spec.origin is not None:
            stat = os.stat(spec.origin)
            found[name] = (spec.origin, stat.st_ino, stat.st_mtime_ns)
    return found


def _use_once() -> None:
    """What a first use loads or computes: fonts, tables of formats."""
    import matplotlib.pyplot as plt

    from . import charts, frames, ipython  # noqa: F401

    charts.teach()
    figure, axes = plt.subplots()
    axes.plot([0, 1], [1, 0], label="line")
    axes.bar([0, 1], [1, 2])
    axes.set_title("title")
    axes.legend()
    figure.savefig(io.BytesIO(), format="png")
    charts.of_figure(figure)
    plt.close(figure)
    try:
        import pandas
    except ImportError:
        return
    table = pandas.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"], "c": pandas.to_datetime(["2024-01-01", "2024-01-02"])})
    table._repr_html_()
    repr(table)
    table.describe()
    frames.of_frame(table)


def main() -> None:
    """With the socket's number as its argument."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    # As a kernel would set it, before anything looks.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in _MODULES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:
                raise
    _use_once()
    # Collections in a kernel shall not touch, and so copy, what all share.
    gc.collect()
    gc.freeze()
    _Zygote(channel).serve()


if __name__ == "__main__":
    main()
