"""Agents as functions, without any library."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from temper.tasks.task import Task


def ask(base_url: str, api_key: str, messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """One chat call and the message that comes back."""
    body = json.dumps({"model": "any", "messages": messages, **fields}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {api_key}"}
    request = urllib.request.Request(f"{base_url}/chat/completions", body, headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        message: dict[str, Any] = json.load(answer)["choices"][0]["message"]
        return message


def polite(task: Task, base_url: str, api_key: str) -> float:
    """Two calls; the reward is how long the last answer is."""
    messages = list(task.messages)
    for _ in range(2):
        answer = ask(base_url, api_key, messages)
        messages += [answer, {"role": "user", "content": "more"}]
    return len(answer["content"])
