"""`sandbox.files`: the tree. list, exists, get_info, make_dir, rename, remove."""

from datetime import datetime, timedelta, timezone

import pytest
from e2b import FileNotFoundException, FileType, InvalidArgumentException


async def test_what_is_known_of_a_file(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", "12345")
    info = await sandbox.files.get_info(f"{folder}/file")
    assert (info.name, info.path, info.type, info.size) == ("file", f"{folder}/file", FileType.FILE, 5)
    assert (info.mode, info.permissions, info.owner, info.group) == (0o644, "-rw-r--r--", "user", "user")
    assert (info.symlink_target, info.metadata) == (None, None)
    assert abs(datetime.now(timezone.utc) - info.modified_time.astimezone(timezone.utc)) < timedelta(hours=1)


async def test_what_is_known_of_a_folder(sandbox, folder):
    info = await sandbox.files.get_info(folder)
    assert (info.path, info.type, info.mode, info.permissions) == (folder, FileType.DIR, 0o755, "drwxr-xr-x")
    assert (await sandbox.files.get_info("/")).type == FileType.DIR


@pytest.mark.parametrize(
    ("mode", "permissions"), [("600", "-rw-------"), ("4755", "-rwsr-xr-x"), ("000", "----------")]
)
async def test_permissions(sandbox, folder, mode, permissions):
    await sandbox.commands.run(f"touch file && chmod {mode} file", cwd=folder)
    info = await sandbox.files.get_info(f"{folder}/file")
    assert (info.mode, info.permissions) == (int(mode, 8), permissions)


async def test_modification_time_to_the_second(sandbox, folder):
    await sandbox.commands.run("touch -d '2001-02-03 04:05:06 UTC' file", cwd=folder)
    info = await sandbox.files.get_info(f"{folder}/file")
    assert info.modified_time.replace(tzinfo=timezone.utc) == datetime(2001, 2, 3, 4, 5, 6, tzinfo=timezone.utc)


async def test_links(sandbox, folder):
    await sandbox.commands.run(
        "mkdir sub; echo 12345 >file; ln -s file link; ln -s sub dir-link; ln -s link link-link; ln -s gone broken",
        cwd=folder,
    )

    async def told(name):
        info = await sandbox.files.get_info(f"{folder}/{name}")
        return info.type, info.symlink_target

    # A link is what it leads to; its target is where it leads in the end.
    assert await told("link") == (FileType.FILE, f"{folder}/file")
    assert await told("link-link") == (FileType.FILE, f"{folder}/file")
    assert await told("dir-link") == (FileType.DIR, f"{folder}/sub")
    assert (await told("broken"))[0] == FileType.SYMLINK
    assert await sandbox.files.read(f"{folder}/link-link") == "12345\n"
    assert {entry.name for entry in await sandbox.files.list(folder)} == {
        "sub", "file", "link", "dir-link", "link-link", "broken",
    }  # fmt: skip


async def test_exists(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", "text")
    assert await sandbox.files.exists(f"{folder}/file") is True
    assert await sandbox.files.exists(folder) is True
    assert await sandbox.files.exists(f"{folder}/missing") is False
    assert await sandbox.files.exists(f"{folder}/missing/below") is False


async def make_tree(sandbox, folder):
    await sandbox.commands.run("mkdir -p a/b/c && touch top a/one a/b/two a/b/c/three", cwd=folder)


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (None, ["a", "top"]),
        (1, ["a", "top"]),
        (2, ["a", "a/b", "a/one", "top"]),
        (3, ["a", "a/b", "a/b/c", "a/b/two", "a/one", "top"]),
        (10, ["a", "a/b", "a/b/c", "a/b/c/three", "a/b/two", "a/one", "top"]),
    ],
)
async def test_list_to_a_depth(sandbox, folder, depth, expected):
    await make_tree(sandbox, folder)
    entries = await sandbox.files.list(folder, depth=depth)
    assert [entry.path for entry in entries] == [f"{folder}/{path}" for path in expected]
    assert [entry.name for entry in entries] == [path.rsplit("/")[-1] for path in expected]
    folders = {entry.name for entry in entries if entry.type == FileType.DIR}
    assert folders == {name for name in ("a", "b", "c") if name in {entry.name for entry in entries}}


async def test_list_tells_of_each_entry_what_get_info_tells(sandbox, folder):
    await make_tree(sandbox, folder)
    for entry in await sandbox.files.list(folder, depth=4):
        assert entry == await sandbox.files.get_info(entry.path)


async def test_a_depth_below_one(sandbox, folder):
    with pytest.raises(InvalidArgumentException):
        await sandbox.files.list(folder, depth=0)


async def test_an_empty_folder_and_one_with_many_entries(sandbox, folder):
    assert await sandbox.files.list(folder) == []
    await sandbox.commands.run("for i in $(seq 1000); do : > $(printf %04d $i); done", cwd=folder)
    assert [entry.name for entry in await sandbox.files.list(folder)] == [f"{i:04}" for i in range(1, 1001)]


async def test_nothing_to_list(sandbox, folder):
    with pytest.raises(FileNotFoundException):
        await sandbox.files.list(f"{folder}/missing")
    await sandbox.files.write(f"{folder}/file", "text")
    with pytest.raises(InvalidArgumentException):
        await sandbox.files.list(f"{folder}/file")


async def test_nothing_to_tell(sandbox, folder):
    with pytest.raises(FileNotFoundException):
        await sandbox.files.get_info(f"{folder}/missing")


async def test_make_dir(sandbox, folder):
    assert await sandbox.files.make_dir(f"{folder}/a/b/c") is True
    assert await sandbox.files.make_dir(f"{folder}/a/b/c") is False
    for path in ["a", "a/b", "a/b/c"]:
        info = await sandbox.files.get_info(f"{folder}/{path}")
        assert (info.type, info.owner, info.group, info.mode) == (FileType.DIR, "user", "user", 0o755)
    await sandbox.files.write(f"{folder}/file", "text")
    with pytest.raises(InvalidArgumentException):
        await sandbox.files.make_dir(f"{folder}/file")


async def test_make_dir_for_another_user(sandbox):
    assert await sandbox.files.make_dir("roots-own/below", user="root") in (True, False)
    assert (await sandbox.files.get_info("/root/roots-own/below", user="root")).owner == "root"


async def test_rename_a_file(sandbox, folder):
    await sandbox.files.write(f"{folder}/old", "text")
    info = await sandbox.files.rename(f"{folder}/old", f"{folder}/new")
    assert (info.name, info.path, info.type, info.size) == ("new", f"{folder}/new", FileType.FILE, 4)
    assert not await sandbox.files.exists(f"{folder}/old")
    assert await sandbox.files.read(f"{folder}/new") == "text"


async def test_rename_a_folder(sandbox, folder):
    await make_tree(sandbox, folder)
    info = await sandbox.files.rename(f"{folder}/a", f"{folder}/z")
    assert (info.name, info.type) == ("z", FileType.DIR)
    assert await sandbox.files.exists(f"{folder}/z/b/c/three")
    assert not await sandbox.files.exists(f"{folder}/a")


async def test_rename_into_a_folder_that_is_yet_to_be(sandbox, folder):
    await sandbox.files.write(f"{folder}/old", "text")
    await sandbox.files.rename(f"{folder}/old", f"{folder}/new/er/place")
    assert await sandbox.files.read(f"{folder}/new/er/place") == "text"


async def test_rename_over_a_file(sandbox, folder):
    await sandbox.files.write(f"{folder}/old", "text")
    await sandbox.files.write(f"{folder}/new", "other")
    await sandbox.files.rename(f"{folder}/old", f"{folder}/new")
    assert await sandbox.files.read(f"{folder}/new") == "text"


async def test_nothing_to_rename(sandbox, folder):
    with pytest.raises(FileNotFoundException):
        await sandbox.files.rename(f"{folder}/missing", f"{folder}/sub/new")
    assert await sandbox.files.list(folder) == []


async def test_remove(sandbox, folder):
    await make_tree(sandbox, folder)
    await sandbox.files.remove(f"{folder}/top")
    await sandbox.files.remove(f"{folder}/a")
    assert await sandbox.files.list(folder) == []


async def test_what_is_not_there_is_removed(sandbox, folder):
    await sandbox.files.remove(f"{folder}/missing")


async def test_a_link_is_removed_and_not_what_it_leads_to(sandbox, folder):
    await make_tree(sandbox, folder)
    await sandbox.commands.run("ln -s a link", cwd=folder)
    await sandbox.files.remove(f"{folder}/link")
    assert not await sandbox.files.exists(f"{folder}/link")
    assert await sandbox.files.exists(f"{folder}/a/one")
