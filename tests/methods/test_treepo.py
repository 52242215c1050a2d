"""TreePO: the parts together (their own tests: envs/test_tree.py, parts/test_trees.py)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, REWARD
from temper.envs.branching import Branching
from temper.envs.single import SingleTurn
from temper.episode import Completion, Recorder
from temper.methods.rollouts.treepo import treepo
from temper.parts.shaping import SHAPED
from temper.parts.trees import OverLeaves, SegmentAdvantage, SubtreeAdvantage, per_leaf_row
from temper.recipes.treepo import treepo as recipe
from temper.run import Run
from temper.tasks.task import Task
from temper.testing import ToyReward, check_run, random_ends


def shared(*lengths: int) -> Batch:
    """A stem of two tokens, and answers of 2 + n."""
    record = Recorder(Task("t", "?"))
    stem = record.sampled(Completion((7, 8), (-1.0, -1.0)), record.add((1,)))
    for k, n in enumerate(lengths):
        leaf = record.sampled(Completion((9,) * n, (-1.0,) * n), stem)
        record.judge([0, stem, leaf], reward=float(k % 2))
    return Batch.of([record.episode()])


def test_the_papers_settings() -> None:
    m = treepo(None)
    tree = m.env
    assert isinstance(tree, Branching)
    assert (tree.width, tree.segment, tree.depth, tree.branching, tree.first) == (16, 512, 14, 2, 8)
    assert (tree.share, tree.cut, tree.order, tree.repeated, tree.answer_ends) == (
        "even",
        "random",
        "ended",
        (32, 8),
        False,
    )
    assert tree.repeated_first and m.minibatches == 16 and m.signal is not None
    (term,) = m.terms
    assert isinstance(term.loss, OverLeaves) and term.per is per_leaf_row
    assert (term.loss.loss.low, term.loss.loss.high, term.loss.loss.dual) == (0.2, 0.28, 10.0)
    assert isinstance(m.on_batch[0], SubtreeAdvantage) and m.on_batch[0].reward == SHAPED
    assert isinstance(treepo(None, credit="segment", eta=0.9).on_batch[0], SegmentAdvantage)


def test_the_buffer_counts_the_whole_answer_with_what_it_shares() -> None:
    m = treepo(None, tree=Branching(segment=5, depth=2), buffer=4, penalty=1.0)  # longest: 10, punished above 6
    b = asyncio.run(m.on_group[0](shared(4, 6, 8)))
    assert (b[SHAPED] - b[REWARD]).tolist() == pytest.approx([0.0, -0.5, -1.0])
    off = treepo(None, tree=Branching(segment=5, depth=2), penalty=0.0)
    b = asyncio.run(off.on_group[0](shared(4, 6, 8)))
    torch.testing.assert_close(b[SHAPED], b[REWARD])


def test_groups_that_tell_nothing_are_asked_for_again() -> None:
    m = treepo(None)
    assert m.signal is not None and m.signal(shared(1, 1)) is True
    assert m.signal(shared(1, 1).put(REWARD, torch.ones(2))) is False


def test_a_shared_token_has_the_mean_credit_of_its_leaves() -> None:
    m = treepo(None, penalty=0.0)
    b = asyncio.run(m.on_batch[0](asyncio.run(m.on_group[0](shared(1, 1, 1, 1)))))
    assert b[ADVANTAGE][:2].abs().max() < 1e-6 and len(set(b[ADVANTAGE][2:].round(decimals=4).tolist())) == 2


def test_evaluation_plays_plain_answers() -> None:
    run = recipe(data="quickstart", eval_tasks=4, width=4)
    assert run.probes[0].env == SingleTurn() and isinstance(run.env, Branching) and run.env.longest == 64
    assert run.curriculum.attempts == 1  # type: ignore[attr-defined]


def test_a_run_with_credit_of_segments(exact_model: str, tmp_path: Path) -> None:
    """Declared columns, resumed to the last bit, cut in any way; with cuts inside segments and unequal shares."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "say {a}", "answer": "{a}"}}\n' for a in ("ab", "ba", "cd", "dc")))

    def build() -> Run:
        run = recipe(
            model=exact_model, data=str(rows), reward=("exact_match",), width=5, segment=2, depth=3, credit="segment",
            share="unlikely", cut="unlikely token", order="any", steps=3, groups=2, max_tokens=6, eval_tasks=0, lr=1e-3,
        )  # fmt: skip
        run.on_group[0] = ToyReward()
        run.sampling = random_ends(run.sampling)
        return run

    history = check_run(build, tmp_path)
    assert history[0]["env/leaves"] == 5 and history[0]["env/fallbacks"] > 0
