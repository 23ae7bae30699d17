"""bash's kernel: one bash for all cells of a context, which is told what to evaluate and says when it has.

It is an interactive one, since that goes on with the next command after an interrupt, but has neither terminal nor prompt: commands come
by its input, which cells never see. That a cell is over is also what it says instead of a prompt, so it is said after an interrupt, too;
what is said twice is heard once.
"""

import asyncio
import re
import shlex

from .kernel import CannotRun, Cell, Ends, Kernel, Process, as_waited, how_it_ended

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class BashKernel(Kernel):
    """See `kernel.Kernel`."""

    # bash takes one for its child's alone where it comes at the wrong moment.
    interrupts_every = 0.3

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, str] = {}

    @classmethod
    async def in_folder(cls, cwd: str) -> "BashKernel":
        """A new one."""

        async def launch(ends: Ends) -> Process:
            try:
                process = await asyncio.create_subprocess_exec(
                    *("bash", "--norc", "--noprofile", "--noediting", "-i"),
                    cwd=cwd,
                    stdin=ends.control,
                    stdout=ends.out,
                    stderr=ends.err,
                    pass_fds=[ends.out, ends.err, ends.control],
                    start_new_session=True,
                )
            except OSError as error:
                raise CannotRun(f"bash does not start in {cwd}: {error}") from error
            return Process(process.pid, asyncio.create_task(_ended(process)))

        return await cls.start(launch)

    def _greeting(self) -> bytes:
        over = self._report("over", "$?")
        return f"PS1= PS2=; set +o history +H; _cell=0; PROMPT_COMMAND={shlex.quote(over)}; {over}\n".encode()

    def _request(self, number: int, cell: Cell) -> bytes:
        for name in cell.variables:
            if not _NAME.fullmatch(name):
                raise CannotRun(f"{name!r} is no name of a variable in bash")
        if "\0" in cell.code:
            raise CannotRun("bash takes no NUL")
        # An earlier cell may have closed or moved its outputs.
        lines = [f"_cell={number}; \\exec >&{self.ends.out} 2>&{self.ends.err}; {self._report('begun', 'true')}"]
        # Those of the sandbox are the shell's own to change until the sandbox's change; bash has no others than these.
        for name in self._known.keys() - cell.sandbox.keys():
            lines.append(f"unset {name}")
        sandbox = {name: value for name, value in cell.sandbox.items() if _NAME.fullmatch(name)}
        lines += [f"export {name}={shlex.quote(value)}" for name, value in sandbox.items() if self._known.get(name) != value]
        self._known = sandbox
        once = "".join(f"{name}={shlex.quote(value)} " for name, value in cell.variables.items())
        # No alias of an earlier cell is meant.
        lines.append(f"{once}\\eval {shlex.quote(cell.code)} </dev/null")
        lines.append(self._report("over", "$?"))
        # One line: each is followed by a report.
        return ("; ".join(lines) + "\n").encode("utf-8", "surrogateescape")

    def _report(self, what: str, value: str) -> str:
        said = f'{{"cell":%s,"{what}":%s}}\\n'
        return f"\\builtin printf '{said}' \"$_cell\" \"{value}\" >&{self.ends.control}"


async def _ended(process: asyncio.subprocess.Process) -> str:
    return how_it_ended(as_waited(await process.wait()))
