"""The live line: what it says, and that a flat run is explained once."""

from __future__ import annotations

from typing import Any

import pytest

from temper import console
from temper.carrier import Batch
from temper.episode import Completion, Recorder
from temper.report import measure
from temper.tasks.task import Task


def record(step: int, silent: float, reward: float = 0.0) -> dict[str, Any]:
    return {
        "step": step,
        "reward": reward,
        "frac_reward_zero_std": silent,
        "completions/mean_length": 5.0,
        "perf/tokens_per_s": 100.0,
    }


def test_a_run_without_signal_is_explained_once(capsys: pytest.CaptureFixture[str]) -> None:
    line = console.Line("run", 10)
    for step, silent in enumerate([1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0], start=1):
        line.step(record(step, silent))
    notes = [text for text in capsys.readouterr().out.splitlines() if text.startswith("note:")]
    assert len(notes) == 1 and "every answer to a task scored 0" in notes[0]


def test_the_line_names_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    line = console.Line("run", 1)
    line.evaluated({"eval/pass@1": 0.25, "eval/sums/pass@1": 0.5})
    line.step(record(1, 0.5, reward=0.75))
    text = capsys.readouterr().out
    assert all(
        part in text for part in ("step 1/1", "reward 0.75", "pass@1 0.25", "zero-signal 50%", "100 tok/s", "left")
    )


def test_long_answers_are_cut_to_one_line() -> None:
    answer = "first\nsecond " * 40
    example = {"task": {"source": "s", "prompt": "p", "answer": answer}}
    shown = {"text": "x\ny", "reward": 1.0}
    lines = console.examples([{**example, "before": shown, "after": shown}])
    assert all("\n" not in text and len(text) < 260 for text in lines)


def test_table_is_aligned() -> None:
    rows = [["task", "", "before"], ["a", "trained", "0.1"], ["mean", "", "0.25"]]
    widths = {len(text) for text in console.table(rows)}
    assert len(widths) == 1


def rewarded(rewards: list[float]) -> Batch:
    """One group with these rewards."""
    record = Recorder(Task("t", "?"))
    prompt = record.add([1])
    for reward in rewards:
        record.judge([prompt, record.sampled(Completion((4,), (-0.5,)), prompt)], reward=reward)
    return Batch.of([record.episode()])


@pytest.mark.parametrize(("rewards", "silent"), [([0.1] * 7, 1.0), ([0.1] * 6 + [0.2], 0.0), ([0.0, 0.0], 1.0)])
def test_equal_rewards_are_no_signal_whatever_they_are(rewards: list[float], silent: float) -> None:
    assert measure(rewarded(rewards))["frac_reward_zero_std"] == silent


def test_spread_of_rewards_by_hand() -> None:
    assert measure(rewarded([0.0, 1.0, 1.0, 0.0]))["reward_std"] == pytest.approx(0.5)
