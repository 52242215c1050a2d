"""Calls in a model's text, in the Hermes/Qwen form: <tool_call>{"name": …, "arguments": {…}}</tool_call>."""

from __future__ import annotations

import json
import re
from typing import Any

BLOCK = re.compile(r"\s*<tool_call>(.*?)</tool_call>", re.S)


def split(text: str, prefix: str) -> tuple[str, list[dict[str, Any]]]:
    """(the text without its calls, the calls as OpenAI has them). A block that cannot be read stays text.

    prefix  of the ids that the calls get
    """
    calls: list[dict[str, Any]] = []

    def take(block: re.Match[str]) -> str:
        function = read(block[1])
        if function is None:
            return block[0]
        calls.append({"id": f"{prefix}{len(calls)}", "type": "function", "function": function})
        return ""

    rest = BLOCK.sub(take, text)
    return rest, calls


def read(block: str) -> dict[str, str] | None:
    """{"name", "arguments" as JSON} of one call; None when it is not one."""
    try:
        found = json.loads(block)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    arguments = found.get("arguments", {})
    if not isinstance(arguments, (dict, str)):
        return None
    said = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"name": found["name"], "arguments": said}
