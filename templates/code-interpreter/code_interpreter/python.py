"""Python's kernels, seen from the server: forks of the zygote, spoken to in Jupyter's protocol over sockets in a folder that nobody else
may enter (a port, even of the loopback, can be reached from outside of the sandbox)."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.connect import write_connection_file

from . import mime
from .ipython import METADATA
from .kernel import CannotRun, Cell, Event, KernelDied, how_it_ended, signal_group
from .zygote import PACKET


class _Zygote:
    """One zygote process, and who waits for what it says."""

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

    async def fork(self, connection_file: Path, cwd: str) -> tuple[int, asyncio.Future[str]] | None:
        """A kernel that answers: its process, and how it will have ended. None if the zygote is of no use any more."""
        id = str(uuid.uuid4())
        loop = asyncio.get_running_loop()
        self._births[id] = loop.create_future()
        self._ends[id] = loop.create_future()
        try:
            await self._send({"start": id, "connection_file": str(connection_file), "cwd": cwd})
            return await self._births[id], self._ends[id]
        except _Stale:
            return None
        finally:
            del self._births[id]

    async def retire(self) -> None:
        """It ends after its kernels."""
        self.is_usable = False
        await self._send({"retire": True})

    def close(self) -> None:
        """It ends now, and its kernels with it."""
        self._listener.cancel()
        self._channel.close()

    async def _send(self, packet: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self._channel, json.dumps(packet).encode())

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        while packet := await loop.sock_recv(self._channel, PACKET):
            self._hear(json.loads(packet))
        self.is_usable = False
        why = f"Python's zygote has ended: {how_it_ended(_as_waited(await self._process.wait()))}"
        for birth in self._births.values():
            _settle(birth, error=CannotRun(why))
        for end in self._ends.values():
            _settle(end, why)

    def _hear(self, said: dict[str, Any]) -> None:
        match said:
            case {"ready": id, "pid": pid} if id in self._births:
                _settle(self._births[id], pid)
            case {"failed": id, "why": why}:
                del self._ends[id]
                _settle(self._births[id], error=CannotRun(why))
            case {"stale": id}:
                del self._ends[id]
                _settle(self._births[id], error=_Stale())
            case {"ended": id, "status": status}:
                why = how_it_ended(status)
                _settle(self._ends.pop(id), why)
                if id in self._births:
                    _settle(self._births[id], error=CannotRun(f"a kernel did not start: {why}"))


class _Stale(Exception):
    """What the zygote has imported is not what is installed."""


def _settle(future: asyncio.Future[Any], value: object = None, error: Exception | None = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _as_waited(code: int) -> int:
    return -code if code < 0 else code << 8


class PythonKernels:
    """Starts them."""

    def __init__(self, folder: Path) -> None:
        # Only for their sockets; the path of one has to be short.
        self._folder = folder
        self._zygote: _Zygote | None = None
        self._turn = asyncio.Lock()
        self._zmq = zmq.asyncio.Context()
        self._zmq.setsockopt(zmq.RCVHWM, 0)

    async def start(self, cwd: str) -> "PythonKernel":
        """A new one."""
        name = uuid.uuid4().hex[:12]
        file = self._folder / f"{name}.json"
        # Ports are the ends of the sockets' names.
        write_connection_file(
            str(file),
            **{f"{kind}_port": number for number, kind in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)},
            ip=str(self._folder / name),
            transport="ipc",
            key=os.urandom(32).hex().encode(),
        )
        pid, ended = await self._fork(file, cwd)
        return await PythonKernel.connect(pid, ended, file, self._zmq)

    async def _fork(self, file: Path, cwd: str) -> tuple[int, asyncio.Future[str]]:
        # A zygote is replaced by one that looks for packages anew; that one is not stale.
        while True:
            async with self._turn:
                if self._zygote is None or not self._zygote.is_usable:
                    self._zygote = await _Zygote.start()
                zygote = self._zygote
            forked = await zygote.fork(file, cwd)
            if forked is not None:
                return forked
            await zygote.retire()

    def close(self) -> None:
        """All kernels end."""
        if self._zygote is not None:
            self._zygote.close()
        self._zmq.destroy(linger=0)


class PythonKernel:
    """See `kernel.Kernel`."""

    def __init__(self, pid: int, ended: asyncio.Future[str], client: AsyncKernelClient) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._pid = pid
        self._client = client
        ended.add_done_callback(self._is_gone)

    @classmethod
    async def connect(
        cls, pid: int, ended: asyncio.Future[str], file: Path, context: zmq.asyncio.Context
    ) -> "PythonKernel":
        """To one that answers."""
        client = AsyncKernelClient(context=context, connection_file=str(file))
        client.load_connection_file()
        client.start_channels(stdin=False, hb=False, control=False)
        kernel = cls(pid, ended, client)
        # The first message says that what follows will be heard.
        try:
            while (await kernel._next(client.iopub_channel))["header"]["msg_type"] != "iopub_welcome":
                pass
        except KernelDied as died:
            raise CannotRun(f"a kernel did not start: {died}") from died
        return kernel

    async def run(self, cell: Cell) -> AsyncIterator[Event]:
        """See `kernel.Kernel`."""
        told = {"sandbox": cell.sandbox, "variables": cell.variables, "identity": cell.identity}
        content = {
            "code": cell.code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        message = self._client.session.msg("execute_request", content, metadata={METADATA: told})
        self._client.shell_channel.send(message)
        id = message["header"]["msg_id"]
        while True:
            said = await self._next(self._client.iopub_channel)
            # What an earlier cell left running may speak as well; it does so in that cell's name.
            if said["parent_header"].get("msg_id") != id:
                continue
            kind, content = said["header"]["msg_type"], said["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            event = _event(kind, content)
            if event is not None:
                yield event
        while (await self._next(self._client.shell_channel))["parent_header"].get("msg_id") != id:
            pass

    def interrupt(self) -> None:
        """See `kernel.Kernel`."""
        if not self.ended.done():
            signal_group(self._pid, signal.SIGINT)

    def kill(self, why: str) -> None:
        """See `kernel.Kernel`."""
        if not self.ended.done():
            signal_group(self._pid, signal.SIGKILL)
            self.ended.set_result(why)

    def _is_gone(self, ended: asyncio.Future[str]) -> None:
        # What it has started goes with it.
        signal_group(self._pid, signal.SIGKILL)
        self._client.stop_channels()
        _settle(self.ended, ended.result())

    async def _next(self, channel: Any) -> dict[str, Any]:
        taking = asyncio.ensure_future(channel.get_msg())
        try:
            await asyncio.wait([taking, self.ended], return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                raise KernelDied(self.ended.result())
            return taking.result()
        finally:
            taking.cancel()


def _event(kind: str, content: dict[str, Any]) -> Event | None:
    match kind:
        case "stream":
            return {"type": content["name"], "text": content["text"], "timestamp": time.time_ns()}
        case "execute_result" | "display_data":
            return mime.result(content["data"], is_main=kind == "execute_result")
        case "error":
            traceback = "\n".join(content["traceback"])
            return {"type": "error", "name": content["ename"], "value": content["evalue"], "traceback": traceback}
        case "execute_input":
            return {"type": "number_of_executions", "execution_count": content["execution_count"]}
        case _:
            return None
