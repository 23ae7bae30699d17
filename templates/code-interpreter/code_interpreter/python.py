"""Python's kernels, seen from the server: forks of the zygote, or what these have become."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import uuid
from pathlib import Path
from typing import Any

from .kernel import START_SECONDS, CannotRun, Cell, Ends, Kernel, Process, as_waited, how_it_ended
from .zygote import PACKET


class PythonKernel(Kernel):
    """See `kernel.Kernel`."""

    # It writes a traceback before it can take another.
    interrupts_every = 5.0

    def _request(self, number: int, cell: Cell) -> bytes:
        told = {
            "cell": number,
            "code": cell.code,
            "sandbox": cell.sandbox,
            "variables": cell.variables,
            "identity": cell.identity,
        }
        return json.dumps(told).encode("ascii") + b"\n"


class PythonKernels:
    """Starts them."""

    def __init__(self) -> None:
        self._zygote: _Zygote | None = None
        self._turn = asyncio.Lock()

    async def start(self, cwd: str) -> PythonKernel:
        """A new one."""
        async with self._turn:
            if self._zygote is None or not self._zygote.is_usable:
                self._zygote = await _Zygote.start()
            zygote = self._zygote
        return await PythonKernel.start(lambda ends: zygote.fork(cwd, ends))

    async def close(self) -> None:
        """All kernels end."""
        if self._zygote is not None:
            await self._zygote.close()


class _Zygote:
    """The zygote's process, and who waits for what it says."""

    def __init__(self, channel: socket.socket, process: asyncio.subprocess.Process) -> None:
        self.is_usable = True
        self._channel = channel
        self._process = process
        # Each comes to the kernel's process id.
        self._births: dict[str, asyncio.Future[int]] = {}
        self._ends: dict[str, asyncio.Future[str]] = {}
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls) -> "_Zygote":
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "code_interpreter.zygote", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parent.parent,
            )
        return cls(ours, process)

    async def fork(self, cwd: str, ends: Ends) -> Process:
        """A new process for a kernel."""
        if not self.is_usable:
            raise CannotRun("Python's zygote has ended; it is begun anew")
        id = str(uuid.uuid4())
        loop = asyncio.get_running_loop()
        birth = self._births[id] = loop.create_future()
        end = self._ends[id] = loop.create_future()
        try:
            request = json.dumps({"start": id, "cwd": cwd}).encode()
            socket.send_fds(self._channel, [request], [ends.out, ends.err, ends.control])
            # For the first one, the zygote's own start is in it.
            async with asyncio.timeout(START_SECONDS):
                return Process(await birth, end)
        except TimeoutError:
            # It answers nobody.
            self._process.kill()
            raise CannotRun(f"Python did not start within {START_SECONDS:.0f} seconds") from None
        except OSError as error:
            raise CannotRun(f"Python's zygote takes no requests: {error}") from error
        finally:
            del self._births[id]

    async def close(self) -> None:
        """It ends now, and its kernels with it."""
        self._channel.shutdown(socket.SHUT_RDWR)
        await self._listener

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        while packet := await loop.sock_recv(self._channel, PACKET):
            self._hear(json.loads(packet))
        self.is_usable = False
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        why = f"Python's zygote has ended: {how_it_ended(as_waited(await self._process.wait()))}"
        self._channel.close()
        for birth in self._births.values():
            if not birth.done():
                birth.set_exception(CannotRun(why))
        for end in self._ends.values():
            end.set_result(why)
        self._ends.clear()

    def _hear(self, said: dict[str, Any]) -> None:
        match said:
            case {"started": id, "pid": pid} if id in self._births:
                self._births[id].set_result(pid)
            case {"started": _, "pid": pid}:
                # Who asked for it has gone away meanwhile.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            case {"failed": id, "why": why}:
                del self._ends[id]
                if id in self._births:
                    self._births[id].set_exception(CannotRun(why))
            case {"ended": id, "status": status}:
                self._ends.pop(id).set_result(how_it_ended(status))
