"""Optimiser steps of a token budget, or of about the same number of tokens: the bus deals a step's groups to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from temper.bus import Balanced, Choice, Groups, Tokens
from temper.carrier import Batch
from temper.columns import GROUP, REQUEST
from temper.errors import UserError
from temper.objective import Term, Update, token_mean
from temper.parts.curricula import Generated
from temper.run import Run
from temper.tasks.task import Task
from temper.testing.runs import checkpoint
from tests.asynchrony.parts import apart
from tests.core.test_invariants import go, small
from tests.seams import toys


class Steps:
    """What each optimiser step trained on: groups by name, and the tokens of their attempts, prompts included."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.tokens: list[list[int]] = []

    def __call__(self, b: Batch, update: Update) -> None:
        length, sizes = b.structure.start.diff().tolist(), [0] * b.size(GROUP)
        for path, group in zip(b.structure.paths, b.structure.group.tolist()):
            sizes[group] += sum(length[turn] for turn in path)
        self.groups.append(b[REQUEST])
        self.tokens.append(sizes)


def dealt(model: str, choice: Choice | None, **fields: Any) -> tuple[Run, Steps]:
    policy, seen = toys.policy(model), Steps()
    words = Generated(lambda k: Task(f"t{k}", f"say {'ab ' * (1 + 7 * k % 11)}"), attempts=3)
    given: dict[str, Any] = {"groups": 6, "steps": 3, "curriculum": words, "dealt": choice}
    update = Update(policy, [Term("policy", toys.Surrogate(), per=token_mean)], before=[seen])
    return small(model, policy=policy, updates=[update], **{**given, **fields}), seen


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_run_trains_on_batches_of_a_token_budget(toy_model: str, ahead: int) -> None:
    """In the order of asking, as many groups as fit; each optimiser step's denominators are its own."""
    plain, whole = dealt(toy_model, None)
    go(plain)
    sizes, budget = whole.tokens[0], 1 + 2 * max(whole.tokens[0])
    run, seen = dealt(toy_model, Tokens(budget), ahead=ahead)
    go(run)
    assert [g for part in seen.groups for g in part] == [g for part in whole.groups for g in part]
    expected: list[list[int]] = [[]]
    for n in sizes:
        if expected[-1] and sum(expected[-1]) + n > budget:
            expected.append([])
        expected[-1].append(n)
    assert len(expected) >= 2 and seen.tokens[: len(expected)] == expected
    assert all(sum(part) <= budget for part in seen.tokens)
    assert run.ledger.total["optimiser_steps"] == len(seen.groups)


def test_a_run_trains_on_batches_of_balanced_lengths(toy_model: str) -> None:
    plain, whole = dealt(toy_model, None)
    go(plain)
    run, seen = dealt(toy_model, Balanced(0, 3))
    go(run)
    assert len(seen.groups) == 9 and {g for p in seen.groups[:3] for g in p} == set(whole.groups[0])
    for n in range(3):
        loads = [sum(part) for part in seen.tokens[3 * n : 3 * n + 3]]
        assert max(loads) - min(loads) <= max(t for part in seen.tokens[3 * n : 3 * n + 3] for t in part)
        assert max(loads) < 1.4 * min(loads)


def test_one_share_of_all_is_the_plain_loop_to_the_bit(toy_model: str, tmp_path: Path) -> None:
    for name, choice in (("plain", None), ("dealt", Groups())):
        go(dealt(toy_model, choice)[0], tmp_path / name)
    mine, theirs = (checkpoint(tmp_path / f, 3)["training.pt"]["weights"] for f in ("dealt", "plain"))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


def test_dealing_twice_is_refused(toy_model: str) -> None:
    run, _ = apart(toy_model)
    updates = [Update(run.updates[0].policy, run.updates[0].terms, minibatches=2)]
    with pytest.raises(UserError, match="by `dealt`, or by an update's mini-batches: leave out one of them"):
        small(toy_model, policy=run.updates[0].policy, updates=updates, dealt=Tokens(9))
