"""Who gets in, and what the sandbox object itself says."""

import pytest
from e2b import AsyncSandbox, AuthenticationException
from flavours import InThreads, attach


async def test_it_runs(sandbox):
    assert await sandbox.is_running()


async def test_without_the_token_nothing_is_served(flavour):
    # What the SDK makes of debug mode by itself.
    created = InThreads(flavour.create()) if flavour is not AsyncSandbox else await flavour.create()
    assert await created.is_running()
    await nothing_is_served_to(created)


async def test_with_a_wrong_token_nothing_is_served(flavour):
    await nothing_is_served_to(attach(flavour, token="0" * 32))


async def nothing_is_served_to(sandbox):
    for refused in (
        lambda: sandbox.commands.run("true"),
        lambda: sandbox.commands.list(),
        lambda: sandbox.commands.kill(1),
        lambda: sandbox.files.read("/etc/hostname"),
        lambda: sandbox.files.write("x", "y"),
        lambda: sandbox.files.write("x", b"y" * 1_000_000),
        lambda: sandbox.files.list("/"),
        lambda: sandbox.files.exists("/"),
        lambda: sandbox.files.make_dir("x"),
        lambda: sandbox.files.remove("x"),
        lambda: sandbox.pty.kill(1),
    ):
        with pytest.raises(AuthenticationException):
            await refused()
