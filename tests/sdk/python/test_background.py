"""Commands in the background: list, kill, connect, disconnect, standard input."""

import asyncio
import hashlib

import pytest
from e2b import (
    CommandExitException,
    NotFoundException,
    SandboxException,
    TimeoutException,
)
from flavours import follow, follow_again, gone, is_sync

NO_SUCH_PID = 4_000_000


async def test_a_handle_comes_before_the_end(sandbox):
    process = await follow(sandbox, "echo up; exec sleep 1000")
    await process.said("up")
    assert process.pid > 0
    assert await process.handle.kill() is True
    with pytest.raises(CommandExitException) as raised:
        await process.end()
    assert (raised.value.exit_code, raised.value.error) == (-1, "signal: killed")


async def test_list_tells_what_runs(sandbox, folder):
    process = await follow(sandbox, "exec sleep 1000", envs={"A": "1"}, cwd=folder)
    listed = [info for info in await sandbox.commands.list() if info.pid == process.pid]
    assert len(listed) == 1
    info = listed[0]
    assert (info.cmd, info.args) == ("/bin/bash", ["-l", "-c", "exec sleep 1000"])
    assert (info.envs, info.cwd, info.tag) == ({"A": "1"}, folder, None)
    await process.handle.kill()
    await gone(sandbox, process.pid)


async def test_kill_by_pid(sandbox):
    process = await follow(sandbox, "exec sleep 1000")
    assert await sandbox.commands.kill(process.pid) is True
    with pytest.raises(CommandExitException):
        await process.end()
    await gone(sandbox, process.pid)
    assert await sandbox.commands.kill(process.pid) is False


async def test_nothing_to_kill(sandbox):
    assert await sandbox.commands.kill(NO_SUCH_PID) is False


async def test_a_process_that_ignores_the_polite_signal_is_killed(sandbox):
    process = await follow(sandbox, "trap '' TERM; echo up; while :; do sleep 0.1; done")
    await process.said("up")
    assert await process.handle.kill() is True
    with pytest.raises(CommandExitException):
        await process.end()


async def test_who_leaves_does_not_end_it(sandbox):
    handle = await sandbox.commands.run("read line; echo got $line", background=True, stdin=True)
    await handle.disconnect()
    assert any(info.pid == handle.pid for info in await sandbox.commands.list())

    again = await follow_again(sandbox, handle.pid)
    assert again.pid == handle.pid
    await sandbox.commands.send_stdin(handle.pid, "hello\n")
    assert (await again.end()).stdout.endswith("got hello\n")


async def test_several_followers_see_the_same(sandbox):
    first = await follow(sandbox, "read line; echo got $line; exit 3", stdin=True)
    others = [await follow_again(sandbox, first.pid) for _ in range(3)]
    await first.handle.send_stdin("x\n")
    for follower in [first, *others]:
        with pytest.raises(CommandExitException) as raised:
            await follower.end()
        assert (raised.value.exit_code, raised.value.stdout) == (3, "got x\n")


async def test_an_exit_can_be_learnt_afterwards(sandbox):
    process = await follow(sandbox, "exit 7")
    with pytest.raises(CommandExitException):
        await process.end()
    again = await follow_again(sandbox, process.pid)
    with pytest.raises(CommandExitException) as raised:
        await again.end()
    assert raised.value.exit_code == 7


async def test_a_connections_time_is_not_the_commands(sandbox):
    process = await follow(sandbox, "exec sleep 1000", timeout=0)
    # On a busy machine the time may be over before the connection is there: that is told the same way.
    with pytest.raises(TimeoutException):
        brief = await follow_again(sandbox, process.pid, timeout=5)
        await brief.end()
    assert any(info.pid == process.pid for info in await sandbox.commands.list())
    await process.handle.kill()


async def test_nothing_to_connect_to(sandbox):
    with pytest.raises(NotFoundException, match=f"process with pid {NO_SUCH_PID} not found"):
        await sandbox.commands.connect(NO_SUCH_PID)


async def test_input_line_by_line(sandbox):
    process = await follow(sandbox, 'while read -r line; do echo "<$line>"; done; echo over', stdin=True)
    await process.handle.send_stdin("one\n")
    await process.said("<one>\n")
    await sandbox.commands.send_stdin(process.pid, b"two \xc3\xbc\n")
    await process.said("<two ü>\n")
    await process.handle.close_stdin()
    assert (await process.end()).stdout == "<one>\n<two ü>\nover\n"


async def test_closing_by_pid(sandbox):
    process = await follow(sandbox, "cat", stdin=True)
    await sandbox.commands.send_stdin(process.pid, "text")
    await sandbox.commands.close_stdin(process.pid)
    assert (await process.end()).stdout == "text"


async def test_without_input_there_is_none(sandbox):
    # It must not wait for a terminal that is not there.
    assert (await sandbox.commands.run("cat; echo end")).stdout == "end\n"


async def test_input_for_one_that_takes_none(sandbox):
    process = await follow(sandbox, "exec sleep 1000")
    with pytest.raises(SandboxException):
        await process.handle.send_stdin("text")
    await process.handle.kill()


async def test_input_for_nobody(sandbox):
    with pytest.raises(NotFoundException):
        await sandbox.commands.send_stdin(NO_SUCH_PID, "text")
    with pytest.raises(NotFoundException):
        await sandbox.commands.close_stdin(NO_SUCH_PID)


async def test_much_input(sandbox):
    process = await follow(sandbox, "sha256sum; echo", stdin=True)
    block = bytes(range(256)) * 2048
    for _ in range(8):
        await process.handle.send_stdin(block)
    await process.handle.close_stdin()
    assert (await process.end()).stdout.split()[0] == hashlib.sha256(block * 8).hexdigest()


async def test_input_as_a_stream(sandbox):
    process = await follow(sandbox, "wc -c", stdin=True)
    chunks = ["text", b"\x00\xff", "ü"] * 1000
    if is_sync(sandbox):
        await sandbox.commands.stream_input(process.pid, chunks)
    else:
        async with sandbox.commands.stream_input(process.pid) as stream:
            for chunk in chunks:
                await stream.send(chunk)
    await process.handle.close_stdin()
    assert int((await process.end()).stdout) == 8 * 1000


async def test_a_stream_of_input_for_nobody(sandbox):
    async def send() -> None:
        if is_sync(sandbox):
            await sandbox.commands.stream_input(NO_SUCH_PID, ["text"])
        else:
            async with sandbox.commands.stream_input(NO_SUCH_PID) as stream:
                await stream.send("text")

    with pytest.raises(NotFoundException):
        await send()


async def test_twenty_in_the_background_at_once(sandbox):
    processes = await asyncio.gather(
        *(follow(sandbox, "read line; echo $line", stdin=True) for _ in range(20))
    )
    assert len({process.pid for process in processes}) == 20
    await asyncio.gather(
        *(process.handle.send_stdin(f"{number}\n") for number, process in enumerate(processes))
    )
    results = await asyncio.gather(*(process.end() for process in processes))
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(20)]


async def test_what_a_command_leaves_behind_does_not_hold_it_up(sandbox):
    result = await sandbox.commands.run("setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo left")
    assert result.stdout == "left\n"
