"""Metadata of files: given with an upload, kept in extended attributes."""

import pytest
from e2b import InvalidArgumentException

GIVEN = {"Author": "somebody", "purpose": "a test: with = signs, and spaces", "empty-Not": "0"}
KEPT = {"author": "somebody", "purpose": "a test: with = signs, and spaces", "empty-not": "0"}


@pytest.mark.parametrize("octet_stream", [None, True], ids=["form", "octets"])
async def test_it_is_kept(sandbox, folder, octet_stream):
    path = f"{folder}/file"
    written = await sandbox.files.write(path, "text", metadata=GIVEN, use_octet_stream=octet_stream)
    assert written.metadata == KEPT
    assert (await sandbox.files.get_info(path)).metadata == KEPT
    assert [entry.metadata for entry in await sandbox.files.list(folder)] == [KEPT]


async def test_it_survives_a_rename(sandbox, folder):
    await sandbox.files.write(f"{folder}/old", "text", metadata=GIVEN)
    assert (await sandbox.files.rename(f"{folder}/old", f"{folder}/new")).metadata == KEPT
    assert (await sandbox.files.get_info(f"{folder}/new")).metadata == KEPT


async def test_the_next_upload_replaces_all_of_it(sandbox, folder):
    path = f"{folder}/file"
    await sandbox.files.write(path, "text", metadata={"a": "1", "b": "2"})
    assert (await sandbox.files.write(path, "text", metadata={"b": "3"})).metadata == {"b": "3"}
    assert (await sandbox.files.get_info(path)).metadata == {"b": "3"}
    assert (await sandbox.files.write(path, "text")).metadata is None
    assert (await sandbox.files.get_info(path)).metadata is None


async def test_it_is_for_each_of_several_files(sandbox, folder):
    files = [{"path": f"{folder}/{name}", "data": name} for name in "abc"]
    written = await sandbox.files.write_files(files, metadata={"k": "v"})
    assert [info.metadata for info in written] == [{"k": "v"}] * 3


async def test_it_can_be_seen_and_set_from_within(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", "text", metadata={"k": "v"})
    attributes = "import os; print(os.getxattr('file', 'user.e2b.k').decode())"
    assert (await sandbox.commands.run(f'python3 -c "{attributes}"', cwd=folder)).stdout == "v\n"
    setting = "import os; os.setxattr('file', 'user.e2b.other', b'w'); os.setxattr('file', 'user.not-ours', b'x')"
    await sandbox.commands.run(f'python3 -c "{setting}"', cwd=folder)
    assert (await sandbox.files.get_info(f"{folder}/file")).metadata == {"k": "v", "other": "w"}


async def test_what_cannot_be_kept_is_refused(sandbox, folder):
    # More than an extended attribute holds, and a name that is too long for one.
    for metadata in [{"k": "v" * 100_000}, {"k" * 300: "v"}]:
        with pytest.raises(InvalidArgumentException):
            await sandbox.files.write(f"{folder}/file", "text", metadata=metadata)
        assert not await sandbox.files.exists(f"{folder}/file")
