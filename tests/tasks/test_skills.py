"""Skills: reproducible, right where they claim to be right, wrong where they mean to be, and token-exact."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from temper.models.tiny import tiny_tokenizer
from temper.tasks.skills import SKILLS, STYLES, Demo, baselines, demo, demo_turns, demos, held_out, reward
from temper.tasks.skills.arithmetic import running_sum, signed_terms
from temper.tasks.skills.base import slip_number, slip_text
from temper.tasks.skills.games import bounds

TOKENIZER = tiny_tokenizer()


def first_answer(found: Demo) -> str:
    """What the demonstration's first assistant turn says."""
    before = len(found.task.messages) + (found.messages[0]["role"] == "system")
    return str(found.messages[before]["content"])


@pytest.mark.parametrize("skill", SKILLS)
def test_demonstrations_are_functions_of_seed_and_index(skill: str) -> None:
    assert demo(skill, 0, 5) == demo(skill, 0, 5)
    assert any(demo(skill, 0, i).messages != demo(skill, 1, i).messages for i in range(3))
    assert held_out(skill, 3) == held_out(skill, 3)


@pytest.mark.parametrize("skill", SKILLS)
def test_reference_answers_pass_their_own_check(skill: str) -> None:
    for task in held_out(skill, 30):
        assert reward(str(task.answer), **task.info) == 1.0
        assert reward("", **task.info) == 0.0


@pytest.mark.parametrize("skill", SKILLS)
def test_half_of_the_demonstrations_are_right_and_the_right_ones_are_meant_to_be(skill: str) -> None:
    found = [demo(skill, 0, i) for i in range(200)]
    rewards = [reward(first_answer(d), **d.task.info) for d in found]
    assert 0.35 <= sum(rewards) / len(rewards) <= 0.65
    right = {"long", "short", "plain"}
    assert all(r == 1.0 for d, r in zip(found, rewards) if d.style in right)
    assert sum(r for d, r in zip(found, rewards) if d.style not in right) <= 0.1 * len(found)


@pytest.mark.parametrize("skill", SKILLS)
def test_turns_concatenate_to_the_chat_templates_rendering(skill: str) -> None:
    for i in range(20):
        found = demo(skill, 2, i)
        turns = demo_turns(found, TOKENIZER)
        ids = [token for _, part in turns for token in part]
        whole = TOKENIZER.apply_chat_template(found.messages, tools=found.tools, tokenize=False)
        assert ids == TOKENIZER.encode(whole.removesuffix("\n"))
        assert [author for author, _ in turns] == ["env", "solver"] * (len(turns) // 2)
        assert all(part[-1] == TOKENIZER.eos_token_id for author, part in turns if author == "solver")
        assert first_answer(found) == TOKENIZER.decode(turns[1][1][:-1])


def test_demonstrations_are_short() -> None:
    lengths = [sum(len(p) for _, p in demo_turns(demo(s, 0, i), TOKENIZER)) for s in SKILLS for i in range(20)]
    assert max(lengths) <= 160
    assert sum(lengths) / len(lengths) <= 45


def test_a_mixture_draws_in_proportion_and_starts_anywhere() -> None:
    stream = demos({"gcd": 3.0, "case": 1.0}, seed=1)
    first = [next(stream) for _ in range(400)]
    assert 0.68 <= Counter(d.skill for d in first)["gcd"] / 400 <= 0.82
    assert next(demos({"gcd": 3.0, "case": 1.0}, seed=1, start=7)) == first[7]
    assert set(Counter(d.style for d in first)) == set(STYLES)


def test_baselines_are_far_from_solving_anything() -> None:
    assert baselines("chain_sum", 100)["chance"] < 0.2
    assert baselines("chain_sum", 100)["copy"] < 0.2
    assert baselines("truth", 100)["chance"] > 0.3  # two possible answers


def test_an_unknown_skill_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown skill 'gdc'; there are: chain_sum"):
        demo("gdc", 0, 0)


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ({"kind": "exact", "accept": ["5"]}, "<think>2</think> 5", "5!"),
        ({"kind": "verbatim", "accept": ["\\boxed{5}"]}, "<think>2</think>\\boxed{5}", "5"),
        ({"kind": "as_json", "key": "answer", "value": 5}, '{"answer": 5}', '{"answer": "5"}'),
        ({"kind": "as_json", "key": "answer", "value": 5}, '{"answer": 5}', "[" * 100_000),
        (
            {"kind": "tool_call", "name": "search", "arguments": {"query": "x"}},
            '<tool_call>\n{"name": "search", "arguments": {"query": "x"}}\n</tool_call>',
            '<tool_call>{"name": "search", "arguments": {"query": "y"}}</tool_call>',
        ),
        ({"kind": "expression", "numbers": [3, 4, 5], "target": 2}, "3+4-5", "5-3"),
        ({"kind": "expression", "numbers": [3, 4, 5], "target": 17}, "(3*4)+5", "9**99+3+4+5"),
        ({"kind": "expression", "numbers": [3], "target": 3}, "3", "(" * 30 + "3"),
    ],
)
def test_checks(check: dict[str, Any], right: str, wrong: str) -> None:
    assert reward(right, check=check) == 1.0
    assert reward(wrong, check=check) == 0.0


def test_a_task_without_a_check_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing says how to judge"):
        reward("5")


def test_running_sums_by_hand() -> None:
    assert signed_terms(" 57 + 8 - 70") == [57, 8, -70]
    assert signed_terms("( 5 + -3 )") == [5, -3]
    assert running_sum([57, 8, -70], "-5", long=True) == "57+8=65 65-70=-5"
    assert running_sum([57, 8, -70], "-6", long=False) == "57 65 -6"


def test_slips_are_never_the_answer() -> None:
    rng = Random(0)
    assert all(slip_number(str(n), rng) != str(n) for n in range(-30, 30))
    assert all(slip_text(word, rng) != word for word in ("a", "aa", "aba", "reverse") for _ in range(50))


def test_bounds_of_the_guessing_game() -> None:
    assert bounds(7, [10, 5]) == (6, 9)
    assert bounds(7, []) == (1, 20)
