"""`sandbox.files`: contents. Reading and writing in every form that the SDK knows, and what goes wrong."""

import asyncio
import io
import os

import pytest
from e2b import (
    AuthenticationException,
    FileNotFoundException,
    FileType,
    InvalidArgumentException,
    NotEnoughSpaceException,
)
from flavours import is_sync, whole

EVERY_BYTE = bytes(range(256))
TEXTS = ["", "text", "lines\nand\r\nmore\n", "Ünïcødé ✓ 𝄞", "\ufeffbom"]


@pytest.mark.parametrize("text", TEXTS)
async def test_text_comes_back(sandbox, folder, text):
    await sandbox.files.write(f"{folder}/file", text)
    assert await sandbox.files.read(f"{folder}/file") == text
    assert await sandbox.files.read(f"{folder}/file", format="text") == text


async def test_bytes_come_back(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", EVERY_BYTE)
    content = await sandbox.files.read(f"{folder}/file", format="bytes")
    assert isinstance(content, bytearray)
    assert bytes(content) == EVERY_BYTE


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("octet_stream", [None, True], ids=["form", "octets"])
async def test_every_way_of_writing_and_reading(sandbox, folder, gzip, octet_stream):
    content = EVERY_BYTE * 1000
    info = await sandbox.files.write(f"{folder}/file", content, gzip=gzip, use_octet_stream=octet_stream)
    assert (info.name, info.path, info.type, info.metadata) == ("file", f"{folder}/file", FileType.FILE, None)
    assert bytes(await sandbox.files.read(f"{folder}/file", format="bytes", gzip=gzip)) == content
    assert await whole(await sandbox.files.read(f"{folder}/file", format="stream", gzip=gzip)) == content
    assert (await sandbox.files.get_info(f"{folder}/file")).size == len(content)


async def test_file_objects(sandbox, folder):
    for name, data in [("binary", io.BytesIO(EVERY_BYTE)), ("text", io.StringIO("Ünïcødé"))]:
        await sandbox.files.write(f"{folder}/{name}", data)
    assert bytes(await sandbox.files.read(f"{folder}/binary", format="bytes")) == EVERY_BYTE
    assert await sandbox.files.read(f"{folder}/text") == "Ünïcødé"


async def test_a_body_without_a_length(sandbox, folder):
    chunks = [EVERY_BYTE * 100] * 50

    async def one_by_one():
        for chunk in chunks:
            yield chunk

    await sandbox.files.write(f"{folder}/file", iter(chunks) if is_sync(sandbox) else one_by_one())
    assert bytes(await sandbox.files.read(f"{folder}/file", format="bytes")) == b"".join(chunks)


async def test_ten_megabytes(sandbox, folder):
    content = os.urandom(10_000_000)
    await sandbox.files.write(f"{folder}/file", content)
    assert bytes(await sandbox.files.read(f"{folder}/file", format="bytes")) == content
    assert await whole(await sandbox.files.read(f"{folder}/file", format="stream")) == content
    count = await sandbox.commands.run(f"wc -c < {folder}/file")
    assert count.stdout.strip() == "10000000"


async def test_what_was_there_is_replaced(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", "much longer than what comes after it")
    await sandbox.files.write(f"{folder}/file", "short")
    assert await sandbox.files.read(f"{folder}/file") == "short"
    # Nothing else is left in the folder.
    assert [entry.name for entry in await sandbox.files.list(folder)] == ["file"]


async def test_folders_on_the_way_are_made_for_the_user(sandbox, folder):
    info = await sandbox.files.write(f"{folder}/a/b/c/file", "text")
    assert info.path == f"{folder}/a/b/c/file"
    for path in ["a", "a/b", "a/b/c"]:
        made = await sandbox.files.get_info(f"{folder}/{path}")
        assert (made.type, made.owner, made.group, made.mode) == (FileType.DIR, "user", "user", 0o755)


async def test_a_new_file_is_the_users(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", "text")
    info = await sandbox.files.get_info(f"{folder}/file")
    assert (info.owner, info.group, info.mode, info.permissions) == ("user", "user", 0o644, "-rw-r--r--")


async def test_another_user(sandbox):
    name = os.urandom(8).hex()
    info = await sandbox.files.write(name, "roots", user="root")
    assert info.path == f"/root/{name}"
    assert await sandbox.files.read(name, user="root") == "roots"
    assert (await sandbox.files.get_info(f"/root/{name}", user="root")).owner == "root"


async def test_relative_paths_begin_at_home(sandbox):
    name = os.urandom(8).hex()
    info = await sandbox.files.write(name, "text")
    assert info.path == f"/home/user/{name}"
    for same in [name, f"./{name}", f"~/{name}", f"/home/user/{name}"]:
        assert await sandbox.files.read(same) == "text"


@pytest.mark.parametrize("name", ["with space", "ünïcødé ✓", "a+b&c=d?e#f%20", "quote'\"s", "-rf", "new\nline"])
async def test_names_with_everything_in_them(sandbox, folder, name):
    for octet_stream in [False, True]:
        info = await sandbox.files.write(f"{folder}/{name}", "text", use_octet_stream=octet_stream)
        assert (info.name, info.path) == (name, f"{folder}/{name}")
    assert await sandbox.files.read(f"{folder}/{name}") == "text"
    assert [entry.name for entry in await sandbox.files.list(folder)] == [name]


@pytest.mark.parametrize("octet_stream", [None, True], ids=["form", "octets"])
async def test_several_files_at_once(sandbox, folder, octet_stream):
    entries = [{"path": f"{folder}/sub{number}/file{number}", "data": f"text {number}"} for number in range(5)]
    infos = await sandbox.files.write_files(entries, use_octet_stream=octet_stream)
    assert [(info.name, info.path) for info in infos] == [
        (entry["path"].rsplit("/")[-1], entry["path"]) for entry in entries
    ]
    for entry in entries:
        assert await sandbox.files.read(entry["path"]) == entry["data"]


async def test_no_files_at_once(sandbox):
    assert await sandbox.files.write_files([]) == []


async def test_twenty_transfers_at_once(sandbox, folder):
    async def one(number: int) -> None:
        content = bytes([number]) * 300_000
        await sandbox.files.write(f"{folder}/{number}", content)
        assert bytes(await sandbox.files.read(f"{folder}/{number}", format="bytes")) == content

    await asyncio.gather(*(one(number) for number in range(20)))


async def test_files_whose_size_is_not_known_before_they_are_read(sandbox):
    boot_id = await sandbox.files.read("/proc/sys/kernel/random/boot_id")
    assert len(boot_id.strip()) == 36
    assert (await sandbox.files.read("/proc/self/status")).startswith("Name:")


async def test_a_stream_that_is_left_early(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", b"x" * 10_000_000)
    stream = await sandbox.files.read(f"{folder}/file", format="stream")
    if is_sync(sandbox):
        assert next(stream)
        stream.close()
    else:
        assert await anext(stream)
        await stream.aclose()
    assert await sandbox.is_running()


@pytest.mark.parametrize("format", ["text", "bytes", "stream"])
async def test_nothing_to_read(sandbox, folder, format):
    with pytest.raises(FileNotFoundException, match=f"path '{folder}/missing' does not exist"):
        await sandbox.files.read(f"{folder}/missing", format=format)


async def test_a_folder_is_not_read(sandbox, folder):
    with pytest.raises(InvalidArgumentException):
        await sandbox.files.read(folder)


async def test_a_folder_is_not_overwritten(sandbox, folder):
    with pytest.raises(InvalidArgumentException):
        await sandbox.files.write(folder, "text")
    assert (await sandbox.files.get_info(folder)).type == FileType.DIR


async def test_a_file_is_no_folder(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", "text")
    with pytest.raises(InvalidArgumentException):
        await sandbox.files.write(f"{folder}/file/below", "text")
    assert await sandbox.files.read(f"{folder}/file") == "text"


async def test_a_user_that_does_not_exist(sandbox, folder):
    for refused in [
        lambda user: sandbox.files.read("/etc/passwd", user=user),
        lambda user: sandbox.files.write(f"{folder}/file", "text", user=user),
        lambda user: sandbox.files.write(f"{folder}/file", b"x" * 1_000_000, user=user),
        lambda user: sandbox.files.list(folder, user=user),
        lambda user: sandbox.files.get_info(folder, user=user),
    ]:
        with pytest.raises(AuthenticationException, match="invalid username: 'nobody-here'"):
            await refused("nobody-here")


@pytest.mark.parametrize("octet_stream", [None, True], ids=["form", "octets"])
async def test_a_full_disk(sandbox, octet_stream):
    path = f"/run/full/{os.urandom(8).hex()}"
    with pytest.raises(NotEnoughSpaceException):
        await sandbox.files.write(path, b"x" * 1_000_000, use_octet_stream=octet_stream)
    # What could not be written whole is not there, and takes no space.
    assert not await sandbox.files.exists(path)
    await sandbox.files.write(path, "fits")
    assert await sandbox.files.read(path) == "fits"
    await sandbox.files.remove(path)


async def test_what_was_there_outlives_an_upload_that_fails(sandbox):
    path = f"/run/full/{os.urandom(8).hex()}"
    await sandbox.files.write(path, "before")
    with pytest.raises(NotEnoughSpaceException):
        await sandbox.files.write(path, b"x" * 1_000_000)
    assert await sandbox.files.read(path) == "before"
    await sandbox.files.remove(path)
