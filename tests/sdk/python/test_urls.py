"""`download_url` and `upload_url`: what a browser may do without the token, and for how long."""

import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
from e2b import get_signature
from flavours import TOKEN, is_sync


def urls(sandbox):
    # Neither flavour's methods touch the network.
    return sandbox.inner if is_sync(sandbox) else sandbox


def fetch(url: str, body: bytes | None = None, content_type: str = "") -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": content_type} if body else {})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read()


def form(content: bytes, filename: str | None = "ignored") -> tuple[bytes, str]:
    name = f'; filename="{filename}"' if filename else ""
    head = f'--b\r\nContent-Disposition: form-data; name="file"{name}\r\n\r\n'.encode()
    return head + content + b"\r\n--b--\r\n", "multipart/form-data; boundary=b"


@pytest.mark.parametrize("expires_in", [None, 3600], ids=["for ever", "for an hour"])
async def test_download(sandbox, folder, expires_in):
    await sandbox.files.write(f"{folder}/a file", "text")
    url = urls(sandbox).download_url(f"{folder}/a file", use_signature_expiration=expires_in)
    assert fetch(url) == (200, b"text")


@pytest.mark.parametrize("expires_in", [None, 3600], ids=["for ever", "for an hour"])
async def test_upload(sandbox, folder, expires_in):
    url = urls(sandbox).upload_url(f"{folder}/a file", use_signature_expiration=expires_in)
    assert fetch(url, *form(b"text"))[0] == 200
    assert await sandbox.files.read(f"{folder}/a file") == "text"


async def test_as_another_user(sandbox):
    path = f"url-{time.monotonic_ns()}"
    assert fetch(urls(sandbox).upload_url(path, user="root"), *form(b"roots"))[0] == 200
    assert fetch(urls(sandbox).download_url(path, user="root")) == (200, b"roots")
    assert (await sandbox.files.get_info(f"/root/{path}", user="root")).owner == "root"


async def test_time_over(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", "text")
    url = urls(sandbox).download_url(f"{folder}/file", use_signature_expiration=-10)
    assert fetch(url) == (401, b'{"code":401,"message":"signature is already expired"}')


async def test_a_signature_is_for_one_thing_only(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", "text")
    await sandbox.files.write(f"{folder}/other", "text")
    download = urls(sandbox).download_url(f"{folder}/file")
    assert fetch(download, *form(b"changed"))[0] == 401
    assert fetch(download.replace("file&", "other&"))[0] == 401
    assert fetch(download + "&username=root")[0] == 401
    assert fetch(download + "&signature_expiration=99999999999")[0] == 401
    assert fetch(download.split("&signature=")[0])[0] == 401
    assert await sandbox.files.read(f"{folder}/file") == "text"


async def test_signed_with_another_token(sandbox, folder):
    await sandbox.files.write(f"{folder}/file", "text")
    url = urls(sandbox).download_url(f"{folder}/file")
    ours = get_signature(f"{folder}/file", "read", None, TOKEN)["signature"]
    theirs = get_signature(f"{folder}/file", "read", None, "0" * 32)["signature"]
    quoted = urllib.parse.quote
    assert quoted(ours) in url or quoted(ours, safe="") in url
    forged = url.replace(quoted(ours), quoted(theirs)).replace(quoted(ours, safe=""), quoted(theirs, safe=""))
    assert forged != url
    assert fetch(forged)[0] == 401
