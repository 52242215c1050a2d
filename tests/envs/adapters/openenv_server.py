"""A game behind OpenEnv's own server: `python openenv_server.py PORT`. It can fail in every way."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from fastmcp import FastMCP
from openenv.core import EnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_server import Action, Environment, MCPEnvironment, Observation, State, create_fastapi_app
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation


class Guess(Action):
    word: str


class Seen(Observation):
    text: str = ""


class Game(Environment):
    """Find the word: 0.25 for each guess, 1 for the word. Words that name a failure fail."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self.word: str | None = None

    def reset(self, seed: int | None = None, episode_id: str | None = None, how: str = "", **options: Any) -> Seen:
        if how == "raise":
            raise RuntimeError("no game today")
        if how == "hang":
            time.sleep(3)
        self.word, self.how, self.steps = f"word{seed}", how, 0
        said = {"long": "x" * 10_000_000, "surrogate": "half \\ud800", "hostile": options.get("hostile", "")}
        return Seen(text=said.get(how, f"Find word {seed}."))

    def step(self, action: Guess, timeout_s: float | None = None, **options: Any) -> Seen:
        match action.word:
            case "raise":
                raise ValueError("not like this")
            case "hang":
                time.sleep(3)
            case "die":
                os._exit(1)
        if self.word is None:
            return Seen(text="no game", reward=0.0, done=True)  # what many servers say to a session without a reset
        self.steps += 1
        found = action.word == self.word
        reward = {"nan": float("nan"), "none": None}.get(self.how, 1.0 if found else 0.25)
        return Seen(text="Found." if found else "Not that.", reward=reward, done=found or self.steps == 4)

    @property
    def state(self) -> State:
        return State()


class GameClient(EnvClient[Guess, Seen, State]):
    def _step_payload(self, action: Guess) -> dict[str, Any]:
        return action.model_dump()

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[Seen]:
        seen = Seen(**payload["observation"], reward=payload.get("reward"), done=payload["done"])
        return StepResult(observation=seen, reward=payload.get("reward"), done=payload["done"])

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(**payload)


class Sums(MCPEnvironment):
    """A tool; a call is rewarded with its result."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        mcp = FastMCP("sums")

        @mcp.tool
        def add(a: int, b: int) -> int:
            """Add two numbers."""
            if a < 0:
                raise ValueError("not below 0")
            return a + b

        super().__init__(mcp)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **options: Any) -> Observation:
        return Observation(metadata={"seed": seed})

    def _step_impl(self, action: Action, timeout_s: float | None = None, **options: Any) -> Observation:
        return Observation(metadata={"error": "calls only"})

    def step(self, action: Action, timeout_s: float | None = None, **options: Any) -> Observation:
        return self._paid(super().step(action, timeout_s=timeout_s, **options))

    async def step_async(self, action: Action, timeout_s: float | None = None, **options: Any) -> Observation:
        return self._paid(await super().step_async(action, timeout_s=timeout_s, **options))

    def _paid(self, seen: Observation) -> Observation:
        if isinstance(seen, CallToolObservation):
            seen.reward = 0.0 if seen.error else 1.0
        return seen

    @property
    def state(self) -> State:
        return State()


if __name__ == "__main__":
    import uvicorn

    app = create_fastapi_app(Game, Guess, Seen, max_concurrent_envs=64)
    app.mount("/sums", create_fastapi_app(Sums, CallToolAction, CallToolObservation, max_concurrent_envs=8))
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
