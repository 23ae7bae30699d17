"""The routes, and how an execution is told: a line of JSON for each event, written whole and at once."""

import contextlib
import json
from typing import Any

from aiohttp import web

from .agent import Agent, AgentAway, NotAllowed
from .contexts import Context, Contexts, Execution, NoSuchContext, events
from .kernel import CannotRun, Cell

# A client that hears nothing for longer may take the connection for dead, and so may what is between.
KEEPALIVE = 5.0
_BODY_MAX = 64 << 20


class _BadRequest(Exception):
    """What was sent is not what the route takes."""


def application(contexts: Contexts, agent: Agent) -> web.Application:
    """The whole of it."""
    routes = _Routes(contexts, agent)
    app = web.Application(client_max_size=_BODY_MAX, middlewares=[_refusals])
    app.add_routes(
        [
            web.get("/health", routes.health),
            web.post("/execute", routes.execute),
            web.get("/contexts", routes.list),
            web.post("/contexts", routes.create),
            web.delete("/contexts/{id}", routes.remove),
            web.post("/contexts/{id}/restart", routes.restart),
        ]
    )
    return app


@web.middleware
async def _refusals(request: web.Request, handler: Any) -> web.StreamResponse:
    """Each kind of refusal has its status: clients tell them apart by that."""
    try:
        return await handler(request)
    except (_BadRequest, CannotRun) as error:
        return _refused(400, error)
    except NotAllowed as error:
        return _refused(401, error)
    except NoSuchContext as error:
        return _refused(404, error)
    except AgentAway as error:
        return _refused(503, error)


def _refused(status: int, error: Exception) -> web.Response:
    return web.json_response({"code": status, "message": str(error)}, status=status)


class _Routes:
    def __init__(self, contexts: Contexts, agent: Agent) -> None:
        self._contexts = contexts
        self._agent = agent

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def execute(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        code = _text(body, "code")
        if code is None:
            raise _BadRequest("code is missing")
        context_id, language = _text(body, "context_id"), _text(body, "language")
        if context_id and language:
            raise _BadRequest("context_id and language exclude each other")
        context = self._contexts.get(context_id) if context_id else self._contexts.default(language)
        sandbox = await self._agent.sandbox(request.headers.get("X-Access-Token", ""))
        cell = Cell(code, sandbox.environment, _variables(body), sandbox.identity)

        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        await response.prepare(request)
        # A client that goes away cancels this handler, and with it the execution.
        async with contextlib.aclosing(events(Execution(context, cell), KEEPALIVE)) as lines:
            async for event in lines:
                # In ASCII: a reader of the SDKs decodes piece by piece, and cuts what is longer than a byte.
                await response.write(json.dumps(event).encode("ascii") + b"\n")
        return response

    async def list(self, _request: web.Request) -> web.Response:
        return web.json_response([_shown(context) for context in self._contexts.list()])

    async def create(self, request: web.Request) -> web.Response:
        body = await _body(request)
        return web.json_response(_shown(await self._contexts.create(_text(body, "language"), _text(body, "cwd"))))

    async def remove(self, request: web.Request) -> web.Response:
        self._contexts.remove(request.match_info["id"])
        return web.Response(status=204)

    async def restart(self, request: web.Request) -> web.Response:
        await self._contexts.get(request.match_info["id"]).restart()
        return web.Response(status=204)


def _shown(context: Context) -> dict[str, str]:
    return {"id": context.id, "language": context.language, "cwd": context.cwd}


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _BadRequest(f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise _BadRequest("the body is no object")
    return body


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None or isinstance(value, str):
        return value
    raise _BadRequest(f"{name} is no text")


def _variables(body: dict[str, Any]) -> dict[str, str]:
    found = body.get("env_vars") or {}
    if not isinstance(found, dict):
        raise _BadRequest("env_vars is no object")
    for name, value in found.items():
        if not name or "=" in name or not isinstance(value, str) or "\0" in name + value:
            raise _BadRequest(f"env_vars: {name!r} is no variable with a text")
    return found
