"""bash's kernel: one bash for all cells of a context, which is told what to evaluate and says when it has.

It is an interactive one, since that goes on with the next command after an interrupt, but has neither terminal nor prompt: commands come
by its input, which cells never see, and lines on a pipe of its own report that a cell has begun and with which status it has ended. The
latter is also what it does instead of a prompt, so it is said after an interrupt, too; what is said twice is heard once.
"""

import asyncio
import codecs
import os
import re
import shlex
import signal
import time
from collections.abc import AsyncIterator

from .kernel import CannotRun, Cell, Event, KernelDied, how_it_ended, signal_group

_CHUNK = 64 * 1024
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Of a cell that is not over.
_BEGUN = "begun"
# Between two interrupts of a cell that goes on: bash takes one for its child's alone where it comes at the wrong moment.
_PATIENCE = 0.3


class _Output:
    """One of the two outputs: what comes while no cell runs is dropped, so that nobody waits for a reader."""

    def __init__(self, kind: str, fd: int, shell: "BashKernel") -> None:
        self.kind = kind
        self._fd = fd
        self._shell = shell
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self.read_all)

    def read_all(self) -> None:
        """All that is there."""
        while self._fd >= 0:
            try:
                chunk = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                return
            if not chunk:
                self.close()
                return
            self._shell.said(self.kind, self._decoder.decode(chunk))

    def finish(self) -> None:
        """The cell is over: what is left of a character cut in two is told with it."""
        self.read_all()
        self._shell.said(self.kind, self._decoder.decode(b"", True))
        self._decoder.reset()

    def close(self) -> None:
        """Nobody writes any more, or nobody reads."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


class BashKernel:
    """See `kernel.Kernel`."""

    def __init__(self, process: asyncio.subprocess.Process, pipes: tuple[int, int, int], status_fd: int) -> None:
        out, err, status = pipes
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._process = process
        self._outputs = [_Output("stdout", out, self), _Output("stderr", err, self)]
        self._status = status
        self._status_fd = status_fd
        self._status_text = b""
        # What the running cell has said, and a number once it is over; none while nothing runs.
        self._told: asyncio.Queue[Event | int] | None = None
        # Of the cells that were begun: a report names the one that it is of.
        self._count = 0
        self._begun = asyncio.Event()
        self._interrupting: asyncio.Task[None] | None = None
        self._known: dict[str, str] = {}
        os.set_blocking(status, False)
        asyncio.get_running_loop().add_reader(status, self._read_status)
        self._waiter = asyncio.create_task(self._wait())

    @classmethod
    async def start(cls, cwd: str) -> "BashKernel":
        """A new one."""
        pipes = [os.pipe() for _ in range(3)]
        try:
            process = await asyncio.create_subprocess_exec(
                *("bash", "--norc", "--noprofile", "--noediting", "-i"),
                cwd=cwd,
                stdin=asyncio.subprocess.PIPE,
                stdout=pipes[0][1],
                stderr=pipes[1][1],
                pass_fds=[pipes[2][1]],
                start_new_session=True,
            )
        except OSError as error:
            for fd in (fd for pipe in pipes for fd in pipe):
                os.close(fd)
            raise CannotRun(f"bash does not start in {cwd}: {error}") from error
        for _, writer in pipes:
            os.close(writer)
        readers = (pipes[0][0], pipes[1][0], pipes[2][0])
        kernel = cls(process, readers, pipes[2][1])
        # What it says of having no terminal is nobody's.
        kernel._told = told = asyncio.Queue()
        report = kernel._report("$?")
        kernel._tell(f"PS1= PS2=; set +o history +H; _cell=0; PROMPT_COMMAND={shlex.quote(report)}; {report}\n")
        try:
            while isinstance(await kernel._next(told), dict):
                pass
        except KernelDied as died:
            raise CannotRun(f"bash did not start: {died}") from died
        kernel._told = None
        return kernel

    async def run(self, cell: Cell) -> AsyncIterator[Event]:
        """See `kernel.Kernel`."""
        self._count += 1
        commands = self._commands(cell)
        self._told = told = asyncio.Queue()
        self._begun.clear()
        yield {"type": "number_of_executions", "execution_count": self._count}
        try:
            self._tell(commands)
            while isinstance(event := await self._next(told), dict):
                yield event
        finally:
            self._told = None
            if self._interrupting is not None:
                self._interrupting.cancel()
                self._interrupting = None
        if event != 0:
            yield {"type": "error", "name": "ExitStatus", "value": str(event), "traceback": f"exit status {event}"}

    def interrupt(self) -> None:
        """See `kernel.Kernel`."""
        if self._told is not None and self._interrupting is None:
            self._interrupting = asyncio.create_task(self._interrupt(self._told))

    def kill(self, why: str) -> None:
        """See `kernel.Kernel`."""
        if not self.ended.done():
            signal_group(self._process.pid, signal.SIGKILL)
            self.ended.set_result(why)

    def said(self, kind: str, text: str) -> None:
        """By the running cell, or what it left in the background."""
        if text and self._told is not None:
            self._told.put_nowait({"type": kind, "text": text, "timestamp": time.time_ns()})

    def _commands(self, cell: Cell) -> str:
        for name in cell.variables:
            if not _NAME.fullmatch(name):
                raise CannotRun(f"{name!r} is no name of a variable in bash")
        if "\0" in cell.code:
            raise CannotRun("bash takes no NUL")
        lines = [f"_cell={self._count}; {self._report(_BEGUN)}"]
        # Those of the sandbox are the shell's own to change until the sandbox's change; bash has no others than these.
        for name in self._known.keys() - cell.sandbox.keys():
            lines.append(f"unset {name}")
        for name, value in cell.sandbox.items():
            if self._known.get(name) != value and _NAME.fullmatch(name):
                lines.append(f"export {name}={shlex.quote(value)}")
        self._known = {name: value for name, value in cell.sandbox.items() if _NAME.fullmatch(name)}
        once = "".join(f"{name}={shlex.quote(value)} " for name, value in cell.variables.items())
        # No alias of an earlier cell is meant.
        lines.append(f"{once}\\eval {shlex.quote(cell.code)} </dev/null")
        lines.append(self._report("$?"))
        # One line: each is followed by a report.
        return "; ".join(lines) + "\n"

    def _report(self, status: str) -> str:
        return f"\\builtin printf '%s %s\\n' \"$_cell\" \"{status}\" >&{self._status_fd}"

    async def _interrupt(self, told: "asyncio.Queue[Event | int]") -> None:
        # Not while bash reads the cell, of which a part would be left.
        await self._begun.wait()
        while self._told is told and not self.ended.done():
            signal_group(self._process.pid, signal.SIGINT)
            await asyncio.sleep(_PATIENCE)

    def _tell(self, commands: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(commands.encode("utf-8", "surrogateescape"))

    async def _next(self, told: "asyncio.Queue[Event | int]") -> Event | int:
        taking = asyncio.ensure_future(told.get())
        try:
            await asyncio.wait([taking, self.ended], return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                raise KernelDied(self.ended.result())
            return taking.result()
        finally:
            taking.cancel()

    def _read_status(self) -> None:
        try:
            chunk = os.read(self._status, _CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            self._close_status()
            return
        self._status_text += chunk
        *lines, self._status_text = self._status_text.split(b"\n")
        for line in lines:
            cell, _, status = line.decode().partition(" ")
            if self._told is None or cell != str(self._count):
                continue
            if status == _BEGUN:
                self._begun.set()
                continue
            for output in self._outputs:
                output.finish()
            self._told.put_nowait(int(status))

    def _close_status(self) -> None:
        if self._status >= 0:
            asyncio.get_running_loop().remove_reader(self._status)
            os.close(self._status)
            self._status = -1

    async def _wait(self) -> None:
        code = await self._process.wait()
        for output in self._outputs:
            output.finish()
        signal_group(self._process.pid, signal.SIGKILL)
        for output in self._outputs:
            output.close()
        self._close_status()
        if not self.ended.done():
            self.ended.set_result(how_it_ended(-code if code < 0 else code << 8))
