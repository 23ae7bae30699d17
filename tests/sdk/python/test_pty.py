"""`sandbox.pty`: a real shell in a real terminal."""

import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    TimeoutException,
)
from flavours import gone, is_sync, terminal, terminal_again

NO_SUCH_PID = 4_000_000


async def test_a_shell_that_answers_and_ends(sandbox):
    pty = await terminal(sandbox)
    # What is typed is shown, too: only the answer has the sum.
    await sandbox.pty.send_stdin(pty.pid, b"echo sum=$((40 + 2)); tty; exit 0\n")
    await pty.showed("sum=42\r\n")
    await pty.showed("/dev/pts/")
    assert (await pty.end()).exit_code == 0


async def test_its_exit_code(sandbox):
    pty = await terminal(sandbox)
    await sandbox.pty.send_stdin(pty.pid, b"exit 5\n")
    with pytest.raises(CommandExitException) as raised:
        await pty.end()
    assert raised.value.exit_code == 5


async def test_its_environment(sandbox):
    pty = await terminal(sandbox, envs={"MINE": "yes it is"}, cwd="/usr")
    await sandbox.pty.send_stdin(pty.pid, b'echo "[$TERM|$LANG|$LC_ALL|$MINE|$PWD|$(whoami)]"; exit\n')
    await pty.showed("[xterm-256color|C.UTF-8|C.UTF-8|yes it is|/usr|user]\r\n")
    await pty.end()


async def test_another_user(sandbox):
    pty = await terminal(sandbox, user="root")
    await sandbox.pty.send_stdin(pty.pid, b'echo "[$(whoami) $(pwd)]"; exit\n')
    await pty.showed("[root /root]\r\n")
    await pty.end()


async def test_size_and_resize(sandbox):
    pty = await terminal(sandbox, rows=30, cols=100)
    await sandbox.pty.send_stdin(pty.pid, b"echo size=$(stty size)\n")
    await pty.showed("size=30 100\r\n")
    await sandbox.pty.resize(pty.pid, PtySize(rows=50, cols=132))
    await sandbox.pty.send_stdin(pty.pid, b"echo size=$(stty size); exit\n")
    await pty.showed("size=50 132\r\n")
    await pty.end()


async def test_a_resize_is_told_to_what_runs(sandbox):
    pty = await terminal(sandbox)
    await sandbox.pty.send_stdin(
        pty.pid, b"bash -c 'trap \"echo winch=$((1+1)); exit\" WINCH; echo rea\"\"dy; while :; do sleep 0.1; done'\n"
    )
    await pty.showed("ready\r\n")
    await sandbox.pty.resize(pty.pid, PtySize(rows=10, cols=40))
    await pty.showed("winch=2\r\n")
    await sandbox.pty.kill(pty.pid)


async def test_control_c_interrupts_what_runs(sandbox):
    pty = await terminal(sandbox)
    # Said by what is to be interrupted: until it is in the foreground, the shell would take the interrupt.
    await sandbox.pty.send_stdin(pty.pid, b"bash -c 'echo sleep\"\"ing; exec sleep 1000'\n")
    await pty.showed("sleeping\r\n")
    await sandbox.pty.send_stdin(pty.pid, b"\x03")
    await sandbox.pty.send_stdin(pty.pid, b"echo status=$?; exit 0\n")
    await pty.showed("status=130\r\n")
    assert (await pty.end()).exit_code == 0


async def test_kill(sandbox):
    pty = await terminal(sandbox)
    assert await sandbox.pty.kill(pty.pid) is True
    with pytest.raises(CommandExitException) as raised:
        await pty.end()
    assert raised.value.error == "signal: killed"
    await gone(sandbox, pty.pid)
    assert await sandbox.pty.kill(pty.pid) is False


async def test_kill_by_handle(sandbox):
    pty = await terminal(sandbox)
    assert await pty.handle.kill() is True
    with pytest.raises(CommandExitException):
        await pty.end()


async def test_it_is_among_the_commands(sandbox):
    pty = await terminal(sandbox)
    listed = [info for info in await sandbox.commands.list() if info.pid == pty.pid]
    assert [(info.cmd, info.args) for info in listed] == [("/bin/bash", ["-i", "-l"])]
    await pty.handle.kill()


async def test_connecting_again(sandbox):
    first = await terminal(sandbox)
    second = await terminal_again(sandbox, first.pid)
    await sandbox.pty.send_stdin(first.pid, b"echo both=$((6 * 7)); exit\n")
    await first.showed("both=42\r\n")
    await second.showed("both=42\r\n")
    assert (await first.end()).exit_code == (await second.end()).exit_code == 0


async def test_who_leaves_does_not_end_it(sandbox):
    on_data = {} if is_sync(sandbox) else {"on_data": lambda data: None}
    handle = await sandbox.pty.create(PtySize(rows=24, cols=80), **on_data)
    await handle.disconnect()
    again = await terminal_again(sandbox, handle.pid)
    await sandbox.pty.send_stdin(handle.pid, b"echo still=$((6 * 7)); exit\n")
    await again.showed("still=42\r\n")
    await again.end()


async def test_input_as_a_stream(sandbox):
    pty = await terminal(sandbox)
    lines = [f"echo n=$(({number} * 2))\n" for number in range(10)] + ["exit\n"]
    if is_sync(sandbox):
        await sandbox.pty.stream_input(pty.pid, lines)
    else:
        async with sandbox.pty.stream_input(pty.pid) as stream:
            for line in lines:
                await stream.send(line)
    await pty.showed("n=18\r\n")
    await pty.end()


async def test_output_that_is_no_text_arrives_as_it_is(sandbox):
    pty = await terminal(sandbox)
    await sandbox.pty.send_stdin(pty.pid, b"stty -echo -onlcr; printf 'in:\\xff\\x00\\xfe:out'; exit\n")
    await pty.pty.until(lambda chunks: b"in:\xff\x00\xfe:out" in b"".join(chunks))
    await pty.end()


async def test_time_over(sandbox):
    pty = await terminal(sandbox, timeout=3)
    with pytest.raises(TimeoutException):
        await pty.end()
    await gone(sandbox, pty.pid)


async def test_what_cannot_be(sandbox):
    with pytest.raises(AuthenticationException, match="invalid username: 'nobody-here'"):
        await terminal(sandbox, user="nobody-here")
    with pytest.raises(InvalidArgumentException, match="does not exist"):
        await terminal(sandbox, cwd="/no/such/folder")
    with pytest.raises(NotFoundException):
        await sandbox.pty.send_stdin(NO_SUCH_PID, b"text")
    with pytest.raises(NotFoundException):
        await sandbox.pty.resize(NO_SUCH_PID, PtySize(rows=1, cols=1))
    with pytest.raises(NotFoundException):
        await terminal_again(sandbox, NO_SUCH_PID)
    assert await sandbox.pty.kill(NO_SUCH_PID) is False
