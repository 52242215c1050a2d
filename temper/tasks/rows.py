"""A row of data as a task. Accepted as they are, without conversion:

    TRL        prompt | messages | prompt + completion | prompt + chosen + rejected | chosen + rejected
               prompt + completion + label | prompt + completions + labels | text    (and tools, images)
    verl       data_source, prompt, ability, reward_model.ground_truth, extra_info
    verifiers  question or prompt, answer, info (a mapping or JSON), task
    others     question or problem + answer or solution, or the keys that the caller names

Everything else of a row is in Task.info under its own name, unchanged; only an implicit prompt is cut off chosen and
rejected.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temper.errors import UserError, unknown
from temper.tasks.task import Task

Messages = list[dict[str, Any]]
Row = Mapping[str, Any]
IMPLICIT = "chosen and rejected"
_PROMPTS = ("prompt", "question", "problem", "query")
_ANSWERS = ("answer", "reward_model.ground_truth", "ground_truth", "solution", "target")


class Malformed(ValueError):
    """What is wrong with a row; whoever knows where it stands says so."""


@dataclass(frozen=True)
class Keys:
    """Which columns hold the prompt and the answer ("a.b" reaches into mappings); None: found by the usual names."""

    prompt: str | None = None
    answer: str | None = None
    system: str | None = None


def to_task(row: Any, id: str, source: str, keys: Keys | None = None) -> Task:
    """Malformed says what is wrong; UserError when a key that the caller named does not exist."""
    keys = keys or Keys()
    if not isinstance(row, Mapping):
        raise Malformed(f"a row must be an object with named fields, got {type(row).__name__}")
    used, prompt = _prompt(row, keys.prompt)
    row = _cut(row, prompt) if used == IMPLICIT else row
    if keys.system is not None and not (isinstance(prompt, list) and prompt and prompt[0]["role"] == "system"):
        rest = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        prompt = [{"role": "system", "content": keys.system}, *rest]
    _check_types(row)
    info = {k: v for k, v in row.items() if k != used}
    answer = _answer(row, keys.answer)
    if isinstance(answer, str):
        info.pop("answer", None) if row.get("answer") == answer else None
    elif answer is not None:
        info["answer"] = answer  # as it is; Task.answer is its text
    if isinstance(info.get("info"), str):
        info["info"] = _json_object(info["info"])
    return Task(id, prompt, _text(answer), _source(row, source), info)


def _prompt(row: Row, key: str | None) -> tuple[str, str | Messages]:
    """(the column that is used up, the prompt)."""
    if key is not None:
        return key, _prompt_value(look_up(row, key), key)
    for name in _PROMPTS:
        if row.get(name) is not None:
            return name, _prompt_value(row[name], name)
    if row.get("messages") is not None:
        return "", split_dialogue(_messages(row["messages"], "messages"))[0]
    if row.get("chosen") is not None and row.get("rejected") is not None:
        return IMPLICIT, common_prompt(row["chosen"], row["rejected"])
    if isinstance(row.get("text"), str):
        return "", []
    raise Malformed(
        "no prompt: a row needs prompt, question, problem, query, messages, text, or chosen and rejected "
        f"(it has: {', '.join(map(str, row)) or 'nothing'})"
    )


def _cut(row: Row, prompt: str | Messages) -> Row:
    """The row with its implicit prompt taken off the two continuations."""
    return {**row, **{name: row[name][len(prompt) :] for name in ("chosen", "rejected")}}


def look_up(row: Row, key: str) -> Any:
    """The value at "a" or "a.b". UserError names the columns that exist."""
    if key in row:
        return row[key]
    value: Any = row
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise unknown("column", key, map(str, row))
        value = value[part]
    return value


def _prompt_value(value: Any, name: str) -> str | Messages:
    if isinstance(value, str):
        _whole(value, name)
        if not value.strip():
            raise Malformed(f"{name} is empty")
        return value
    return _messages(value, name)


def _messages(value: Any, name: str) -> Messages:
    """A non-empty list of messages."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise Malformed(f"{name} must be text or a list of messages, got {type(value).__name__}")
    _whole(str(value), name)
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise Malformed(f'{name} must hold messages with "role" and "content", got {str(message)[:60]}')
    if not value:
        raise Malformed(f"{name} is empty")
    return [dict(m) for m in value]


def _check_types(row: Row) -> None:
    """The columns that belong together, where they are there."""
    if ("chosen" in row) != ("rejected" in row) and "prompt" in row:
        raise Malformed(f"{'rejected' if 'chosen' in row else 'chosen'} is missing")
    completions, labels = row.get("completions"), row.get("labels")
    if isinstance(completions, list) and isinstance(labels, list) and len(completions) != len(labels):
        raise Malformed(f"{len(completions)} completions but {len(labels)} labels")
    for name in ("completion", "chosen", "rejected"):
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            _messages(value, name)


def _answer(row: Row, key: str | None) -> Any:
    if key is not None:
        return look_up(row, key)
    for name in _ANSWERS:
        head, _, tail = name.partition(".")
        value = row.get(head)
        value = value.get(tail) if tail and isinstance(value, Mapping) else None if tail else value
        if value is not None:
            return value
    return None


def _text(answer: Any) -> str | None:
    if isinstance(answer, list | dict):
        return json.dumps(answer, ensure_ascii=False, default=str)
    return None if answer is None else _whole(str(answer), "the answer")


def _whole(text: str, name: str) -> str:
    """Malformed for half a character (a lone surrogate, as JSON may spell it): no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Malformed(f"{name} holds half a character (\\u{ord(text[error.start]):04x}): put \\ufffd in its place")
    return text


def _source(row: Row, source: str) -> str:
    for name in ("data_source", "task"):
        if isinstance(row.get(name), str) and row[name]:
            return str(row[name])
    return source


def _json_object(text: str) -> Any:
    """verifiers keeps `info` as JSON text; any other text stays what it is."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, dict) else text


# what SFT and preference environments need --------------------------------------------------------------------------


def split_dialogue(messages: Messages) -> tuple[Messages, Messages]:
    """(before, from) the last message of the assistant; without one, everything is prompt."""
    for i in range(len(messages) - 1, -1, -1):
        if messages[i]["role"] == "assistant":
            return messages[:i], messages[i:]
    return messages, []


def common_prompt(chosen: Any, rejected: Any) -> str | Messages:
    """The prompt that both continuations begin with (TRL's implicit prompt)."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        n = next((i for i, (x, y) in enumerate(zip(chosen, rejected)) if x != y), min(len(chosen), len(rejected)))
        shared = chosen[:n].removesuffix(" ")  # the space belongs to the continuations
        return _prompt_value(shared, "the common beginning of chosen and rejected")
    a, b = _messages(chosen, "chosen"), _messages(rejected, "rejected")
    n = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return a[:n]


def demonstration(task: Task) -> tuple[Messages, Messages]:
    """(prompt, completion) as messages, from completion, messages, text, chosen or the answer, whichever is first."""
    info = task.info
    if info.get("completion") is not None:
        return task.messages, _reply(task, info["completion"])
    if info.get("messages") is not None:
        _, reply = split_dialogue([dict(m) for m in info["messages"]])
        if reply:
            return task.messages, reply
    if isinstance(info.get("text"), str) and not task.prompt:
        return [], _said(info["text"])
    if info.get("chosen") is not None:
        return task.messages, _reply(task, info["chosen"])
    if task.answer is not None:
        return task.messages, _said(task.answer)
    raise UserError(f"task {task.id!r} demonstrates nothing: it has neither completion, messages, text nor an answer")


def demonstrations(tasks: Iterable[Task]) -> list[tuple[Messages, Messages]]:
    """`demonstration` of each."""
    return [demonstration(task) for task in tasks]


def preference(task: Task) -> tuple[Messages, Messages, Messages]:
    """(prompt, chosen, rejected) as messages."""
    chosen, rejected = task.info.get("chosen"), task.info.get("rejected")
    if chosen is None or rejected is None:
        raise UserError(f"task {task.id!r} has no preference: it needs chosen and rejected")
    return task.messages, _reply(task, chosen), _reply(task, rejected)


def preferences(tasks: Iterable[Task]) -> list[tuple[Messages, Messages, Messages]]:
    """`preference` of each."""
    return [preference(task) for task in tasks]


def labelled(task: Task) -> tuple[Messages, Messages, bool]:
    """(prompt, completion, whether it is a good one): TRL's unpaired preference."""
    if "completion" not in task.info or "label" not in task.info:
        raise UserError(f"task {task.id!r} is not labelled: it needs completion and label")
    return task.messages, _reply(task, task.info["completion"]), bool(task.info["label"])


def _reply(task: Task, value: Any) -> Messages:
    """A completion without the prompt that it may repeat."""
    if isinstance(value, str):
        return _said(value)
    reply, prompt = [dict(m) for m in value], task.messages
    while prompt and prompt[0]["role"] == "system" and (not reply or reply[0]["role"] != "system"):
        prompt = prompt[1:]
    return reply[len(prompt) :] if reply[: len(prompt)] == prompt else reply


def _said(text: str) -> Messages:
    return [{"role": "assistant", "content": text}]
