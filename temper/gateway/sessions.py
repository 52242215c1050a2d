"""What a key may talk to: a model as it is (`Open`), or an episode that records each call (`recording.Recording`)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from temper import streams
from temper.backends.base import Sampler, SamplingParams
from temper.episode import Completion
from temper.gateway.asked import Asked
from temper.gateway.errors import ApiError, too_long
from temper.gateway.render import Renderer

Heard = Callable[[int], None]


@dataclass
class Prompt:
    """What is continued. A recording session keeps in `mark` where it belongs.

    ids  the whole context
    """

    ids: tuple[int, ...]
    mark: Any = field(default=None, repr=False)


class Session(Protocol):
    """One model as the client of one key sees it. `model` None: the client may call it what it likes."""

    model: str | None
    render: Renderer

    def prompt(self, asked: Asked) -> Prompt:
        """What the model is to continue. Raises ApiError."""
        ...

    async def sample(self, prompt: Prompt, asked: Asked, n: int, heard: Heard | None = None) -> Completion:
        """The n-th choice. `heard` may be called with its tokens as they come."""
        ...

    def note(self, prompt: Prompt, asked: Asked, said: Completion, message: Mapping[str, Any]) -> None:
        """A choice is complete, and goes to the client as `message`."""
        ...

    def call_prefix(self) -> str:
        """Of the ids of the tool calls in one choice; another one each time."""
        ...


@dataclass
class Open:
    """A model that remembers nothing. defaults: where a request does not say."""

    model: str | None
    sampler: Sampler
    render: Renderer
    defaults: SamplingParams = field(default_factory=SamplingParams)

    def prompt(self, asked: Asked) -> Prompt:
        return checked(Prompt(ids_of(asked, self.render)), self.render.context)

    async def sample(self, prompt: Prompt, asked: Asked, n: int, heard: Heard | None = None) -> Completion:
        seed = secrets.randbits(62) if asked.seed is None else streams.key(asked.seed, n)
        params = self.defaults.but(**asked.params, seed=seed)
        if heard is None or not getattr(self.sampler, "streams", False):
            return await self.sampler.sample(prompt.ids, params)
        sampler: Any = self.sampler
        said: Completion = await sampler.sample(prompt.ids, params, heard=heard)
        return said

    def note(self, prompt: Prompt, asked: Asked, said: Completion, message: Mapping[str, Any]) -> None:
        pass

    def call_prefix(self) -> str:
        return f"call_{secrets.token_hex(8)}_"


def ids_of(asked: Asked, render: Renderer) -> tuple[int, ...]:
    """The prompt of a request by itself."""
    if asked.chat:
        return render.ids(render.text(asked.messages, asked.tools))
    return render.plain(asked.prompt) if isinstance(asked.prompt, str) else asked.prompt


def checked(prompt: Prompt, context: int) -> Prompt:
    """The prompt, when it leaves room for an answer."""
    if len(prompt.ids) >= context:
        raise too_long(len(prompt.ids), context)
    if not prompt.ids:
        raise ApiError(400, "there is nothing to continue", param="prompt", code="invalid_value")
    return prompt
