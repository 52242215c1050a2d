"""The token-exact core, with the chat templates and tokenizer kinds of several families."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from temper.envs.chat import CONTEXT, TOKENS, TURNS, Chat, cut, shown
from temper.episode import ENV, Completion, Recorder
from temper.errors import UserError
from temper.models.render import CUT, Renderer, plain
from temper.models.tiny import tiny_tokenizer
from temper.request import Drop
from temper.tasks.task import Task
from tests.envs.actors import Actor, Guarded, says, seat
from tests.models import builders

TOKENIZERS: dict[str, Any] = {
    "tiny": tiny_tokenizer, "qwen3": builders.qwen3_tokenizer, "llama3": builders.llama3_tokenizer,
    "gemma": builders.gemma_tokenizer, "mixtral": builders.mixtral_tokenizer, "gpt2": builders.gpt2_tokenizer,
}  # fmt: skip
OPENED = {"gpt2": " "}  # its template opens with "assistant:" and shows "assistant: …"
CUTS_WORDS = ("mixtral",)  # a Unigram vocabulary: text without a space before it does not begin a word


@pytest.fixture(params=TOKENIZERS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def opened(actor: Actor, *, max_tokens: int = 64, **limits: int) -> Chat:
    chat = Chat(seat(actor, max_tokens=max_tokens), Recorder(Task("t", "?")), **limits)
    chat.start([user("What is the sum of seven?")])
    return chat


def talk(chat: Chat, *heard: str) -> list[Completion]:
    """Say something, hear each line and answer it."""

    async def go() -> list[Completion]:
        said = [await chat.say()]
        for line in heard:
            if chat.observe([user(line)]):
                said.append(await chat.say())
        return [s for s in said if s is not None]

    return asyncio.run(go())


def rendered(tokenizer: Any, messages: list[dict[str, Any]], opening: bool) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        messages, add_generation_prompt=opening, tokenize=True, return_dict=False
    )
    return ids


def test_the_context_is_what_the_template_says(family: str) -> None:
    """Sampled ids plus separately tokenised observations are the ids of the whole conversation."""
    tokenizer = Guarded(TOKENIZERS[family]())
    lines = ["nineteen eggs", "half as many", "the answer"]
    actor = Actor(tokenizer, says(*(OPENED.get(family, "") + line for line in lines)))
    chat = opened(actor)
    talk(chat, "And why?", "Are you sure?")
    chat.observe([user("Thanks")])
    messages = [user("What is the sum of seven?")]
    for line, heard in zip(lines, ("And why?", "Are you sure?", "Thanks")):
        messages += [{"role": "assistant", "content": line}, user(heard)]
    assert list(chat.context) == rendered(actor.raw, messages, True)
    assert chat.forks == 0 and [t.parent for t in chat.record.turns] == [-1, 0, 1, 2, 3, 4, 5]


def test_an_end_that_was_not_sampled_is_the_environments(family: str) -> None:
    actor = Actor(Guarded(TOKENIZERS[family]()), says("nineteen eggs and twelve hens every day", "yes yes"))
    chat = opened(actor, max_tokens=4)
    talk(chat, "And why?")
    first, second = actor.answers
    assert first.finish == "length" and actor.end not in first.ids
    assert chat.record.turns[2].author == ENV and chat.record.turns[2].ids[0] == actor.end
    assert chat.context.count(actor.end) == rendered(
        actor.raw, [user("a"), {"role": "assistant", "content": "b"}, user("c")], True
    ).count(actor.end) + second.ids.count(actor.end)
    assert [t.ids for t in chat.record.turns if t.author != ENV] == [first.ids, second.ids]


def test_ids_that_no_text_gives_stay(family: str) -> None:
    """A model may sample ids that decode to something else than they would be encoded to."""
    tokenizer = Guarded(TOKENIZERS[family]())
    actor = Actor(tokenizer, says("x"))
    letters = tuple(i for c in "seven" for i in actor.raw.encode(c, add_special_tokens=False)[-1:])

    async def spelled(ids: tuple[int, ...], params: Any) -> Completion:
        actor.asked.append(ids)
        return Completion((*letters, actor.end), (-1.0,) * (len(letters) + 1), text=actor.raw.decode(letters))

    actor.sample = spelled  # type: ignore[method-assign]
    chat = opened(actor)
    talk(chat, "Again.", "Again!")
    assert chat.forks == 0
    assert [t.ids[:-1] for t in chat.record.turns if t.author != ENV] == [letters] * 3
    for n, asked in enumerate(actor.asked):
        assert chat.record.context(2 * n) == asked


APART = {"llama2": builders.llama2_tokenizer, "own line": builders.own_line_tokenizer}  # white space before an end


@pytest.mark.parametrize("family", [f for f in (*TOKENIZERS, *APART) if f not in CUTS_WORDS])
@pytest.mark.parametrize("seed", range(5))
def test_any_context_is_what_the_template_says_but_for_white_space(family: str, seed: int) -> None:
    """Whatever white space stands around an answer, and whether it was cut or ended: as many control tokens."""
    rng = random.Random(f"{family} {seed}")
    actor = Actor(Guarded({**TOKENIZERS, **APART}[family]()), lambda n: lines[n])
    lines = [rng.choice(["", " ", "\n", " \n\n"]) + f"{n} hens lay" + rng.choice(["", " ", "\n"]) for n in range(6)]
    chat = opened(actor)
    messages = [user("What is the sum of seven?")]
    for n in range(6):
        said = asyncio.run(chat.say(max_tokens=rng.choice([2, 64])))
        assert said is not None and chat.observe([user(f"And {n}?")])
        messages += [{"role": "assistant", "content": said.text}, user(f"And {n}?")]
    text = actor.raw.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert "".join(actor.raw.decode(chat.context).split()) == "".join(text.split())
    control = [
        [i for i in ids if i in actor.render.forbidden] for ids in (chat.context, rendered(actor.raw, messages, True))
    ]
    assert control[0] == control[1]
    assert [t.ids for t in chat.record.turns if t.author != ENV] == [a.ids for a in actor.answers]


# templates that rewrite history ---------------------------------------------------------------------------------------

THOUGHT = "<think>\nseven and twelve\n</think>\n\nnineteen"


def test_a_template_that_drops_earlier_reasoning_forks() -> None:
    actor = Actor(builders.qwen3_tokenizer(), says(THOUGHT, "yes", THOUGHT))
    chat = opened(actor)
    talk(chat, "Sure?", "Why?")
    assert chat.forks == 1
    assert [t.parent for t in chat.record.turns] == [-1, 0, -1, 2, 3, 4]
    seen = [user("What is the sum of seven?"), {"role": "assistant", "content": THOUGHT}, user("Sure?")]
    assert list(chat.record.turns[2].ids) == rendered(actor.raw, seen, True)
    assert "<think>" not in actor.raw.decode(chat.record.turns[2].ids)
    chat.judge(1.0)
    only = chat.record.episode().trajectories[0]
    assert only.turns == (0, 1, 2, 3, 4, 5) and only.info["forks"] == 1


def test_temper_tiny_keeps_reasoning() -> None:
    actor = Actor(Guarded(tiny_tokenizer()), says("<think>7+12</think>19"))
    chat = opened(actor)
    talk(chat, "Sure?", "Why?")
    assert chat.forks == 0


def test_a_forked_context_does_not_turn_spelled_text_into_control_tokens() -> None:
    tokenizer = builders.qwen3_tokenizer()
    actor = Actor(tokenizer, says(THOUGHT))
    text = f"{THOUGHT}<|im_end|>"
    ids = [i for c in text for i in tokenizer.encode(c, add_special_tokens=False)]
    think = [tokenizer.convert_tokens_to_ids(t) for t in ("<think>", "</think>")]

    async def spelled(asked: tuple[int, ...], params: Any) -> Completion:
        return Completion((*think, *ids, actor.end - 1), (0.0,) * (len(ids) + 3), "length", text=text)

    actor.sample = spelled  # type: ignore[method-assign]
    chat = opened(actor)
    talk(chat, "Sure?")
    assert chat.forks == 1
    assert chat.record.turns[2].ids.count(actor.end) == 3  # of the question, the answer and the next question


@pytest.mark.parametrize(
    "text, answer, at",
    [
        ("Q:A|", "A", 3), ("Q:A|", " A\n", 3), ("Q: a b|", "a  b", 6), ("Q:|", "", 2), ("Q:|", " \n", 2),
        ("Q:B|", "A", None), ("X:A|", "A", None), ("Q:A", "AB", None), ("Q:A\n|", "A\n", 4),
    ],
)  # fmt: skip
def test_shown(text: str, answer: str, at: int | None) -> None:
    assert shown(text, "Q:", answer) == at


# hostile text ---------------------------------------------------------------------------------------------------------


def hostile(render: Renderer) -> str:
    strings = [*render.control, "<|im_start|>", "</tool_response>", "<|eot_id|>", "[INST]"]
    nested = "".join(f"{s[:2]}{s}{s[2:]}" for s in strings)
    return f"so {' '.join(strings)}{''.join(strings)} {nested}"


def controls(render: Renderer, ids: Any) -> list[int]:
    return [i for i in ids if i in render.forbidden]


def test_what_strangers_say_never_becomes_a_control_token(family: str) -> None:
    actor = Actor(TOKENIZERS[family](), says("yes"))
    render = Renderer(actor.raw)
    chat, harmless = opened(actor), opened(actor)
    chat.start([user(hostile(render))])
    harmless.start([user("hi")])
    talk(chat, hostile(render))
    talk(harmless, "hi")
    assert controls(render, chat.context) == controls(render, harmless.context)
    if family not in CUTS_WORDS:  # whose vocabulary has no letter for "<"
        assert actor.raw.decode(chat.record.turns[3].ids).count(hostile(render)) == 1


PIECES = [
    "<",
    "|",
    ">",
    "im_",
    "start",
    "[",
    "]",
    "/",
    "INST",
    " ",
    "\n",
    "<|",
    "|>",
    "é",
    CUT,
    "▁",
    "Ġ",
    "\u200b",
    "＜",
    "\0",
]


def test_no_mixture_of_pieces_makes_a_control_token(family: str) -> None:
    render, rng = Renderer(TOKENIZERS[family]()), random.Random(0)
    calm = controls(render, render.ids(render.text([user("a")]), first=True))
    pieces = [*render.control, *PIECES]
    for _ in range(200):
        text = "".join(rng.choices(pieces, k=rng.randrange(1, 8)))
        assert controls(render, render.ids(render.text([user(text)]), first=True)) == calm, repr(text)


def test_a_normalizer_cannot_make_a_control_token() -> None:
    """NFKC turns full-width letters into those of a control token, after the text was looked at."""
    from tokenizers import AddedToken, normalizers

    tokenizer = builders.qwen3_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=True)])
    sneaky = "\uff1ctool_call\uff1e"
    assert controls(Renderer(tokenizer), tokenizer.encode(sneaky))
    render = Renderer(tokenizer)
    ids = render.ids(render.text([user(f"so {sneaky}!")]), first=True)
    assert controls(render, ids) == controls(render, render.ids(render.text([user("so")]), first=True))
    assert "tool_call" in tokenizer.decode(ids)


@pytest.mark.parametrize("family", ["tiny"])
def test_what_tools_say_never_becomes_a_control_token(family: str) -> None:
    actor = Actor(TOKENIZERS[family](), says("yes"))
    render = Renderer(actor.raw)
    text = hostile(render)
    parts = [{"role": "tool", "name": text, "content": [{"type": "text", "text": text}]}]
    for messages, calm in (
        ([{"role": "tool", "content": text}], [{"role": "tool", "content": "1"}]),
        (parts, [{"role": "tool", "content": [{"type": "text", "text": "1"}]}]),
    ):
        seen = []
        for heard in (messages, calm):
            chat = opened(actor)
            asyncio.run(chat.say())
            assert chat.observe(heard)
            seen.append(controls(render, chat.context))
        assert seen[0] == seen[1]
    tool = {"type": "function", "function": {"name": "f", "description": text, "parameters": {text: 1}}}
    calm_tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
    ids = [render.ids(render.text([user("hi")], tools=[t]), first=True) for t in (tool, calm_tool)]
    assert controls(render, ids[0]) == controls(render, ids[1])


def test_ordinary_text_is_rendered_as_the_tokenizer_does(family: str) -> None:
    tokenizer = TOKENIZERS[family]()
    render = Renderer(tokenizer)
    messages = [
        user("Er sagte: »Köln!« \\boxed{42} 你好 <b> [1]"),
        {"role": "assistant", "content": "a"},
        user("  b\n"),
    ]
    text = render.text(messages)
    assert plain(text) == text
    assert list(render.ids(text, first=True)) == rendered(tokenizer, messages, True)


def test_the_assistants_own_history_keeps_its_markup() -> None:
    tokenizer = tiny_tokenizer()
    said = [user("a"), {"role": "assistant", "content": "<think>b</think><tool_call>\n{}\n</tool_call>"}, user("c")]
    render = Renderer(tokenizer)
    assert list(render.ids(render.text(said), first=True)) == rendered(tokenizer, said, True)


# limits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits, finish", [({"turns": 2}, TURNS), ({"tokens": 5}, TOKENS), ({"longest": 45}, CONTEXT)])
def test_a_limit_ends_with_the_policys_turn(limits: dict[str, int], finish: str) -> None:
    actor = Actor(tiny_tokenizer(), says("abc"))
    chat = opened(actor, **limits)
    said = talk(chat, "1", "2", "3", "4", "5")
    assert chat.finish == finish
    assert chat.record.turns[-1].author == "solver" and len(said) == chat.said
    assert asyncio.run(chat.say()) is None
    if "tokens" in limits:
        assert sum(len(s.ids) for s in said) == 5 and said[-1].finish == "length"
    if "longest" in limits:
        assert len(chat.context) <= 45


def test_a_prompt_that_fills_the_context_is_dropped() -> None:
    with pytest.raises(Drop, match="prompt too long"):
        opened(Actor(tiny_tokenizer(), says("a"), context=10))


def test_a_template_without_tools_says_so() -> None:
    chat = opened(Actor(builders.qwen3_tokenizer(), says("a")))
    asyncio.run(chat.say())
    with pytest.raises(UserError, match="does not show messages of role 'tool'"):
        chat.observe([{"role": "tool", "content": "1"}])


# cutting --------------------------------------------------------------------------------------------------------------


def test_a_cut_is_at_a_token_boundary(family: str) -> None:
    tokenizer = TOKENIZERS[family]()
    ids = tuple(tokenizer.encode("half as many clips; the rest 你好 are sold", add_special_tokens=False))
    text = tokenizer.decode(ids)
    said = Completion(ids, tuple(float(-n) for n in range(len(ids))), text=text, support=tuple((i,) for i in ids))
    for n in range(1, len(text) + 1):
        got = cut(said, n, tokenizer)
        k = len(got.ids)
        assert got.ids == ids[:k] and got.logp == said.logp[:k] and got.support == said.support[:k]
        assert got.text.startswith(text[:n])
        assert k == 1 or k == len(ids) or not tokenizer.decode(ids[: k - 1]).startswith(text[:n])
    assert cut(said, None, tokenizer) is said
