"""One set of tests for both flavours of the SDK, and ways to wait for what a sandbox sends.

The tests are written for `AsyncSandbox`. `InThreads` gives a `Sandbox` the same shape.
"""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

from e2b import AsyncSandbox, ConnectionConfig, FilesystemEvent, FilesystemEventType, PtySize, Sandbox
from packaging.version import Version
from threads import THREADS, InThreads

TOKEN = os.environ["ACCESS_TOKEN"]
# Of everything that is waited for. A loaded machine must not fail a test.
PATIENCE = 120

def attach(flavour: type, token: str = TOKEN) -> Any:
    """What `create()` makes of the control plane's answer, for a sandbox that has no control plane. In debug mode `create()`
    itself knows no token, and the agent serves nobody without one."""
    config = ConnectionConfig(extra_sandbox_headers={"X-Access-Token": token})
    sandbox = flavour(
        sandbox_id="debug_sandbox_id",
        sandbox_domain=None,
        envd_version=Version(os.environ["ENVD_VERSION"]),
        envd_access_token=token,
        traffic_access_token=None,
        connection_config=config,
    )
    return sandbox if flavour is AsyncSandbox else InThreads(sandbox)


def is_sync(sandbox: Any) -> bool:
    return isinstance(sandbox, InThreads)


class Collected:
    """What has come so far, from whatever thread."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def add(self, item: Any) -> None:
        self._loop.call_soon_threadsafe(self._take, item)

    def _take(self, item: Any) -> None:
        self.items.append(item)
        self._changed.set()

    async def until(self, enough: Callable[[list[Any]], bool]) -> list[Any]:
        try:
            async with asyncio.timeout(PATIENCE):
                while not enough(self.items):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"what was waited for did not come; this came: {self.items!r}") from None
        return self.items


class Followed:
    """A process in the background whose output is collected while it runs."""

    def __init__(self) -> None:
        self.stdout = Collected()
        self.stderr = Collected()
        self.pty = Collected()
        self.handle: Any = None
        self._end: asyncio.Task[Any] | None = None

    @property
    def pid(self) -> int:
        return self.handle.pid

    async def said(self, text: str) -> None:
        await self.stdout.until(lambda chunks: text in "".join(chunks))

    async def showed(self, text: str) -> None:
        await self.pty.until(lambda chunks: text.encode() in b"".join(chunks))

    async def end(self) -> Any:
        """The result; raises what `wait()` raises."""
        return await self._end

    def _follow(self, sandbox: Any) -> None:
        if is_sync(sandbox):
            waiting = self.handle.wait(
                on_stdout=self.stdout.add, on_stderr=self.stderr.add, on_pty=self.pty.add
            )
        else:
            waiting = self.handle.wait()
        self._end = asyncio.create_task(waiting)
        # Who kills a process need not look at how it ended.
        self._end.add_done_callback(lambda task: task.cancelled() or task.exception())


async def follow(sandbox: Any, command: str, **options: Any) -> Followed:
    """Starts a command in the background."""
    followed = Followed()
    followed.handle = await sandbox.commands.run(
        command, background=True, **_callbacks(sandbox, followed), **options
    )
    followed._follow(sandbox)
    return followed


async def follow_again(sandbox: Any, pid: int, **options: Any) -> Followed:
    """Connects to a command that runs."""
    followed = Followed()
    followed.handle = await sandbox.commands.connect(pid, **_callbacks(sandbox, followed), **options)
    followed._follow(sandbox)
    return followed


def _callbacks(sandbox: Any, followed: Followed) -> dict[str, Any]:
    # The synchronous flavour hands output to whoever waits.
    if is_sync(sandbox):
        return {}
    return {"on_stdout": followed.stdout.add, "on_stderr": followed.stderr.add}


async def terminal(sandbox: Any, rows: int = 24, cols: int = 80, **options: Any) -> Followed:
    """Opens a PTY."""
    followed = Followed()
    on_data = {} if is_sync(sandbox) else {"on_data": followed.pty.add}
    followed.handle = await sandbox.pty.create(PtySize(rows=rows, cols=cols), **on_data, **options)
    followed._follow(sandbox)
    return followed


async def terminal_again(sandbox: Any, pid: int) -> Followed:
    """Connects to a PTY that is open."""
    followed = Followed()
    on_data = {} if is_sync(sandbox) else {"on_data": followed.pty.add}
    followed.handle = await sandbox.pty.connect(pid, **on_data)
    followed._follow(sandbox)
    return followed


class Watched:
    """A folder under watch: polled in the synchronous flavour, streamed in the other."""

    LAST = "the-last-event"

    def __init__(self, sandbox: Any, folder: str) -> None:
        self._sandbox = sandbox
        self._folder = folder
        self._events = Collected()
        self.exits = Collected()
        self.handle: Any = None

    async def until(self, enough: Callable[[list[FilesystemEvent]], bool]) -> list[FilesystemEvent]:
        if not is_sync(self._sandbox):
            return await self._events.until(enough)
        deadline = time.monotonic() + PATIENCE
        while not enough(self._events.items):
            new = await self.handle.get_new_events()
            self._events.items.extend(new)
            assert new or time.monotonic() < deadline, f"only these events came: {self._events.items!r}"
        return self._events.items

    async def events(self) -> list[FilesystemEvent]:
        """Every event so far: those that come before one that this call causes."""
        await self._sandbox.files.make_dir(f"{self._folder}/{self.LAST}")

        def is_last(event: FilesystemEvent) -> bool:
            return (event.name, event.type) == (self.LAST, FilesystemEventType.CREATE)

        events = await self.until(lambda events: any(map(is_last, events)))
        return events[: [is_last(event) for event in events].index(True)]

    async def seen(self) -> list[tuple[str, str]]:
        """As `events`, in short."""
        return [(event.type.value, event.name) for event in await self.events()]


async def watch(sandbox: Any, folder: str, **options: Any) -> Watched:
    watched = Watched(sandbox, folder)
    if not is_sync(sandbox):
        options |= {"on_event": watched._events.add, "on_exit": watched.exits.add}
    watched.handle = await sandbox.files.watch_dir(folder, **options)
    return watched


async def whole(stream: Any) -> bytes:
    """All of a file that is read as a stream."""
    if hasattr(stream, "__aiter__"):
        return b"".join([chunk async for chunk in stream])
    return await asyncio.get_running_loop().run_in_executor(THREADS, lambda: b"".join(stream))


async def gone(sandbox: Any, pid: int) -> None:
    """Waits until the agent no longer lists a process."""
    async with asyncio.timeout(PATIENCE):
        while any(process.pid == pid for process in await sandbox.commands.list()):
            await asyncio.sleep(0)
