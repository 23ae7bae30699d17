"""Volumes: made, mounted, and their files without a sandbox of one's own."""

from __future__ import annotations

import io
from datetime import datetime, timedelta, timezone

import pytest
from e2b import AuthenticationException, NotFoundException, SandboxException
from e2b.exceptions import VolumeException, VolumeNotFoundException, VolumePathNotFoundException


async def test_a_life(platform, volumes):
    volume = await volumes.make()
    assert volume.token and volume.volume_id.startswith("vol-")
    assert (volume.volume_id, volume.name) in [(known.volume_id, known.name) for known in await volumes.kind.list()]
    info = await volumes.kind.get_info(volume.volume_id)
    assert (info.name, info.token) == (volume.name, volume.token)
    with pytest.raises(VolumeException, match="409"):
        await volumes.kind.create(volume.name)
    with pytest.raises(VolumeException, match="400"):
        await volumes.kind.create("no name")

    # Files, with no sandbox of one's own.
    assert await volume.list("/") == []
    folder = await volume.make_dir("/in/a b", force=True, mode=0o750)
    assert (folder.path, folder.name, folder.type, folder.mode) == ("/in/a b", "a b", "directory", 0o750)
    with pytest.raises(VolumePathNotFoundException):
        await volume.make_dir("/no/folder")
    with pytest.raises(VolumeException, match="409"):
        await volume.make_dir("/in")
    large = bytes(range(256)) * 20_000
    written = await volume.write_file("/in/large", io.BytesIO(large), mode=0o600, uid=1234, gid=4321)
    assert (written.size, written.mode, written.uid, written.gid) == (len(large), 0o600, 1234, 4321)
    assert abs(datetime.now(timezone.utc) - written.mtime) < timedelta(hours=1)
    assert await volume.read_file("/in/large", format="bytes") == large
    root = await volume.get_info("/")
    text = await volume.write_file("made/with/folders", "one")
    assert (text.uid, text.gid) == (root.uid, root.gid)
    await volume.write_file("/made/with/folders", "two\n")
    assert await volume.read_file("../made/./with/folders") == "two\n"
    changed = await volume.update_metadata("/made/with/folders", mode=0o444)
    assert changed.mode == 0o444
    assert [entry.path for entry in await volume.list("/")] == ["/in", "/made"]
    assert [entry.path for entry in await volume.list("/made", depth=2)] == ["/made/with", "/made/with/folders"]
    assert await volume.exists("/in/large")
    await volume.remove("/in")
    assert not await volume.exists("/in/large")
    for missing in (volume.read_file("/in/large"), volume.list("/in"), volume.remove("/in"), volume.get_info("/in")):
        with pytest.raises(VolumePathNotFoundException):
            await missing
    with pytest.raises(AuthenticationException):
        await volume.get_info("/", token="0" * 64)

    # A sandbox takes the volume from whatever served its files, and then they are its own.
    sandbox = await platform.create(volume_mounts={"/data": volume.name})
    mounts = (await sandbox.get_info()).volume_mounts
    assert mounts == [{"name": volume.name, "path": "/data"}]
    with pytest.raises(VolumeException, match="409"):
        await volume.read_file("/made/with/folders")
    with pytest.raises(SandboxException, match="409"):
        await platform.create(volume_mounts={"/data": volume.name})
    with pytest.raises(VolumeException, match="409"):
        await volumes.kind.destroy(volume.volume_id)
    await sandbox.kill()
    assert await volume.read_file("/made/with/folders") == "two\n"

    assert await volumes.kind.destroy(volume.volume_id)
    assert not await volumes.kind.destroy(volume.volume_id)
    with pytest.raises(VolumeNotFoundException):
        await volumes.kind.get_info(volume.volume_id)
    with pytest.raises(NotFoundException):
        await volume.get_info("/")
