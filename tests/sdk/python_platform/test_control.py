"""What the SDK asks of the control plane. Nothing here reaches into a sandbox, so that a simulated host is enough."""

import asyncio
import uuid
from datetime import timedelta

import pytest
from conftest import settled
from e2b import (
    AsyncSecret,
    AuthenticationException,
    NotFoundException,
    SandboxException,
    SandboxState,
    Secret,
)
from e2b.exceptions import InvalidArgumentException, SecretException, SecretNotFoundException
from threads import InThreads

UNKNOWN = uuid.uuid4().hex


async def test_a_sandbox_is_what_was_asked_for(platform):
    sandbox = await platform.create(timeout=120, metadata={"a b": "c&d", "ü": "%+="}, envs={"X": "1"})
    info = await sandbox.get_info()
    assert (info.sandbox_id, info.name, info.state) == (sandbox.sandbox_id, "base", SandboxState.RUNNING)
    assert info.metadata == {"mark": platform.mark, "a b": "c&d", "ü": "%+="}
    assert abs(info.end_at - info.started_at - timedelta(seconds=120)) < timedelta(seconds=5)
    assert (info.envd_version, info.lifecycle["on_timeout"]) == ("0.6.13", "kill")
    assert info.cpu_count >= 1 and info.memory_mb >= 128
    assert await platform.kind.kill(sandbox.sandbox_id)
    assert not await sandbox.kill()
    with pytest.raises(NotFoundException):
        await sandbox.get_info()


async def test_its_end_moves_only_as_asked(platform):
    sandbox = await platform.create(timeout=300)
    end = (await sandbox.get_info()).end_at
    same = await platform.kind.connect(sandbox.sandbox_id, timeout=30)
    assert same.sandbox_id == sandbox.sandbox_id
    assert (await same.get_info()).end_at == end
    await sandbox.connect(timeout=900)
    later = (await sandbox.get_info()).end_at
    assert later > end
    await sandbox.set_timeout(60)
    assert (await sandbox.get_info()).end_at < end
    await sandbox.set_timeout(0)
    assert await platform.list() == []
    with pytest.raises(NotFoundException):
        await sandbox.set_timeout(60)


async def test_a_pause_and_what_ends_it(platform):
    sandbox = await platform.create(lifecycle={"on_timeout": "pause"})
    before = await sandbox.get_info()
    assert before.lifecycle["on_timeout"] == "pause"
    assert await sandbox.pause()
    assert not await platform.kind.pause(sandbox.sandbox_id)
    paused = await sandbox.get_info()
    assert (paused.state, paused.started_at) == (SandboxState.PAUSED, before.started_at)
    again = await platform.kind.connect(sandbox.sandbox_id, timeout=120)
    assert (await again.get_info()).state == SandboxState.RUNNING
    assert await sandbox.pause(strict=True)
    await sandbox.connect()
    # At the end of its time it pauses.
    await sandbox.set_timeout(0)
    assert (await sandbox.get_info()).state == SandboxState.PAUSED
    assert await sandbox.kill()
    for missing in (platform.kind.connect(sandbox.sandbox_id), platform.kind.pause(UNKNOWN)):
        with pytest.raises(NotFoundException):
            await missing


async def test_what_is_kept_without_memory(platform):
    lifecycle = {"on_timeout": {"action": "pause", "mode": "filesystem"}}
    sandbox = await platform.create(lifecycle=lifecycle)
    info = await sandbox.get_info()
    assert (info.lifecycle["on_timeout"], info.lifecycle["auto_resume"]) == ("pause", False)
    for pause in ({"mode": "filesystem"}, {"keep_memory": False}, {"mode": "full"}):
        assert await sandbox.pause(**pause)
        assert not await sandbox.pause(**pause)
        again = await platform.kind.connect(sandbox.sandbox_id, on_resume="reboot")
        assert again.sandbox_id == sandbox.sandbox_id
    snapshot = await sandbox.create_snapshot(mode="filesystem")
    assert await platform.create(snapshot.snapshot_id)
    assert await platform.kind.delete_snapshot(snapshot.snapshot_id)
    await sandbox.set_timeout(0)
    assert (await sandbox.get_info()).state == SandboxState.PAUSED


async def test_lists(platform):
    made = [await platform.create(metadata={"number": str(number), "a b": "c&d"}) for number in range(3)]
    ids = [sandbox.sandbox_id for sandbox in made]
    await made[1].pause()

    async def listed(**query):
        return [info.sandbox_id for info in await platform.list(**query)]

    assert await listed() == ids[::-1]
    assert await listed(limit=1) == ids[::-1]
    assert await listed(limit=2, order="asc") == ids
    assert await listed(state=[SandboxState.PAUSED]) == [ids[1]]
    assert await listed(state=[SandboxState.RUNNING, SandboxState.PAUSED]) == ids[::-1]
    assert await listed(metadata={"a b": "c&d", "number": "2"}) == [ids[2]]
    assert await listed(metadata={"number": "7"}) == []
    assert await listed(template="base") == ids[::-1]
    assert await listed(template="nothing") == []
    second = await made[1].get_info()
    assert await listed(started_after=second.started_at) == [ids[2], ids[1]]


async def test_children(platform):
    sandbox = await platform.create(timeout=300)
    end = (await sandbox.get_info()).end_at
    children = await platform.fork(sandbox, count=2, timeout=60)
    ids = {sandbox.sandbox_id, *(child.sandbox_id for child in children)}
    assert len(ids) == 3
    infos = {info.sandbox_id: info for info in await platform.list()}
    assert infos.keys() == ids and infos[sandbox.sandbox_id].end_at == end
    for child in children:
        info = infos[child.sandbox_id]
        assert abs(info.end_at - info.started_at - timedelta(seconds=60)) < timedelta(seconds=5)
    await sandbox.pause()
    with pytest.raises(SandboxException):
        await sandbox.fork()


async def test_snapshots(platform):
    sandbox = await platform.create()
    named = await sandbox.create_snapshot(name=f"kept-{platform.mark[:8]}")
    unnamed = await platform.kind.create_snapshot(sandbox.sandbox_id)
    assert named.names == [named.snapshot_id]

    async def listed(of, **query):
        return [snapshot.snapshot_id for snapshot in await platform.pages(await settled(of.list_snapshots(**query)))]

    assert await listed(sandbox, limit=1) == [unnamed.snapshot_id, named.snapshot_id]
    assert await listed(platform.kind, sandbox_id=sandbox.sandbox_id, name=named.snapshot_id) == [named.snapshot_id]
    assert await listed(platform.kind, sandbox_id=UNKNOWN) == []
    for snapshot in (named, unnamed):
        started = await platform.create(snapshot.snapshot_id)
        assert (await started.get_info()).state == SandboxState.RUNNING
        assert await platform.kind.delete_snapshot(snapshot.snapshot_id)
        assert not await platform.kind.delete_snapshot(snapshot.snapshot_id)
    assert await listed(sandbox) == []


async def test_networks(platform):
    sandbox = await platform.create(network={"allow_out": ["1.1.1.1"], "deny_out": ["0.0.0.0/0"]})
    network = (await sandbox.get_info()).network
    assert (network["allow_out"], network["deny_out"]) == (["1.1.1.1"], ["0.0.0.0/0"])
    await sandbox.update_network({"allow_internet_access": False, "allow_out": ["*.example.com"]})
    info = await sandbox.get_info()
    assert (info.allow_internet_access, info.network["allow_out"]) == (False, ["*.example.com"])
    await platform.kind.update_network(sandbox.sandbox_id, {})
    info = await sandbox.get_info()
    assert (info.allow_internet_access, info.network["deny_out"]) == (None, [])
    closed = await platform.create(allow_internet_access=False)
    assert (await closed.get_info()).allow_internet_access is False
    with pytest.raises(SandboxException):
        await sandbox.update_network({"allow_out": ["example.com"]})


async def test_secrets(platform):
    of = InThreads(Secret) if platform.is_sync else AsyncSecret
    name = f"Token-{platform.mark}"
    made = await of.create(name, "hunter2", metadata={"mark": platform.mark})
    assert (made.name, made.version, made.metadata) == (name.lower(), 1, {"mark": platform.mark})
    assert await of.get_info(name) == await of.get_info(made.secret_id) == made
    with pytest.raises(SecretException, match="409"):
        await of.create(name, "again")
    updated = await of.update(made.secret_id, "hunter3")
    assert (updated.version, updated.metadata, updated.created_at) == (2, made.metadata, made.created_at)
    assert (await of.update(name, "hunter4", metadata={})).metadata == {}
    other = await of.create(f"{name}-2", "v")
    pages = await platform.pages(await settled(of.list(limit=1)))
    assert [secret.name for secret in pages if platform.mark in secret.name] == [other.name, made.name]
    assert await of.exists(name)
    for secret in (made.secret_id, other.name):
        assert await of.destroy(secret)
        assert not await of.destroy(secret)
    assert not await of.exists(name)
    with pytest.raises(SecretNotFoundException):
        await of.update(name, "v")
    with pytest.raises(SecretException, match="400"):
        await of.create("no name", "v")
    # Headers of outgoing requests are filled in by nothing here.
    rules = {"api.example.org": [{"transform": {"headers": {"Authorization": Secret.fill(name)}}}]}
    with pytest.raises((SandboxException, InvalidArgumentException), match="network.rules"):
        await platform.create(network={"rules": rules})


async def test_figures(platform):
    sandbox = await platform.create()
    # Taken every half second.
    async with asyncio.timeout(60):
        while not (metrics := await sandbox.get_metrics()):
            await asyncio.sleep(0.2)
    last = metrics[-1]
    assert last.cpu_count >= 1 and 0 < last.mem_used <= last.mem_total and 0 < last.disk_total
    assert await sandbox.get_metrics(start=last.timestamp + timedelta(hours=1)) == []


async def test_refusals(platform):
    with pytest.raises(SandboxException, match="404"):
        await platform.create("nothing")
    with pytest.raises(AuthenticationException):
        await platform.kind.create(api_key="e2b_" + "0" * 40)
    with pytest.raises(NotFoundException):
        await platform.kind.get_info("x")
    with pytest.raises(SandboxException, match="400"):
        await platform.create(timeout=2_592_001)
    assert not await platform.kind.kill(UNKNOWN)
