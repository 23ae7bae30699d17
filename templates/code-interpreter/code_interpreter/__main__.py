"""Starts the server: `python3 -m code_interpreter`. `/health` answers once kernels of every language wait for a first cell.

From the environment: CODE_INTERPRETER_PORT (49999), CODE_INTERPRETER_AGENT (the guest agent's URL), HOME, in which contexts start.
"""

import asyncio
import os
import signal
import site

from aiohttp import web

from .agent import Agent
from .contexts import Contexts
from .python import PythonKernels
from .server import application
from .shell import BashKernel


async def main() -> None:
    """Until the process is told to end."""
    home = os.environ.get("HOME", "/home/user")
    agent = Agent(os.environ.get("CODE_INTERPRETER_AGENT", "http://127.0.0.1:49983"))
    kernels = PythonKernels()
    contexts = Contexts({"python": kernels.start, "bash": BashKernel.in_folder}, home)
    await asyncio.gather(*(contexts.default(language).kernel() for language in ("python", "bash")))
    runner = web.AppRunner(application(contexts, agent), handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "0.0.0.0", int(os.environ.get("CODE_INTERPRETER_PORT", "49999"))).start()
        ending = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
        await ending.wait()
    finally:
        for context in contexts.list():
            contexts.remove(context.id)
        await runner.cleanup()
        await kernels.close()
        await agent.close()


if __name__ == "__main__":
    # Where a cell's `pip install` puts packages: a kernel finds them only if the folder was there when it started.
    if site.ENABLE_USER_SITE:
        os.makedirs(site.getusersitepackages(), exist_ok=True)
    # A shell has its background jobs ignore these, and so would all that cells start: nothing could be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    asyncio.run(main())
