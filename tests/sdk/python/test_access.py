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
        sandbox.commands.run("true"),
        sandbox.commands.list(),
        sandbox.commands.kill(1),
        sandbox.files.read("/etc/hostname"),
        sandbox.files.write("x", "y"),
        sandbox.files.list("/"),
        sandbox.files.exists("/"),
        sandbox.files.make_dir("x"),
        sandbox.files.remove("x"),
        sandbox.pty.kill(1),
    ):
        with pytest.raises(AuthenticationException):
            await refused
