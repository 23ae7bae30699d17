"""Gives the synchronous SDK the shape of the other: each of its calls runs in a thread of its own, as in a program that uses it from
threads."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

THREADS = ThreadPoolExecutor(max_workers=64)


class InThreads:
    """A synchronous object or class of the SDK whose methods can be awaited."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if not callable(value):
            return wrapped(value)

        async def call(*args: Any, **options: Any) -> Any:
            loop = asyncio.get_running_loop()
            return wrapped(await loop.run_in_executor(THREADS, partial(value, *args, **options)))

        return call


def wrapped(value: Any) -> Any:
    return InThreads(value) if type(value).__module__.startswith("e2b.sandbox_sync.") else value
