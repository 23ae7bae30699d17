"""A program of a year ago, with the SDK of its time: what it asks is older (`POST /sandboxes`, `POST /sandboxes/{id}/connect`), and so are its ways
to pause. Needs real guests."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from e2b import AsyncSandbox, CommandExitException, NotFoundException, PtySize, Sandbox, SandboxException, SandboxQuery, SandboxState
from threads import InThreads

# One for all: the SDK keeps its connections, which belong to a loop.
LOOP = asyncio.Runner()
BOOT_ID = "/proc/sys/kernel/random/boot_id"
FLAVOURS = pytest.mark.parametrize("kind", [InThreads(Sandbox), AsyncSandbox], ids=["sync", "async"])


async def settled(value: Any) -> Any:
    """What one flavour answers at once, and the other when it is awaited."""
    return await value if asyncio.iscoroutine(value) else value


async def until(look: Callable[[], Any]) -> Any:
    async with asyncio.timeout(120):
        while not (found := await look()):
            await asyncio.sleep(0.2)
    return found


async def listed(kind: Any, **query: Any) -> list[Any]:
    found, paginator = [], await settled(kind.list(query=SandboxQuery(**query), limit=1))
    while paginator.has_next:
        found += await settled(paginator.next_items())
    return found


@FLAVOURS
def test_a_life(kind):
    LOOP.run(a_life(kind))


async def a_life(kind):
    mark = uuid.uuid4().hex
    sandbox = await kind.create(timeout=600, metadata={"mark": mark, "a b": "c&d"}, envs={"FOR": "everybody"})
    try:
        assert await sandbox.is_running()
        info = await sandbox.get_info()
        assert (info.name, info.state, info.metadata) == ("base", SandboxState.RUNNING, {"mark": mark, "a b": "c&d"})
        assert [one.sandbox_id for one in await listed(kind, metadata={"mark": mark, "a b": "c&d"})] == [sandbox.sandbox_id]
        await sandbox.set_timeout(900)
        assert (await sandbox.get_info()).end_at > info.end_at
        await until(sandbox.get_metrics)

        await commands(sandbox)
        await files(sandbox)

        # What runs goes on after a pause, in the same memory.
        boot = await sandbox.files.read(BOOT_ID)
        sleeper = await sandbox.commands.run("sleep 100000", background=True)
        await sandbox.beta_pause()
        assert not await sandbox.is_running()
        assert [one.sandbox_id for one in await listed(kind, metadata={"mark": mark}, state=[SandboxState.PAUSED])] == [sandbox.sandbox_id]
        sandbox = await kind.connect(sandbox.sandbox_id, timeout=600)
        assert await sandbox.files.read(BOOT_ID) == boot
        assert sleeper.pid in [process.pid for process in await sandbox.commands.list()]
        assert await sandbox.commands.kill(sleeper.pid)
    finally:
        assert await sandbox.kill()
    assert not await sandbox.is_running()
    assert not await kind.kill(sandbox.sandbox_id)
    with pytest.raises(NotFoundException):
        await sandbox.get_info()


async def commands(sandbox):
    heard = []
    result = await sandbox.commands.run("echo $FOR; echo oh >&2; whoami; pwd", on_stdout=heard.append)
    assert (result.stdout, result.stderr, result.exit_code) == ("everybody\nuser\n/home/user\n", "oh\n", 0)
    assert "".join(heard) == result.stdout
    assert (await sandbox.commands.run("whoami; echo $MORE", user="root", envs={"MORE": "1"}, cwd="/")).stdout == "root\n1\n"
    with pytest.raises(CommandExitException) as failed:
        await sandbox.commands.run("exit 3")
    assert failed.value.exit_code == 3
    reader = await sandbox.commands.run("head -n 1", background=True, stdin=True)
    again = await sandbox.commands.connect(reader.pid)
    await sandbox.commands.send_stdin(reader.pid, "written\n")
    assert (await again.wait()).exit_code == 0
    assert (await reader.wait()).stdout == "written\n"

    shown = bytearray()
    # The synchronous flavour hands output to whoever waits.
    is_sync = isinstance(sandbox, InThreads)
    terminal = await sandbox.pty.create(PtySize(rows=24, cols=80), **({} if is_sync else {"on_data": shown.extend}))
    await sandbox.pty.resize(terminal.pid, PtySize(rows=30, cols=100))
    await sandbox.pty.send_stdin(terminal.pid, b"stty size; exit 5\n")
    with pytest.raises(CommandExitException) as ended:
        await (terminal.wait(on_pty=shown.extend) if is_sync else terminal.wait())
    assert ended.value.exit_code == 5 and b"30 100" in shown


async def files(sandbox):
    tree, content = sandbox.files, bytes(range(256)) * 1024
    assert await tree.make_dir("work") and not await tree.make_dir("work")
    if isinstance(sandbox, InThreads):
        watch = await tree.watch_dir("work", recursive=True)
        events = watch.get_new_events
    else:
        seen = []

        async def events():
            return seen

        watch = await tree.watch_dir("work", on_event=seen.append, recursive=True)
    await tree.write("work/numbers.txt", "1\n2\n3\n")
    assert "numbers.txt" in [event.name for event in await until(events)]
    await watch.stop()
    assert await tree.read("work/numbers.txt") == "1\n2\n3\n"
    await tree.write_files([{"path": "work/a", "data": content}, {"path": "work/b", "data": "b"}])
    assert bytes(await tree.read("work/a", format="bytes")) == content
    assert sorted(entry.name for entry in await tree.list("work")) == ["a", "b", "numbers.txt"]
    info = await tree.get_info("work/a")
    assert (info.size, info.owner, info.permissions) == (len(content), "user", "-rw-r--r--")
    assert (await tree.rename("work/b", "work/c")).path == "/home/user/work/c"
    await tree.remove("work/c")
    assert not await tree.exists("work/c")
    with pytest.raises(NotFoundException):
        await tree.read("work/c")


@FLAVOURS
def test_a_time_that_is_over(kind):
    LOOP.run(a_time_that_is_over(kind))


async def a_time_that_is_over(kind):
    sandbox = await kind.beta_create(timeout=600, auto_pause=True)
    try:
        await sandbox.set_timeout(1)

        async def is_paused():
            return (await sandbox.get_info()).state == SandboxState.PAUSED

        await until(is_paused)
        with pytest.raises(SandboxException):
            await sandbox.commands.run("true")
        await sandbox.connect(timeout=600)
        assert (await sandbox.commands.run("echo back")).stdout == "back\n"
    finally:
        await sandbox.kill()
