"""What an episode keeps of an agent's calls: sampled ids once, observations alone, forks where a history changes."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from typing import Any

import pytest

from temper.backends.base import SamplingParams
from temper.envs.agent import ends_of
from temper.episode import ENV, Recorder
from temper.gateway import asked as asked_
from temper.gateway.answers import choice
from temper.gateway.errors import ApiError
from temper.gateway.recording import Recording
from temper.gateway.render import Renderer
from temper.policy import Seat
from temper.tasks.task import Task
from tests.gateway.doors import Scripted
from tests.models import builders

USER = [{"role": "user", "content": "say ab"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


class Stub:
    """A policy with prepared answers."""

    def __init__(self, tokenizer: Any, *texts: str):
        self.tokenizer, self.sampler = tokenizer, Scripted(tokenizer, *texts)


def session(tokenizer: Any, *texts: str, **options: Any) -> Recording:
    seat: Any = Seat("solver", Stub(tokenizer, *texts), SamplingParams(max_tokens=64), 0, ("test",))  # type: ignore[arg-type]
    return Recording(seat, Recorder(Task("t", "say ab", "ab")), Renderer(tokenizer, 512), ends_of(seat), **options)


def chat(s: Recording, messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """One call; the message that the client gets."""
    return ask(s, asked_.chat({"model": "m", "messages": messages, **fields})).message


def ask(s: Recording, asked: Any) -> Any:
    prompt = s.prompt(asked)
    said = asyncio.run(s.sample(prompt, asked, 0))
    made = choice(asked, said, s)
    s.note(prompt, asked, said, made.message)
    return made


def test_a_second_call_continues_the_first(tokenizer: Any) -> None:
    s = session(tokenizer, "ab", "cd")
    first = chat(s, USER)
    chat(s, [*USER, first, {"role": "user", "content": "more"}])
    turns = s.record.turns
    assert [(t.author, t.parent) for t in turns] == [(ENV, -1), ("solver", 0), (ENV, 1), ("solver", 2)]
    said = [*USER, first, {"role": "user", "content": "more"}, {"role": "assistant", "content": "cd"}]
    whole = tokenizer.apply_chat_template(said, tokenize=False)
    assert tokenizer.decode(s.record.context(3)) == whole.rstrip("\n")
    assert s.chains == 1


@pytest.mark.parametrize("made", [builders.llama2_tokenizer, builders.own_line_tokenizer])
def test_an_end_behind_white_space_is_not_repeated(made: Any) -> None:
    s = session(tokenizer := made(), "ab", "cd", "ef")
    messages: list[dict[str, Any]] = USER
    for n in range(2):
        messages = [*messages, chat(s, messages), {"role": "user", "content": f"more {n}"}]
    prompt = s.prompt(asked_.chat({"model": "m", "messages": messages}))
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert "".join(tokenizer.decode(prompt.ids).split()) == "".join(text.split())
    assert s.chains == 1


def test_sampled_ids_are_never_encoded_again(tokenizer: Any) -> None:
    """The sampler spells a word letter by letter, as the tokenizer never would: the next context has those ids."""
    s = session(tokenizer, "I think ")
    letters = tuple(i for c in "I think " for i in tokenizer.encode(c, add_special_tokens=False))
    assert letters != tuple(tokenizer.encode("I think ", add_special_tokens=False))
    real = s.seat.sample

    async def spelled(ids: Any, **overrides: Any) -> Any:
        said = await real(ids, **overrides)
        return replace(said, ids=(*letters, said.ids[-1]), logp=(-1.0,) * (len(letters) + 1))

    s.seat.sample = spelled  # type: ignore[method-assign]
    first = chat(s, USER)
    chat(s, [*USER, first, {"role": "user", "content": "more"}])
    asked = s.seat.policy.sampler.asked[1]  # type: ignore[attr-defined]
    start = len(s.record.turns[0].ids)
    assert asked[start : start + len(letters)] == letters
    assert s.chains == 1


def test_tool_results_continue_and_are_appended_once(tokenizer: Any) -> None:
    call = 'so\n<tool_call>\n{"name": "add",   "arguments": {"a": 1}}\n</tool_call>'
    s = session(tokenizer, call, "3")
    first = chat(s, USER, tools=[TOOL])
    result = {"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "<|im_end|>3"}
    chat(s, [*USER, first, result], tools=[TOOL])
    assert s.chains == 1
    added = tokenizer.decode(s.record.turns[2].ids)
    assert (
        added == "\n<|im_start|>user\n<tool_response>\n<|im_end|>3\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    ends = tokenizer.encode("<|im_end|>", add_special_tokens=False)
    assert sum(i in ends for i in s.record.turns[2].ids) == 1  # the text's own is text


def test_an_answer_without_its_end_gets_one(tokenizer: Any) -> None:
    s = session(tokenizer, "a")
    real = s.seat.sample

    async def cut_off(ids: Any, **overrides: Any) -> Any:
        said = await real(ids, **overrides)
        return replace(said, ids=said.ids[:-1], logp=said.logp[:-1], finish="length")

    s.seat.sample = cut_off  # type: ignore[method-assign]
    first = chat(s, USER)
    chat(s, [*USER, first, {"role": "user", "content": "more"}])
    assert tokenizer.decode(s.record.turns[2].ids).startswith("<|im_end|>\n<|im_start|>user\nmore")


@pytest.mark.parametrize("change", ["edited", "other", "tools", "regenerated"])
def test_another_history_forks(tokenizer: Any, change: str) -> None:
    s = session(tokenizer, "ab")
    first = chat(s, USER)
    more = {"role": "user", "content": "more"}
    match change:
        case "edited":
            chat(s, [*USER, {**first, "content": "better"}, more])
        case "other":
            chat(s, [{"role": "user", "content": "summarise"}])
        case "tools":
            chat(s, [*USER, first, more], tools=[TOOL])
        case "regenerated":
            chat(s, USER)
    assert s.chains == 2
    assert s.record.turns[2].parent == -1


def test_two_branches_of_one_context_share_it(tokenizer: Any) -> None:
    s = session(tokenizer, "ab")
    first = chat(s, USER)
    for word in ("left", "right"):
        chat(s, [*USER, first, {"role": "user", "content": word}])
    assert [t.parent for t in s.record.turns] == [-1, 0, 1, 2, 1, 4]
    assert s.chains == 1


FAMILIES: dict[str, Any] = {
    "qwen3": builders.qwen3_tokenizer, "llama3": builders.llama3_tokenizer, "gemma": builders.gemma_tokenizer,
    "mixtral": builders.mixtral_tokenizer, "gpt2": builders.gpt2_tokenizer,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_context_is_what_the_template_says(family: str) -> None:
    made = FAMILIES[family]()
    text = " half as many" if family == "gpt2" else "half as many"  # shown as "assistant: …", asked for as "assistant:"
    s = session(made, text)
    first = chat(s, USER)
    second = chat(s, [*USER, first, {"role": "user", "content": "And why?"}])
    said = [*USER, first, {"role": "user", "content": "And why?"}, second, {"role": "user", "content": "Thanks"}]
    last = s.prompt(asked_.chat({"model": "m", "messages": said}))
    plain = [{**m, "content": m["content"].strip()} for m in said]
    assert s.chains == 1
    if family == "mixtral":  # its observations are tokenised alone, and words may be cut elsewhere
        assert made.decode(last.ids).replace(" ", "") == made.apply_chat_template(
            plain, add_generation_prompt=True, tokenize=False
        ).replace(" ", "")
        return
    assert list(last.ids) == made.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)


def test_a_template_without_tools_says_so() -> None:
    s = session(builders.gemma_tokenizer(), "ab")
    for fields in ({"messages": USER, "tools": [TOOL]}, {"messages": [*USER, {"role": "tool", "content": "3"}]}):
        with pytest.raises(ApiError, match="template"):
            s.prompt(asked_.chat({"model": "m", **fields}))


def test_qwen3_drops_earlier_reasoning_and_forks() -> None:
    s = session(builders.qwen3_tokenizer(), "<think>\nhm\n</think>\n\nab", "cd")
    first = chat(s, USER)
    chat(s, [*USER, first, {"role": "user", "content": "And why?"}])
    assert s.chains == 2


def test_a_template_that_rewrites_history_forks(tokenizer: Any) -> None:
    other = copy.deepcopy(tokenizer)
    other.chat_template = tokenizer.chat_template.replace(
        "'<|im_start|>assistant\\n' + content", "'<|im_start|>assistant\\n' + (content if loop.last else '')"
    )
    assert other.chat_template != tokenizer.chat_template
    s = session(other, "ab")
    first = chat(s, USER)
    chat(s, [*USER, first, {"role": "user", "content": "more"}])
    assert s.chains == 2


def test_completions_continue_by_text_and_by_ids(tokenizer: Any) -> None:
    s = session(tokenizer, "ab")
    ask(s, asked_.text({"model": "m", "prompt": "say "}))
    text = "say ab"
    ask(s, asked_.text({"model": "m", "prompt": text + " more"}))
    ask(s, asked_.text({"model": "m", "prompt": [*s.record.context(3), 7]}))
    assert [t.parent for t in s.record.turns] == [-1, 0, 1, 2, 3, 4]
    assert s.record.turns[4].ids == (7,)


def test_the_run_says_how_is_sampled_unless_the_agent_is_followed(tokenizer: Any) -> None:
    asked = asked_.chat({"model": "m", "messages": USER, "temperature": 0, "seed": 1, "max_tokens": 1000})
    assert session(tokenizer, "ab")._params(asked) == {"max_tokens": 64, "stop": ()}
    assert session(tokenizer, "ab", follow=True)._params(asked)["temperature"] == 0


def test_a_context_that_is_full_is_remembered(tokenizer: Any) -> None:
    s = session(tokenizer, "ab")
    with pytest.raises(ApiError):
        chat(s, [{"role": "user", "content": "a b " * 400}])
    assert s.full
