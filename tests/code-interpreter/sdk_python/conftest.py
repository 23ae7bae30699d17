"""One sandbox for all tests: of a platform that the SDK finds by its environment, or, in its debug mode, the server beside the guest agent
(`../beside-server.sh`)."""

import os
from collections.abc import Iterator

import pytest
from e2b import ConnectionConfig
from e2b_code_interpreter import AsyncSandbox, Sandbox
from packaging.version import Version

# Of the sandbox; the guest agent beside the server has the same.
ENVIRONMENT = {"FOR_EVERYBODY": "from the sandbox"}
# An emulated guest takes its time.
SECONDS = 240.0 if "E2B_DEBUG" in os.environ else 900.0
PATIENCE = {"request_timeout": SECONDS}
# Of an execution.
LIMIT = {"timeout": SECONDS, **PATIENCE}


def attached(flavour: type, sandbox_id: str = "debug_sandbox_id", token: str = "") -> Sandbox | AsyncSandbox:
    """As `create()` does with a control plane's answer."""
    return flavour(
        sandbox_id=sandbox_id,
        sandbox_domain=None,
        envd_version=Version(os.environ["ENVD_VERSION"]),
        envd_access_token=token or os.environ["ACCESS_TOKEN"],
        traffic_access_token=None,
        connection_config=ConnectionConfig(debug=True, **PATIENCE),
    )


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """With the default template of the SDK."""
    if "E2B_DEBUG" in os.environ:
        yield attached(Sandbox)
        return
    sandbox = Sandbox.create(timeout=3600, envs=ENVIRONMENT, **PATIENCE)
    try:
        yield sandbox
    finally:
        sandbox.kill()


@pytest.fixture
async def async_sandbox(sandbox: Sandbox) -> AsyncSandbox:
    """The same one."""
    if "E2B_DEBUG" in os.environ:
        return attached(AsyncSandbox)
    return await AsyncSandbox.connect(sandbox.sandbox_id, timeout=3600, **PATIENCE)
