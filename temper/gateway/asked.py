"""A client's JSON as a typed request; whatever is wrong with it is refused with the name of the field.

An option that would have no effect is refused too, except for those that do not ask for anything in the answer
(`IGNORED`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from temper.gateway.errors import ApiError, invalid
from temper.tools.base import nested

MOST_CHOICES = 128
DEEPEST = 100  # lists and objects of a body within one another
ROLES = ("system", "developer", "user", "assistant", "tool")
IGNORED = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
)
NEUTRAL: dict[str, tuple[Any, ...]] = {  # fields that are accepted only where they change nothing
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "echo": (False,), "best_of": (1,),
    "response_format": ({"type": "text"},), "suffix": ("",), "modalities": (["text"],),
}  # fmt: skip
COMMON = ("model", "n", "stream", "stream_options", "stop", "max_tokens", "temperature", "top_p", "top_k", "seed",
          "logprobs")  # fmt: skip
CHAT = frozenset((*COMMON, "messages", "tools", "tool_choice", "max_completion_tokens", "top_logprobs"))
TEXT = frozenset((*COMMON, "prompt"))


@dataclass(frozen=True)
class Asked:
    """A checked request. Either `messages` (chat) or `prompt` (text, or ids) is set.

    params   of sampling, only those that were given (fields of SamplingParams)
    top      how many alternatives a token's log-prob is to be shown with (the sampler knows the chosen token's only)
    """

    model: str
    messages: tuple[dict[str, Any], ...] = ()
    prompt: str | tuple[int, ...] = ""
    tools: tuple[dict[str, Any], ...] = ()
    n: int = 1
    stream: bool = False
    usage: bool = False
    logprobs: bool = False
    top: int = 0
    seed: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chat(self) -> bool:
        return bool(self.messages)

    @property
    def stop(self) -> tuple[str, ...]:
        stop: tuple[str, ...] = self.params.get("stop", ())
        return stop


def parse(body: bytes) -> dict[str, Any]:
    """The body as a JSON object."""
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        if nested(found, DEEPEST):
            raise RecursionError
        json.dumps(found, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is not text
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not UTF-8", code="invalid_json")
    except UnicodeEncodeError:
        raise ApiError(400, "the body has half of a surrogate pair in a string", code="invalid_json")
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply", code="invalid_json")
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {str(error)[:200]}", code="invalid_json")
    if not isinstance(found, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return found


def chat(row: Mapping[str, Any]) -> Asked:
    """A request to /v1/chat/completions."""
    _known(row, CHAT)
    top = _int(row, "top_logprobs", 0, 20)
    wanted = _bool(row, "logprobs")
    if top and not wanted:
        raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
    longest = "max_tokens" if row.get("max_completion_tokens") is None else "max_completion_tokens"
    return Asked(
        messages=_messages(row), tools=_tools(row), logprobs=wanted, top=top or 0, **_shared(row, longest)
    )  # fmt: skip


def text(row: Mapping[str, Any]) -> Asked:
    """A request to /v1/completions."""
    _known(row, TEXT)
    top = _int(row, "logprobs", 0, 5)
    return Asked(prompt=_prompt(row), logprobs=top is not None, top=top or 0, **_shared(row, "max_tokens"))


def _shared(row: Mapping[str, Any], longest: str) -> dict[str, Any]:
    model = row.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("model must be a string", "model")
    options = row.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise invalid("stream_options must be an object", "stream_options")
    given = {
        "max_tokens": _int(row, longest, 1, 2**31),
        "temperature": _number(row, "temperature", 0, 2),
        "top_p": _number(row, "top_p", 1e-6, 1),
        "top_k": _int(row, "top_k", 0, 2**31),
        "stop": _stop(row),
    }
    return {
        "model": model,
        "n": _int(row, "n", 1, MOST_CHOICES) or 1,
        "stream": _bool(row, "stream"),
        "usage": _bool(options or {}, "include_usage"),
        "seed": _int(row, "seed", -(2**63), 2**63 - 1),
        "params": {k: v for k, v in given.items() if v is not None},
    }


def _known(row: Mapping[str, Any], known: frozenset[str]) -> None:
    for name, value in row.items():
        if name in known or name in IGNORED or value is None or value in NEUTRAL.get(name, ()):
            continue
        why = "is not supported with this value" if name in NEUTRAL else "is not a field that this server reads"
        raise ApiError(400, f"{name[:80]} {why}", param=name[:80], code="unsupported_parameter")


def _int(row: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise invalid(f"{name} must be an integer from {low} to {high}", name)
    return value


def _number(row: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise invalid(f"{name} must be a number from {low:g} to {high:g}", name)
    return float(value)


def _bool(row: Mapping[str, Any], name: str) -> bool:
    value = row.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(f"{name} must be true or false", name)
    return bool(value)


def _stop(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    value = row.get("stop")
    if value is None:
        return None
    words = [value] if isinstance(value, str) else value
    if (
        not isinstance(words, list)
        or len(words) > 16
        or not all(isinstance(w, str) and 0 < len(w) <= 256 for w in words)
    ):
        raise invalid("stop must be a string, or up to 16 of them, of 1 to 256 characters", "stop")
    return tuple(words)


def _prompt(row: Mapping[str, Any]) -> str | tuple[int, ...]:
    value = row.get("prompt")
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], (str, list)):
        value = value[0]
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and all(type(i) is int and 0 <= i < 2**31 for i in value):
        return tuple(value)
    raise invalid("prompt must be one text, or one list of token ids, and not empty", "prompt")


def _messages(row: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    value = row.get("messages")
    if not isinstance(value, list) or not value:
        raise invalid("messages must be a list with at least one message", "messages")
    return tuple(message(m, f"messages[{i}]") for i, m in enumerate(value))


def message(given: Any, where: str = "message") -> dict[str, Any]:
    """A message with only what a template reads: role, content as text, tool_calls, tool_call_id, name."""
    if not isinstance(given, dict) or given.get("role") not in ROLES:
        raise invalid(f"{where} must be an object with a role: {', '.join(ROLES)}", where)
    role = "system" if given["role"] == "developer" else given["role"]
    out: dict[str, Any] = {"role": role, "content": _content(given.get("content"), f"{where}.content")}
    if given.get("content") is None and role != "assistant":
        raise invalid(f"{where}.content is missing", where)
    for name in ("tool_call_id", "name"):
        if given.get(name) is not None:
            if not isinstance(given[name], str):
                raise invalid(f"{where}.{name} must be a string", where)
            out[name] = given[name]
    if role == "assistant" and given.get("tool_calls"):
        out["tool_calls"] = _calls(given["tool_calls"], f"{where}.tool_calls")
    return out


def _content(value: Any, where: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise invalid(f"{where} must be text or a list of parts", where)
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise invalid(f"{where}: only parts of type text are supported", where)
    return "".join(part["text"] for part in value)


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise invalid(f"{where} must be a list", where)
    out = []
    for call in value:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise invalid(f"{where}: a call needs a function with a name", where)
        if not isinstance(function.get("arguments"), str) or not isinstance(call.get("id", ""), str):
            raise invalid(f"{where}: a call's id is a string, and its arguments are JSON in a string", where)
        said = {"name": function["name"], "arguments": arguments(function["arguments"])}
        out.append({"id": call.get("id", ""), "type": "function", "function": said})
    return out


def arguments(text: str) -> Any:
    """A call's arguments as an object where they are one (what templates expect), else as they are."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, dict) and not nested(found) else text


def _tools(row: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    value, choice = row.get("tools"), row.get("tool_choice")
    if choice not in (None, "auto", "none"):
        raise ApiError(400, 'tool_choice must be "auto" or "none"', param="tool_choice", code="unsupported_parameter")
    if value is None or value == []:
        return ()
    if not isinstance(value, list) or len(value) > 128:
        raise invalid("tools must be a list of at most 128 tools", "tools")
    for i, tool in enumerate(value):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise invalid(f'tools[{i}] must be {{"type": "function", "function": {{"name": …}}}}', "tools")
    return tuple(value) if choice != "none" else ()


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
