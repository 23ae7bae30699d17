"""A platform that the SDK finds by its environment, and its sandboxes, ended after each test."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from e2b import AsyncSandbox, AsyncVolume, Sandbox, SandboxQuery, Volume
from threads import InThreads, wrapped


async def settled(value: Any) -> Any:
    """What one flavour answers at once, and the other when it is awaited."""
    return await value if inspect.isawaitable(value) else value


class Platform:
    """One flavour of the SDK. All that it makes carries a mark, which children of a fork inherit."""

    def __init__(self, flavour: type) -> None:
        self.is_sync = flavour is Sandbox
        self.kind = InThreads(flavour) if self.is_sync else flavour
        self.mark = uuid.uuid4().hex

    async def create(self, template: str | None = None, metadata: dict[str, str] | None = None, **options: Any) -> Any:
        options.setdefault("timeout", 600)
        return await self.kind.create(template, metadata={"mark": self.mark, **(metadata or {})}, **options)

    async def fork(self, sandbox: Any, **options: Any) -> list[Any]:
        return [wrapped(child) for child in await sandbox.fork(**options)]

    async def list(self, metadata: dict[str, str] | None = None, limit: int | None = None, order: str | None = None, **query: Any) -> list[Any]:
        """All pages."""
        query = SandboxQuery(metadata={"mark": self.mark, **(metadata or {})}, **query)
        return await self.pages(await settled(self.kind.list(query=query, limit=limit, order=order)))

    async def pages(self, paginator: Any) -> list[Any]:
        found = []
        while paginator.has_next:
            found += await settled(paginator.next_items())
        return found

    async def end(self) -> None:
        for info in await self.list():
            await self.kind.kill(info.sandbox_id)


@pytest.fixture(params=[Sandbox, AsyncSandbox], ids=["sync", "async"])
async def platform(request: pytest.FixtureRequest) -> AsyncIterator[Platform]:
    platform = Platform(request.param)
    yield platform
    await platform.end()


@pytest.fixture
async def volumes(platform: Platform) -> AsyncIterator[Any]:
    """Of the same flavour. What `make` makes goes after the test, once no sandbox has it."""
    kind = InThreads(Volume) if platform.is_sync else AsyncVolume
    made = []

    async def make() -> Any:
        volume = await kind.create(f"v-{uuid.uuid4().hex}")
        made.append(volume.volume_id)
        return InThreads(volume) if platform.is_sync else volume

    yield SimpleNamespace(kind=kind, make=make)
    await platform.end()
    for volume_id in made:
        await kind.destroy(volume_id)
