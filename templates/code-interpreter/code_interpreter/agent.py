"""The guest agent: it knows the sandbox's environment, and tells it to those who have the sandbox's token."""

import hashlib
from dataclasses import dataclass

import aiohttp

_PATIENCE = aiohttp.ClientTimeout(total=30)


@dataclass(frozen=True)
class Sandbox:
    """What the agent says of the sandbox that this is."""

    environment: dict[str, str]
    # Differs between sandboxes of one template.
    identity: str


class NotAllowed(Exception):
    """The token is not the sandbox's."""


class AgentAway(Exception):
    """The agent does not answer as it should."""


class Agent:
    """Asked anew for each execution: what was true before a snapshot need not be true after it."""

    def __init__(self, url: str) -> None:
        self._url = url
        # No connection is kept: after a snapshot its other end is not there.
        connector = aiohttp.TCPConnector(force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, timeout=_PATIENCE)

    async def sandbox(self, token: str) -> Sandbox:
        """Of the sandbox whose token this is."""
        try:
            async with self._session.get(f"{self._url}/envs", headers={"X-Access-Token": token}) as response:
                if response.status in (401, 403):
                    raise NotAllowed("X-Access-Token is missing, or not this sandbox's")
                if response.status != 200:
                    raise AgentAway(f"the guest agent answered {response.status}")
                environment = await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise AgentAway(f"the guest agent does not answer: {error}") from error
        return Sandbox(environment, hashlib.sha256(token.encode()).hexdigest())

    async def close(self) -> None:
        """Nothing is asked any more."""
        await self._session.close()
