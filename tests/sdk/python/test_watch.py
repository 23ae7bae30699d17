"""`sandbox.files.watch_dir`: exactly the events of what happened, in their order."""

import pytest
from e2b import FileNotFoundException, FileType, InvalidArgumentException, SandboxException, TimeoutException
from flavours import Watched, is_sync, watch


async def test_a_new_file(sandbox, folder):
    watched = await watch(sandbox, folder)
    await sandbox.files.write(f"{folder}/file", "text")
    assert await watched.seen() == [("create", "file"), ("chmod", "file"), ("write", "file")]
    await watched.handle.stop()


async def test_a_large_new_file(sandbox, folder):
    watched = await watch(sandbox, folder)
    await sandbox.files.write(f"{folder}/file", b"x" * 10_000_000)
    seen = await watched.seen()
    assert seen[:2] == [("create", "file"), ("chmod", "file")]
    # How many writes a body of this size takes is nobody's promise.
    assert set(seen[2:]) == {("write", "file")}
    assert len((await sandbox.files.list(folder))) == 2
    await watched.handle.stop()


async def test_a_file_that_is_written_again(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", "before")
    watched = await watch(sandbox, folder)
    await sandbox.files.write(f"{folder}/file", "after")
    seen = await watched.seen()
    assert ("write", "file") in seen
    assert {name for _, name in seen} == {"file"}
    await watched.handle.stop()


async def test_what_a_command_does(sandbox, folder):
    watched = await watch(sandbox, folder)
    await sandbox.commands.run("echo text >file && chmod 600 file && mv file moved && rm moved && mkdir sub", cwd=folder)
    assert await watched.seen() == [
        ("create", "file"),
        ("write", "file"),
        ("chmod", "file"),
        ("rename", "file"),
        ("create", "moved"),
        ("remove", "moved"),
        ("create", "sub"),
    ]
    await watched.handle.stop()


async def test_what_the_sdk_does(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", "text")
    watched = await watch(sandbox, folder)
    await sandbox.files.rename(f"{folder}/file", f"{folder}/renamed")
    await sandbox.files.remove(f"{folder}/renamed")
    assert await watched.seen() == [("rename", "file"), ("create", "renamed"), ("remove", "renamed")]
    await watched.handle.stop()


async def test_to_and_from_elsewhere(sandbox, folder):
    await sandbox.commands.run("mkdir in out && touch out/file", cwd=folder)
    watched = await watch(sandbox, f"{folder}/in")
    await sandbox.commands.run("mv out/file in/file && mv in/file out/file", cwd=folder)
    assert await watched.seen() == [("create", "file"), ("rename", "file")]
    await watched.handle.stop()


async def test_what_is_below_is_not_told(sandbox, folder):
    await sandbox.files.make_dir(f"{folder}/sub")
    watched = await watch(sandbox, folder)
    await sandbox.commands.run("echo text >sub/file; mkdir sub/deeper", cwd=folder)
    assert await watched.seen() == []
    await watched.handle.stop()


async def test_what_is_below_is_told_when_asked_for(sandbox, folder):
    await sandbox.files.make_dir(f"{folder}/sub/deep")
    watched = await watch(sandbox, folder, recursive=True)
    await sandbox.commands.run("echo text >sub/file; rm sub/file; touch sub/deep/file; rm -r sub/deep", cwd=folder)
    seen = await watched.seen()
    assert seen[:3] == [("create", "sub/file"), ("write", "sub/file"), ("remove", "sub/file")]
    # touch sets the times, too.
    assert seen[3:] == [
        ("create", "sub/deep/file"),
        ("chmod", "sub/deep/file"),
        ("remove", "sub/deep/file"),
        ("remove", "sub/deep"),
    ]
    await watched.handle.stop()


async def test_new_folders_and_what_is_made_in_them_at_once(sandbox, folder):
    watched = await watch(sandbox, folder, recursive=True)
    await sandbox.commands.run("for i in 1 2 3 4 5 6 7 8 9; do mkdir -p new$i/a/b && echo x >new$i/a/b/file; done", cwd=folder)
    created = [name for kind, name in await watched.seen() if kind == "create"]
    expected = {f"new{i}{below}" for i in range(1, 10) for below in ("", "/a", "/a/b", "/a/b/file")}
    assert sorted(created) == sorted(expected)
    await watched.handle.stop()


async def test_a_tree_that_is_moved_in_is_watched(sandbox, folder):
    await sandbox.commands.run("mkdir -p in out/tree/sub", cwd=folder)
    watched = await watch(sandbox, f"{folder}/in", recursive=True)
    await sandbox.commands.run("mv out/tree in/tree && echo text >in/tree/sub/file", cwd=folder)
    seen = await watched.seen()
    assert ("create", "tree") in seen
    assert ("create", "tree/sub/file") in seen
    await watched.handle.stop()


async def test_the_entry_when_asked_for(sandbox, folder):
    watched = await watch(sandbox, folder, include_entry=True)
    await sandbox.files.write(f"{folder}/file", "text", metadata={"k": "v"})
    last = (await watched.events())[-1]
    assert (last.entry.name, last.entry.path, last.entry.type) == ("file", f"{folder}/file", FileType.FILE)
    assert (last.entry.size, last.entry.owner, last.entry.metadata) == (4, "user", {"k": "v"})
    await watched.handle.stop()


async def test_no_entry_of_what_is_gone(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", "text")
    watched = await watch(sandbox, folder, include_entry=True)
    await sandbox.files.remove(f"{folder}/file")
    assert [(event.type.value, event.entry) for event in await watched.events()] == [("remove", None)]
    await watched.handle.stop()


async def test_no_entry_unless_asked_for(sandbox, folder):
    watched = await watch(sandbox, folder)
    await sandbox.files.write(f"{folder}/file", "text")
    assert [event.entry for event in await watched.events()] == [None] * 3
    await watched.handle.stop()


async def test_two_watches_of_one_folder(sandbox, folder):
    first, second = await watch(sandbox, folder), await watch(sandbox, folder, recursive=True)
    await sandbox.commands.run("touch file", cwd=folder)
    assert await first.seen() == [("create", "file"), ("chmod", "file")]
    await first.handle.stop()
    # The one that goes on does not notice. (The end of the first one's events is an event to it.)
    await sandbox.commands.run(f"rmdir {Watched.LAST}; rm file", cwd=folder)
    await second.until(lambda events: [event.name for event in events].count("file") == 3)
    await second.handle.stop()


async def test_a_thousand_events(sandbox, folder):
    watched = await watch(sandbox, folder)
    await sandbox.commands.run("for i in $(seq 500); do : >f$i; done", cwd=folder)
    assert await watched.seen() == [("create", f"f{i}") for i in range(1, 501)]
    await watched.handle.stop()


async def test_as_another_user(sandbox):
    await sandbox.files.make_dir("watched-by-root", user="root")
    watched = await watch(sandbox, "watched-by-root", user="root")
    await sandbox.files.write("watched-by-root/file", "text", user="root")
    await watched.until(lambda events: any(event.name == "file" for event in events))
    await watched.handle.stop()
    await sandbox.files.remove("watched-by-root", user="root")


async def test_what_cannot_be_watched(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", "text")
    with pytest.raises(FileNotFoundException):
        await watch(sandbox, f"{folder}/missing")
    with pytest.raises(InvalidArgumentException):
        await watch(sandbox, f"{folder}/file")


async def test_a_network_mount_may_be_allowed(sandbox, folder):
    watched = await watch(sandbox, folder, allow_network_mounts=True)
    await sandbox.commands.run("mkdir sub", cwd=folder)
    assert await watched.seen() == [("create", "sub")]
    await watched.handle.stop()


async def test_after_the_end_nothing_comes(sandbox, folder):
    watched = await watch(sandbox, folder)
    # A watch that is stopped before it has begun to read tells no end: it never began.
    assert await watched.seen() == []
    await watched.handle.stop()
    if is_sync(sandbox):
        with pytest.raises(SandboxException):
            await watched.handle.get_new_events()
    else:
        assert await watched.exits.until(bool) == [None]


async def test_a_watchs_time(flavour, sandbox, folder):
    if is_sync(sandbox):
        # A polled watch has none: it lasts until it is stopped.
        watched = await watch(sandbox, folder)
        assert await watched.handle.get_new_events() == []
        await watched.handle.stop()
    else:
        watched = await watch(sandbox, folder, timeout=5)
        (error,) = await watched.exits.until(bool)
        assert isinstance(error, TimeoutException)


async def test_events_are_told_once(sandbox, folder):
    watched = await watch(sandbox, folder)
    await sandbox.commands.run("mkdir one", cwd=folder)
    assert await watched.seen() == [("create", "one")]
    if is_sync(sandbox):
        assert [event.name for event in await watched.handle.get_new_events()] in ([], [Watched.LAST])
        assert await watched.handle.get_new_events() == []
    await watched.handle.stop()
