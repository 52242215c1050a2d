"""Response bodies: whole, and as events of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from temper.episode import Completion
from temper.gateway.asked import Asked
from temper.gateway.sessions import Prompt, Session
from temper.tools.calls import apart


@dataclass(frozen=True)
class Choice:
    """One answer as the client gets it. message: of a chat; text: of a completion."""

    said: Completion
    text: str
    message: dict[str, Any]
    finish: str


def choice(asked: Asked, said: Completion, session: Session) -> Choice:
    """Text up to the stop string; calls apart from the text, where tools were offered."""
    text = stopped(said.text, asked.stop)
    rest, calls = apart(text, session.call_prefix()) if asked.tools else (text, [])
    message: dict[str, Any] = {"role": "assistant", "content": rest if rest or not calls else None}
    if calls:
        message["tool_calls"] = calls
    return Choice(said, text, message, "tool_calls" if calls else said.finish)


def stopped(text: str, stop: Sequence[str]) -> str:
    """`text` up to the first stop string in it."""
    found = [at for word in stop if (at := text.find(word)) >= 0]
    return text[: min(found)] if found else text


class Writer:
    """Writes the bodies of one response."""

    def __init__(self, asked: Asked, prompt: Prompt, tokenizer: Any):
        self.asked, self.prompt, self.tokenizer = asked, prompt, tokenizer
        self.kind = "chat.completion" if asked.chat else "text_completion"
        self.id = ("chatcmpl-" if asked.chat else "cmpl-") + secrets.token_hex(12)
        self.created = int(time.time())

    def whole(self, choices: Sequence[Choice]) -> bytes:
        """A response at once. Beyond OpenAI: prompt_token_ids, and token_ids of each choice."""
        body = {
            **self._head(self.kind),
            "choices": [self._choice(i, c) for i, c in enumerate(choices)],
            "usage": self._usage(choices),
            "prompt_token_ids": list(self.prompt.ids),
        }
        return json.dumps(body).encode()

    def opening(self) -> list[bytes]:
        """The first events of a stream: who speaks."""
        if not self.asked.chat:
            return []
        start = {"role": "assistant", "content": ""}
        return [self._event([{"index": i, "delta": start, "finish_reason": None}]) for i in range(self.asked.n)]

    def piece(self, index: int, text: str) -> bytes:
        """An event in the middle of a choice."""
        said = {"delta": {"content": text}} if self.asked.chat else {"text": text}
        return self._event([{"index": index, **said, "finish_reason": None, "logprobs": None}])

    def chunks(self, index: int, c: Choice, sent: str = "") -> list[bytes]:
        """The events that end a choice: the text that was not sent yet, its calls, its end with the ids."""
        rest = c.text[len(sent) :] if c.text.startswith(sent) else ""
        logprobs = self._logprobs(c)
        end: dict[str, Any] = {"index": index, "finish_reason": c.finish, "logprobs": None,
                               "token_ids": list(c.said.ids), "prompt_token_ids": list(self.prompt.ids)}  # fmt: skip
        if not self.asked.chat:
            middle = {"index": index, "text": rest, "finish_reason": None, "logprobs": logprobs}
            return [self._event([middle]), self._event([{**end, "text": ""}])]
        calls = c.message.get("tool_calls", [])
        content = c.message["content"] if calls else rest
        deltas: list[dict[str, Any]] = [{"content": content}] if content else []
        deltas += [{"tool_calls": [{"index": k, **call}]} for k, call in enumerate(calls)]
        deltas = deltas or [{"content": ""}]
        rows = [{"index": index, "delta": d, "finish_reason": None, "logprobs": None} for d in deltas]
        rows[0]["logprobs"] = logprobs
        return [*(self._event([row]) for row in rows), self._event([{**end, "delta": {}}])]

    def closing(self, choices: Sequence[Choice]) -> list[bytes]:
        usage = [self._event([], usage=self._usage(choices))] if self.asked.usage else []
        return [*usage, b"data: [DONE]\n\n"]

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self.asked.chat else self.kind
        return f"data: {json.dumps({**self._head(kind), 'choices': choices, **more})}\n\n".encode()

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.asked.model}

    def _choice(self, index: int, c: Choice) -> dict[str, Any]:
        said = {"message": {**c.message, "refusal": None}} if self.asked.chat else {"text": c.text}
        return {"index": index, **said, "finish_reason": c.finish, "logprobs": self._logprobs(c),
                "token_ids": list(c.said.ids)}  # fmt: skip

    def _usage(self, choices: Sequence[Choice]) -> dict[str, int]:
        asked, said = len(self.prompt.ids), sum(len(c.said.ids) for c in choices)
        return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}

    def _logprobs(self, c: Choice) -> dict[str, Any] | None:
        """Of the sampled tokens. The sampler knows no others: a list of alternatives holds the chosen one alone."""
        if not self.asked.logprobs:
            return None
        texts = [str(self.tokenizer.decode([i])) for i in c.said.ids]
        if self.asked.chat:
            rows = [self._token(t, p) for t, p in zip(texts, c.said.logp, strict=True)]
            return {"content": [{**r, "top_logprobs": [r] if self.asked.top else []} for r in rows], "refusal": None}
        offsets = [sum(map(len, texts[:k])) for k in range(len(texts))]
        top = [{t: p} for t, p in zip(texts, c.said.logp, strict=True)] if self.asked.top else None
        return {"tokens": texts, "token_logprobs": list(c.said.logp), "top_logprobs": top, "text_offset": offsets}

    @staticmethod
    def _token(text: str, logp: float) -> dict[str, Any]:
        return {"token": text, "logprob": logp, "bytes": None if "\ufffd" in text else list(text.encode())}
