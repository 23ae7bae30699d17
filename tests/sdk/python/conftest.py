"""A sandbox and a folder for each test."""

import uuid
from typing import Any

import pytest
from e2b import AsyncSandbox, Sandbox
from flavours import attach


@pytest.fixture(params=[Sandbox, AsyncSandbox], ids=["sync", "async"])
def flavour(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture
async def sandbox(flavour: type) -> Any:
    return attach(flavour)


@pytest.fixture
async def folder(sandbox: Any) -> str:
    """An empty folder of the default user."""
    path = f"/home/user/{uuid.uuid4().hex}"
    assert await sandbox.files.make_dir(path)
    return path
