"""What a kernel is: a process that runs the cells of one context and keeps its state between them.

It has two pipes for what it and all that it starts write, and a socket. By this it is told cells, in the way of its language, and says,
one JSON object a line:

    {"cell": NUMBER, "begun": true}     an interrupt is the cell's from here on
    {"cell": NUMBER, "event": EVENT}    as it is told to the client
    {"cell": NUMBER, "over": STATUS}    0 if all is well; that of cell 0 says that the kernel is ready

What was written before something was said is told before it. Whoever waits for a kernel hears of its end in the same way as of all else.
"""

import asyncio
import codecs
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

# What is told of an execution, as it is written: {"type": ..., ...}.
Event = dict[str, Any]

# What a pipe holds at most, so one read takes all that was written before.
_PIPE = 64 * 1024
# The rest of a line is waited for for as long.
_LINE_SECONDS = 0.05
_CHUNK = 1 << 20
# Of what was said and not told yet; more waits in the pipes, and then the kernel waits.
_WAITING = 64
# In an emulated guest on a busy machine, a first kernel takes minutes.
START_SECONDS = 600.0
# A cell that goes on for longer after it was interrupted will not stop.
_STOP_SECONDS = 15.0
# A process that has ended is known to have within this.
_END_SECONDS = 15.0


@dataclass(frozen=True)
class Cell:
    """What is to be run."""

    code: str
    # The sandbox's variables: they stay.
    sandbox: dict[str, str] = field(default_factory=dict)
    # This execution's: they are gone after it.
    variables: dict[str, str] = field(default_factory=dict)
    # Whose sandbox it is: another value than the kernel knows means that it woke up as somebody's.
    identity: str = ""


class KernelDied(Exception):
    """The kernel's process is gone, and with it its state."""


class CannotRun(Exception):
    """The cell or the context asked for is not possible."""


@dataclass(frozen=True)
class Ends:
    """A kernel's ends of its pipes and socket, as numbers of files of this process."""

    out: int
    err: int
    control: int


@dataclass(frozen=True)
class Process:
    """One that was started, as the leader of a session; `ended` comes to how it ended."""

    pid: int
    ended: asyncio.Future[str]


class _Output:
    """One of the two outputs. Both ends stay open here, so it has no end of its own."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.fd, self.end = os.pipe()
        os.set_blocking(self.fd, False)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # Read, and not told yet.
        self._text = ""
        self.timer: asyncio.TimerHandle | None = None

    def read(self) -> bool:
        """What is there; whether it is to be told now."""
        with contextlib.suppress(BlockingIOError):
            self._text += self._decoder.decode(os.read(self.fd, _PIPE))
        return self._text.endswith("\n") or len(self._text) >= _PIPE

    def finish(self) -> None:
        """At a cell's end: a character that was cut in two is told as far as it is there."""
        self._text += self._decoder.decode(b"", True)
        self._decoder.reset()

    def take(self) -> str:
        """What is to be told."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        text, self._text = self._text, ""
        return text

    def close(self) -> None:
        """Nobody reads any more."""
        os.close(self.fd)
        os.close(self.end)


class Kernel:
    """A running kernel. A language has a class of its own, and says how its cells are asked for."""

    # Seconds between two interrupts of a cell that goes on.
    interrupts_every: ClassVar[float]

    def __init__(self) -> None:
        # Done once the kernel is of no use any more: why.
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._outputs = [_Output("stdout"), _Output("stderr")]
        self._control, self._their_control = socket.socketpair()
        self._control.setblocking(False)
        self.ends = Ends(self._outputs[0].end, self._outputs[1].end, self._their_control.fileno())
        self._pid: int | None = None
        self._cut = b""
        self._is_read = False
        # What the running cell has said, its status once it is over, and the end of it all; none while nothing runs.
        self._told: asyncio.Queue[Event | int | KernelDied] | None = None
        # Of the cells that were begun.
        self._count = 0
        self._begun = asyncio.Event()
        self._interrupting: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, launch: Callable[[Ends], Awaitable[Process]]) -> Self:
        """A new one, which is ready."""
        kernel = cls()
        kernel._told = told = asyncio.Queue()
        kernel._read()
        try:
            process = await launch(kernel.ends)
            kernel._pid = process.pid
            process.ended.add_done_callback(lambda ended: kernel._end(ended.result()))
            kernel._their_control.close()
            async with asyncio.timeout(START_SECONDS):
                await kernel._send(kernel._greeting())
                while isinstance(said := await told.get(), dict):
                    kernel._read()
            if isinstance(said, KernelDied):
                raise CannotRun(f"a kernel did not start: {said}")
        except TimeoutError:
            kernel.kill("it did not start in time")
            raise CannotRun(f"a kernel did not start within {START_SECONDS:.0f} seconds") from None
        except BaseException:
            kernel.kill("it is not wanted any more")
            raise
        kernel._told = None
        return kernel

    async def run(self, cell: Cell) -> AsyncIterator[Event]:
        """Runs a cell; one at a time. `KernelDied` when the process goes away."""
        if self.ended.done():
            raise KernelDied(self.ended.result())
        request = self._request(self._count + 1, cell)
        self._count += 1
        self._told = told = asyncio.Queue()
        self._begun.clear()
        # It may take what is sent no faster than its outputs are read.
        sending = asyncio.create_task(self._send(request))
        try:
            yield {"type": "number_of_executions", "execution_count": self._count}
            while isinstance(said := await told.get(), dict):
                if told.qsize() < _WAITING:
                    self._read()
                yield said
            if isinstance(said, KernelDied):
                raise said
            if said != 0:
                yield {"type": "error", "name": "ExitStatus", "value": str(said), "traceback": f"exit status {said}"}
        finally:
            self._told = None
            sending.cancel()
            if self._interrupting is not None:
                self._interrupting.cancel()
                self._interrupting = None
            self._read()

    def interrupt(self) -> None:
        """As Ctrl-C does. A cell that does not stop is ended with its kernel."""
        if self._told is not None and self._interrupting is None:
            self._interrupting = asyncio.create_task(self._interrupt())

    def kill(self, why: str) -> None:
        """Ends the process and what it has started."""
        self._end(why)

    def _greeting(self) -> bytes:
        """What a new process has to be told before it says that it is ready."""
        return b""

    def _request(self, number: int, cell: Cell) -> bytes:
        """A cell, as the process is told it."""
        raise NotImplementedError

    async def _send(self, data: bytes) -> None:
        # That it is gone will be heard.
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self._control, data)

    async def _interrupt(self) -> None:
        # Not before: it would be of something else, or of a half.
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._begun.wait()
                while True:
                    self._signal(signal.SIGINT)
                    await asyncio.sleep(self.interrupts_every)
        except TimeoutError:
            self.kill(f"its cell went on for {_STOP_SECONDS:.0f} seconds after it was interrupted")

    def _signal(self, number: int) -> None:
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, number)

    def _read(self) -> None:
        if self._is_read or self.ended.done():
            return
        self._is_read = True
        loop = asyncio.get_running_loop()
        for output in self._outputs:
            loop.add_reader(output.fd, self._hear_output, output)
        if self._control.fileno() >= 0:
            loop.add_reader(self._control, self._hear)

    def _stop_reading(self) -> None:
        if not self._is_read:
            return
        self._is_read = False
        loop = asyncio.get_running_loop()
        for output in self._outputs:
            loop.remove_reader(output.fd)
        if self._control.fileno() >= 0:
            loop.remove_reader(self._control)

    def _hear_output(self, output: _Output) -> None:
        if output.read():
            self._say(output)
        elif output.timer is None:
            output.timer = asyncio.get_running_loop().call_later(_LINE_SECONDS, self._say, output)

    def _say(self, output: _Output) -> None:
        """By the running cell, or what it left in the background; what comes while nothing runs is nobody's."""
        if text := output.take():
            self._tell({"type": output.kind, "text": text, "timestamp": time.time_ns()})

    def _tell(self, said: Event | int | KernelDied) -> None:
        if self._told is not None:
            self._told.put_nowait(said)
            if self._told.qsize() >= _WAITING:
                self._stop_reading()

    def _hear(self) -> bool:
        """Whether there may be more."""
        try:
            chunk = self._control.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if not chunk:
            # Either it has ended, which is heard with its reason, or nothing more will be heard of it.
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            asyncio.get_running_loop().call_later(_END_SECONDS, self.kill, "it has closed its connection to the server")
            return False
        *lines, self._cut = (self._cut + chunk).split(b"\n")
        for line in lines:
            try:
                said = json.loads(line)
                number = said["cell"]
            except (ValueError, TypeError, KeyError):
                self.kill("it says what no kernel says")
                return False
            if self._told is None or number != self._count:
                continue
            is_over = "over" in said
            for output in self._outputs:
                output.read()
                if is_over:
                    output.finish()
                self._say(output)
            if is_over:
                self._tell(said["over"])
            elif "event" in said:
                self._tell(said["event"])
            else:
                self._begun.set()
        return True

    def _end(self, why: str) -> None:
        if self.ended.done():
            return
        # What it has started goes with it; what it said on its way out is still there.
        self._signal(signal.SIGKILL)
        self._stop_reading()
        self.ended.set_result(why)
        for _ in range(_WAITING):
            if self._control.fileno() < 0 or not self._hear():
                break
        for output in self._outputs:
            output.read()
            output.finish()
            self._say(output)
            output.close()
        self._tell(KernelDied(why))
        self._control.close()
        self._their_control.close()


def how_it_ended(status: int) -> str:
    """Of a status as `waitpid` has it."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"killed by {signal.Signals(number).name if number in set(signal.Signals) else f'signal {number}'}"
    return f"it ended with exit code {os.WEXITSTATUS(status)}"


def as_waited(code: int) -> int:
    """What `waitpid` would have said, of a process's return code."""
    return -code if code < 0 else code << 8
