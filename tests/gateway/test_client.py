"""The real `openai` client, and curl, against the gateway."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from typing import Any

import pytest

from temper.gateway.pieces import Pieces
from temper.gateway.server import Gateway
from tests.gateway.doors import Scripted, opened

openai = pytest.importorskip("openai")
ASK = [{"role": "user", "content": "say ab"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def client(gateway: Any, key: str = "none") -> Any:
    return openai.OpenAI(base_url=gateway.url, api_key=key, max_retries=0, timeout=20)


def test_a_chat(door: Gateway, tokenizer: Any) -> None:
    with client(door) as c:
        said = c.chat.completions.create(model="toy", messages=ASK, max_completion_tokens=5, seed=1)
        again = c.chat.completions.create(model="toy", messages=ASK, max_tokens=5, seed=1)
    assert said.choices[0].message.content == again.choices[0].message.content
    assert tuple(said.prompt_token_ids) == tuple(
        tokenizer.apply_chat_template(ASK, add_generation_prompt=True, return_dict=False)
    )
    assert said.usage.prompt_tokens == len(said.prompt_token_ids)
    assert said.usage.completion_tokens == len(said.choices[0].token_ids) <= 5


def test_choices_and_log_probs(door: Gateway) -> None:
    with client(door) as c:
        said = c.chat.completions.create(model="toy", messages=ASK, n=3, logprobs=True, top_logprobs=2, seed=2)
    assert len({tuple(choice.token_ids) for choice in said.choices}) == 3
    for choice in said.choices:
        assert len(choice.logprobs.content) == len(choice.token_ids)
        assert all(t.logprob < 0 and t.top_logprobs[0].token == t.token for t in choice.logprobs.content)


def test_a_completion_of_text_and_of_ids(door: Gateway, tokenizer: Any) -> None:
    with client(door) as c:
        text = c.completions.create(model="toy", prompt="say ab", max_tokens=4, temperature=0, logprobs=1)
        ids = c.completions.create(model="toy", prompt=tokenizer.encode("say ab"), max_tokens=4, temperature=0)
    assert text.choices[0].text == ids.choices[0].text
    assert len(text.choices[0].logprobs.token_logprobs) == len(text.choices[0].token_ids)


def test_a_stream_says_what_a_whole_answer_says(door: Gateway) -> None:
    options = {"model": "toy", "messages": ASK, "seed": 3, "n": 2}
    with client(door) as c:
        whole = c.chat.completions.create(**options)
        events = list(c.chat.completions.create(stream=True, stream_options={"include_usage": True}, **options))
        text = "".join(e.choices[0].text for e in c.completions.create(model="toy", prompt="a", stream=True, seed=1))
        assert text == c.completions.create(model="toy", prompt="a", seed=1).choices[0].text
    for i in (0, 1):
        mine = [e.choices[0] for e in events if e.choices and e.choices[0].index == i]
        assert "".join(p.delta.content or "" for p in mine) == whole.choices[i].message.content
        assert mine[-1].token_ids == whole.choices[i].token_ids
        assert mine[-1].finish_reason == whole.choices[i].finish_reason
    assert events[-1].usage.total_tokens == whole.usage.total_tokens


def test_a_stream_comes_token_by_token(door: Gateway) -> None:
    with client(door) as c:
        options = {"model": "toy", "prompt": "say ab", "seed": 4, "max_tokens": 60}
        whole = c.completions.create(**options).choices[0].text
        stop = whole[len(whole) // 2 :][:2]
        for more in ({}, {"stop": [stop]}):
            said = c.completions.create(**options, **more).choices[0].text
            texts = [e.choices[0].text for e in c.completions.create(stream=True, **options, **more)]
            assert "".join(texts) == said
            assert sum(map(bool, texts)) > 3
    assert said == whole[: whole.index(stop)]


def test_pieces_hold_back_half_characters_and_half_stops(tokenizer: Any) -> None:
    pieces = Pieces(tokenizer, ["</end>", "xy"])
    said = [pieces.add(i) for i in tokenizer.encode("añ→😀b</e</end> never", add_special_tokens=False)]
    assert "".join(said) == pieces.sent == "añ→😀b</e"
    assert all("\ufffd" not in s for s in said)


def test_stop_strings_are_left_out_of_the_text(tokenizer: Any) -> None:
    with opened(Scripted(tokenizer, "one. two. three"), tokenizer) as g, client(g) as c:
        said = c.chat.completions.create(model="toy", messages=ASK, stop=[" three", " two"])
    assert said.choices[0].message.content == "one."


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls(tokenizer: Any, stream: bool) -> None:
    text = 'I add.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>no JSON</tool_call>'
    with opened(Scripted(tokenizer, text), tokenizer) as g, client(g) as c:
        if stream:
            with c.chat.completions.stream(model="toy", messages=ASK, tools=[TOOL]) as events:
                choice = events.get_final_completion().choices[0]
        else:
            choice = c.chat.completions.create(model="toy", messages=ASK, tools=[TOOL]).choices[0]
        untold = c.chat.completions.create(model="toy", messages=ASK).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I add.\n<tool_call>no JSON</tool_call>"
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1})
    assert untold.message.tool_calls is None
    assert untold.message.content == text


def test_the_conversation_goes_on_after_a_tool_call(tokenizer: Any) -> None:
    call = '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'
    sampler = Scripted(tokenizer, call, "three")
    with opened(sampler, tokenizer) as g, client(g) as c:
        first = c.chat.completions.create(model="toy", messages=ASK, tools=[TOOL]).choices[0].message
        result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "3"}
        c.chat.completions.create(model="toy", messages=[*ASK, first, result], tools=[TOOL])
    assert "<tool_response>\n3\n</tool_response>" in tokenizer.decode(sampler.asked[-1])


def test_an_asynchronous_client(door: Any) -> None:
    async def many() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=door.url, api_key="none", max_retries=0) as c:
            return await asyncio.gather(
                *(c.chat.completions.create(model="toy", messages=ASK, seed=i, max_tokens=4) for i in range(100))
            )

    answers = asyncio.run(many())
    assert len({a.id for a in answers}) == 100
    assert all(len(a.choices[0].token_ids) <= 4 for a in answers)


WRONG: list[tuple[dict[str, Any], int, str | None]] = [
    ({"model": "gpt-9"}, 404, "model_not_found"),
    ({"messages": []}, 400, "invalid_value"),
    ({"messages": "hello"}, 400, "invalid_value"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "invalid_value"),
    ({"messages": [{"role": "user", "content": 3}]}, 400, "invalid_value"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "invalid_value"),
    ({"messages": [*ASK, {"role": "system", "content": "late"}]}, 400, "invalid_value"),
    ({"messages": [{"role": "user", "content": "a " * 3000}]}, 400, "context_length_exceeded"),
    ({"messages": [{"role": "user", "content": "a " * 500_000}]}, 400, "context_length_exceeded"),
    ({"messages": ASK * 2000}, 400, "context_length_exceeded"),
    ({"tools": [{**TOOL, "more": "a " * 500_000}]}, 400, "context_length_exceeded"),
    ({"temperature": "hot"}, 400, "invalid_value"),
    ({"temperature": True}, 400, "invalid_value"),
    ({"temperature": 3}, 400, "invalid_value"),
    ({"top_p": 0}, 400, "invalid_value"),
    ({"n": 1000}, 400, "invalid_value"),
    ({"max_tokens": 0}, 400, "invalid_value"),
    ({"stop": [1]}, 400, "invalid_value"),
    ({"stop": ""}, 400, "invalid_value"),
    ({"stream": "yes"}, 400, "invalid_value"),
    ({"tools": [{"type": "function"}]}, 400, "invalid_value"),
    ({"tool_choice": "required"}, 400, "unsupported_parameter"),
    ({"top_logprobs": 2}, 400, "invalid_value"),
    ({"frequency_penalty": 1.0}, 400, "unsupported_parameter"),
    ({"response_format": {"type": "json_object"}}, 400, "unsupported_parameter"),
    ({"extra_body": {"nonsense": 1}}, 400, "unsupported_parameter"),
]


@pytest.mark.parametrize(("fields", "status", "code"), WRONG, ids=[str(w[0])[:50] for w in WRONG])
def test_errors_have_the_shape_of_openai(door: Gateway, fields: dict[str, Any], status: int, code: str) -> None:
    with client(door) as c, pytest.raises(openai.APIStatusError) as error:
        c.chat.completions.create(**{"model": "toy", "messages": ASK, **fields})
    assert (error.value.status_code, error.value.code) == (status, code)
    assert error.value.body["message"]


def test_options_that_change_nothing_are_accepted(door: Gateway) -> None:
    with client(door) as c:
        c.chat.completions.create(
            model="toy", messages=ASK, frequency_penalty=0, user="me", response_format={"type": "text"}, max_tokens=1
        )


def test_models_and_keys(policy: Any) -> None:
    with opened(policy.sampler, policy.tokenizer, token="secret") as g:
        with client(g, "secret") as c:
            assert [m.id for m in c.models.list()] == ["toy"]
            assert c.models.retrieve("toy").owned_by == "temper"
            with pytest.raises(openai.NotFoundError):
                c.models.retrieve("other")
        for key in ("wrong", "secret2"):
            with client(g, key) as c, pytest.raises(openai.AuthenticationError):
                c.chat.completions.create(model="toy", messages=ASK)


def test_a_client_that_gives_up_cancels_its_sample(tokenizer: Any) -> None:
    sampler = Scripted(tokenizer, "late", pause=30)
    with opened(sampler, tokenizer) as g:
        for stream in (False, True):
            with client(g) as c, pytest.raises(openai.APITimeoutError):
                list(c.with_options(timeout=0.3).chat.completions.create(model="toy", messages=ASK, stream=stream))
        until = time.monotonic() + 3
        while sampler.cancelled < 2 and time.monotonic() < until:
            time.sleep(0.02)
    assert sampler.cancelled == 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(door: Any) -> None:
    body = json.dumps({"model": "toy", "messages": ASK, "stream": True, "max_tokens": 3})
    argv = ["curl", "-sS", "--noproxy", "*", f"{door.url}/chat/completions", "-d", body]
    refused = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
    assert json.loads(refused.stdout)["error"]["message"] == "the body must be sent as application/json"
    said = subprocess.run(
        [*argv, "-H", "Content-Type: application/json"], capture_output=True, text=True, timeout=20, check=True
    )
    assert said.stdout.endswith("data: [DONE]\n\n")
