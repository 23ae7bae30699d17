"""`sandbox.commands` without input: run, callbacks, exit codes, environment, users, time-outs, amounts."""

import asyncio

import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    InvalidArgumentException,
    TimeoutException,
)
from flavours import Collected, follow, gone


async def test_output_and_exit_code(sandbox):
    result = await sandbox.commands.run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code, result.error) == ("out\n", "err\n", 0, None)


async def test_output_is_told_as_it_comes(sandbox):
    out, err = Collected(), Collected()
    result = await sandbox.commands.run(
        "echo one; echo two >&2; echo three", on_stdout=out.add, on_stderr=err.add
    )
    assert "".join(await out.until(lambda chunks: "three" in "".join(chunks))) == result.stdout
    assert "".join(await err.until(bool)) == "two\n"


async def test_callbacks_do_not_wait_for_the_end(sandbox, folder):
    process = await follow(sandbox, f"echo first; while [ ! -e {folder}/go ]; do sleep 0.05; done; echo second")
    await process.said("first")
    await sandbox.files.write(f"{folder}/go", "")
    assert (await process.end()).stdout == "first\nsecond\n"


@pytest.mark.parametrize("code", [1, 2, 127, 255])
async def test_a_failure_raises_with_everything_that_is_known(sandbox, code):
    with pytest.raises(CommandExitException) as raised:
        await sandbox.commands.run(f"echo out; echo err >&2; exit {code}")
    failure = raised.value
    assert (failure.exit_code, failure.stdout, failure.stderr) == (code, "out\n", "err\n")
    assert failure.error == f"exit status {code}"


async def test_a_command_that_is_not_there(sandbox):
    with pytest.raises(CommandExitException) as raised:
        await sandbox.commands.run("no-such-command")
    assert raised.value.exit_code == 127
    assert "not found" in raised.value.stderr


async def test_a_process_that_ends_itself_by_a_signal(sandbox):
    with pytest.raises(CommandExitException) as raised:
        await sandbox.commands.run("kill -SEGV $$")
    assert (raised.value.exit_code, raised.value.error) == (-1, "signal: segmentation fault")


async def test_output_need_not_be_kept(sandbox):
    out = Collected()
    result = await sandbox.commands.run("echo out", on_stdout=out.add, retain_output=False)
    assert (result.stdout, result.stderr, result.exit_code) == (None, None, 0)
    assert await out.until(bool) == ["out\n"]


async def test_a_command_starts_in_the_home_of_the_default_user(sandbox):
    result = await sandbox.commands.run('whoami; pwd; echo "$HOME $USER $LOGNAME"; id -Gn; umask')
    assert result.stdout.splitlines() == [
        "user",
        "/home/user",
        "/home/user user user",
        "user crew",
        "0022",
    ]


async def test_another_user(sandbox):
    result = await sandbox.commands.run('whoami; pwd; echo "$HOME"; id -Gn', user="root")
    assert result.stdout.splitlines() == ["root", "/root", "/root", "root"]


async def test_a_user_that_does_not_exist(sandbox):
    with pytest.raises(AuthenticationException, match="invalid username: 'nobody-here'"):
        await sandbox.commands.run("true", user="nobody-here")


async def test_environment(sandbox):
    envs = {"PLAIN": "1", "SPACES": "a b  c", "QUOTES": "'\"$HOME`", "UMLAUT": "Ünïcødé ✓", "EMPTY": ""}
    result = await sandbox.commands.run(
        r'printf "%s|" "$PLAIN" "$SPACES" "$QUOTES" "$UMLAUT" "${EMPTY-unset}"', envs=envs
    )
    assert result.stdout.split("|")[:-1] == list(envs.values())


async def test_the_sandboxes_own_variables(sandbox):
    command = 'echo "$FOR_EVERYBODY"'
    assert (await sandbox.commands.run(command)).stdout == "from the sandbox\n"
    assert (await sandbox.commands.run(command, user="root")).stdout == "from the sandbox\n"
    # Whoever asks for another value gets it, for that command.
    assert (await sandbox.commands.run(command, envs={"FOR_EVERYBODY": "mine"})).stdout == "mine\n"


async def test_the_agents_environment_stays_its_own(sandbox):
    names = {line.split("=")[0] for line in (await sandbox.commands.run("env")).stdout.splitlines()}
    # SHLVL, PWD and _ are the shell's.
    assert names <= {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "FOR_EVERYBODY", "SHLVL", "PWD", "OLDPWD", "_"}


async def test_working_folder(sandbox, folder):
    assert (await sandbox.commands.run("pwd", cwd="/usr")).stdout == "/usr\n"
    assert (await sandbox.commands.run("pwd", cwd=folder.rsplit("/")[-1])).stdout == f"{folder}\n"


async def test_a_working_folder_that_does_not_exist(sandbox):
    with pytest.raises(InvalidArgumentException, match="cwd '/no/such/folder' does not exist"):
        await sandbox.commands.run("true", cwd="/no/such/folder")


async def test_a_command_over_several_lines_with_every_kind_of_quote(sandbox):
    script = "cat <<'END'\nit's \"$quoted\" \\ `as` is\nEND\nfor i in 1 2 3; do\n  echo $i\ndone"
    assert (await sandbox.commands.run(script)).stdout == "it's \"$quoted\" \\ `as` is\n1\n2\n3\n"


async def test_time_over(sandbox, folder):
    with pytest.raises(TimeoutException):
        await sandbox.commands.run(f"echo $$ > {folder}/pid; exec sleep 1000", timeout=15)
    pid = (await sandbox.files.read(f"{folder}/pid")).strip()
    # The time belongs to the command: it does not outlive it.
    await gone(sandbox, int(pid))
    with pytest.raises(CommandExitException):
        await sandbox.commands.run(f"kill -0 {pid}", user="root")


async def test_no_limit_of_time(sandbox):
    assert (await sandbox.commands.run("echo done", timeout=0)).stdout == "done\n"


async def test_much_output(sandbox):
    megabytes = 10
    result = await sandbox.commands.run(f"head -c {megabytes}000000 /dev/zero | tr '\\0' x; echo; echo end >&2")
    assert len(result.stdout) == megabytes * 1_000_000 + 1
    assert result.stdout.strip("x") == "\n"
    assert result.stderr == "end\n"


async def test_characters_survive_where_the_output_is_cut(sandbox):
    # Three bytes each, so that no power of two is a multiple of them.
    count = 200_000
    result = await sandbox.commands.run(f"yes '✓' | head -n {count} | tr -d '\\n'")
    assert result.stdout == "✓" * count


async def test_a_character_that_comes_in_two_parts(sandbox, folder):
    process = await follow(
        sandbox,
        f"printf 'a\\xe2\\x9c'; touch {folder}/half; while [ ! -e {folder}/go ]; do sleep 0.05; done; printf '\\x93b'",
    )
    await process.said("a")
    await sandbox.files.write(f"{folder}/go", "")
    assert (await process.end()).stdout == "a✓b"


async def test_bytes_that_are_no_text(sandbox):
    result = await sandbox.commands.run(r"printf 'a\xff\xfeb\0c'")
    assert result.stdout == "a\ufffd\ufffdb\0c"


async def test_twenty_at_once(sandbox):
    async def one(number: int) -> str:
        return (await sandbox.commands.run(f"echo {number}; sleep 0.2; echo {number} >&2")).stdout

    outputs = await asyncio.gather(*(one(number) for number in range(20)))
    assert outputs == [f"{number}\n" for number in range(20)]


async def test_many_one_after_another(sandbox):
    for number in range(30):
        assert (await sandbox.commands.run(f"echo {number}")).stdout == f"{number}\n"
