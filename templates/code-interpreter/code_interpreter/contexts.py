"""Contexts: each has a kernel of its language and runs one cell at a time, in the order in which they came."""

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

from .kernel import CannotRun, Cell, Event, Kernel, KernelDied

# What starts a kernel in a folder.
Start = Callable[[str], Awaitable[Kernel]]

ALIASES = {"python3": "python", "py": "python", "sh": "bash", "js": "javascript", "ts": "typescript"}

# Events that wait for a slow client, before the kernel does.
_WAITING = 64


class NoSuchContext(Exception):
    """There is no context of that id."""


class Execution:
    """One cell on its way, as its client sees it."""

    def __init__(self, context: "Context", cell: Cell) -> None:
        self._context = context
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(_WAITING)
        self._is_wanted = True
        self._is_running = False
        self._task = asyncio.create_task(self._run(cell))

    async def next(self) -> Event | None:
        """What happened next; none once it is over."""
        return await self._events.get()

    def abandon(self) -> None:
        """Nobody listens any more: what runs is interrupted, what waits for its turn never begins. After the end, nothing."""
        self._is_wanted = False
        # One event may wait for room.
        while not self._events.empty():
            self._events.get_nowait()
        if self._is_running:
            self._context.interrupt()

    async def _tell(self, event: Event | None) -> None:
        if self._is_wanted:
            await self._events.put(event)

    async def _run(self, cell: Cell) -> None:
        try:
            async with self._context.turn:
                if self._is_wanted:
                    await self._run_now(cell)
        except CannotRun as error:
            await self._tell(_error("CannotRun", str(error)))
        finally:
            await self._tell(None)

    async def _run_now(self, cell: Cell) -> None:
        kernel = await self._context.kernel()
        self._is_running = True
        try:
            # It may have gone away while the kernel started.
            if not self._is_wanted:
                return
            async with contextlib.aclosing(kernel.run(cell)) as events:
                async for event in events:
                    await self._tell(event)
        except KernelDied as died:
            text = f"{died}; a new kernel takes its place, and what it knew is gone"
            await self._tell(_error("KernelDied", text))
        finally:
            self._is_running = False


def _error(name: str, value: str) -> Event:
    return {"type": "error", "name": name, "value": value, "traceback": f"{name}: {value}"}


class Context:
    """A language, a folder, and a kernel that is replaced when it dies."""

    def __init__(self, language: str, cwd: str, start: Start) -> None:
        self.id = str(uuid.uuid4())
        self.language = language
        self.cwd = cwd
        # Held by the execution that runs.
        self.turn = asyncio.Lock()
        self._start = start
        self._starting = asyncio.Lock()
        self._kernel: Kernel | None = None
        self._is_removed = False
        self._replacing: asyncio.Task[None] | None = None

    async def kernel(self) -> Kernel:
        """The one that lives; a new one if none does."""
        async with self._starting:
            if self._is_removed:
                raise CannotRun("the context was removed")
            if self._kernel is None or self._kernel.ended.done():
                self._kernel = await self._start(self.cwd)
                self._kernel.ended.add_done_callback(self._replace)
            return self._kernel

    def interrupt(self) -> None:
        """What runs."""
        if self._kernel is not None:
            self._kernel.interrupt()

    async def restart(self) -> None:
        """A new kernel, that knows nothing; what runs in the old one ends."""
        if self._kernel is not None:
            self._kernel.kill("the context was restarted")
        await self.kernel()

    def remove(self) -> None:
        """The kernel ends, and no other follows."""
        self._is_removed = True
        if self._kernel is not None:
            self._kernel.kill("the context was removed")

    def _replace(self, _ended: asyncio.Future[str]) -> None:
        """At once, so that the next cell need not wait. If that fails, the next cell is told why."""

        async def replace() -> None:
            with contextlib.suppress(CannotRun, KernelDied):
                await self.kernel()

        if not self._is_removed:
            self._replacing = asyncio.create_task(replace())


class Contexts:
    """All of them, in the order in which they were made."""

    def __init__(self, languages: dict[str, Start], home: str) -> None:
        self._languages = languages
        self._home = home
        self._all: dict[str, Context] = {}
        # By language: the one for cells that name none.
        self._defaults: dict[str, Context] = {}

    def list(self) -> list[Context]:
        """All."""
        return list(self._all.values())

    def get(self, id: str) -> Context:
        """By id."""
        context = self._all.get(id)
        if context is None:
            raise NoSuchContext(f"there is no context {id}")
        return context

    def default(self, language: str | None) -> Context:
        """The language's own; made when it is first used."""
        language = self._known(language)
        context = self._defaults.get(language)
        if context is None:
            context = self._add(language, self._home)
            self._defaults[language] = context
        return context

    async def create(self, language: str | None, cwd: str | None) -> Context:
        """One more, ready to run. A folder that is missing is made."""
        language = self._known(language)
        cwd = os.path.join(self._home, cwd or "")
        try:
            os.makedirs(cwd, exist_ok=True)
        except OSError as error:
            raise CannotRun(f"{cwd} is no folder, and cannot be made: {error.strerror}") from error
        context = self._add(language, os.path.normpath(cwd))
        try:
            await context.kernel()
        except BaseException:
            self.remove(context.id)
            raise
        return context

    def remove(self, id: str) -> None:
        """It and its kernel. A language's default is made anew when it is used again."""
        context = self.get(id)
        del self._all[id]
        if self._defaults.get(context.language) is context:
            del self._defaults[context.language]
        context.remove()

    def _add(self, language: str, cwd: str) -> Context:
        context = Context(language, cwd, self._languages[language])
        self._all[context.id] = context
        return context

    def _known(self, language: str | None) -> str:
        name = (language or "python").lower()
        name = ALIASES.get(name, name)
        if name not in self._languages:
            raise CannotRun(f"{name} is not spoken here, but {' and '.join(self._languages)}")
        return name


async def events(execution: Execution, keepalive: float) -> AsyncIterator[Event]:
    """An execution's, and a sign of life whenever there was none for a while."""
    waiting: asyncio.Future[Event | None] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(execution.next())
            await asyncio.wait([waiting], timeout=keepalive)
            if not waiting.done():
                yield {"type": "keepalive"}
                continue
            event, waiting = waiting.result(), None
            if event is None:
                yield {"type": "end_of_execution"}
                return
            yield event
    finally:
        if waiting is not None:
            waiting.cancel()
        execution.abandon()
