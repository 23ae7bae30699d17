"""Sandboxes by their names: `E2B_DOMAIN` alone says where the platform is, and `SSL_CERT_FILE` whom to trust."""

import asyncio

import httpx
import pytest
from e2b import AsyncSandbox

pytestmark = pytest.mark.parametrize("platform", [AsyncSandbox], ids=["async"], indirect=True)


async def answered(client, url):
    """Once somebody listens."""
    async with asyncio.timeout(240):
        while (response := await client.get(url, timeout=240)).status_code == 502:
            await asyncio.sleep(0.1)
    return response


async def test_a_server_on_loopback_has_a_name(platform):
    sandbox = await platform.create()
    await sandbox.files.write("site/page", "hello\n")
    await sandbox.commands.run("python3 -m http.server 8000 --bind 127.0.0.1 --directory site", background=True, timeout=0)
    host = sandbox.get_host(8000)
    assert host.startswith(f"8000-{sandbox.sandbox_id}.")
    for versions, spoken in [({"http2": True}, "HTTP/2"), ({}, "HTTP/1.1")]:
        async with httpx.AsyncClient(**versions) as client:
            response = await answered(client, f"https://{host}/page")
            assert (response.text, response.http_version) == ("hello\n", spoken)
            closed = await client.get(f"https://{sandbox.get_host(8001)}/", timeout=240)
            assert (closed.status_code, closed.json()["port"]) == (502, 8001)
    # By name there is no header to say whose file it is.
    async with httpx.AsyncClient() as client:
        signed = await client.get(sandbox.download_url("site/page", use_signature_expiration=600), timeout=240)
        assert (signed.status_code, signed.text) == (200, "hello\n")
        url = sandbox.upload_url("site/page", use_signature_expiration=600)
        sent = await client.post(url, files={"file": ("page", b"another\n")}, timeout=240)
        assert sent.status_code == 200, sent.text
        assert (await answered(client, f"https://{host}/page")).text == "another\n"


async def test_a_port_that_is_not_for_everybody(platform):
    sandbox = await platform.create(network={"allow_public_traffic": False})
    await sandbox.commands.run("python3 -m http.server 8000 --bind 127.0.0.1", background=True, timeout=0)
    url = f"https://{sandbox.get_host(8000)}/"
    token = {"e2b-traffic-access-token": sandbox.traffic_access_token}
    async with httpx.AsyncClient(http2=True, headers=token) as invited:
        assert (await answered(invited, url)).status_code == 200
    async with httpx.AsyncClient(http2=True) as stranger:
        assert (await stranger.get(url, timeout=240)).status_code == 403
