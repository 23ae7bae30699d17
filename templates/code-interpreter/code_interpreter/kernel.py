"""What a kernel is: a process that runs the cells of one context and keeps its state between them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

# What is told of an execution, as it is written: {"type": ..., ...}.
Event = dict[str, Any]


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


class Kernel(Protocol):
    """A running kernel."""

    # Done once the process is gone: why.
    ended: asyncio.Future[str]

    def run(self, cell: Cell) -> AsyncIterator[Event]:
        """Runs a cell, after the one before it has ended. `KernelDied` when the process goes away."""
        ...

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        ...

    def kill(self, why: str) -> None:
        """Ends the process and what it has started; `ended` follows."""
        ...


def signal_group(pid: int, number: int) -> None:
    """To a kernel and what it has started: each is the leader of a group."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


def how_it_ended(status: int) -> str:
    """Of a status as `waitpid` has it."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"killed by {signal.Signals(number).name if number in set(signal.Signals) else f'signal {number}'}"
    return f"it ended with exit code {os.WEXITSTATUS(status)}"
