"""The benchmark: workloads are what they say, both sides take turns, results become a table and a plot."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from temper.backends.base import SamplingParams
from temper.bench import guesses, memory, ours, overhead, roofline, suite
from temper.bench.stepper import Stepper
from temper.bench.workloads import WORKLOADS, make_model, small
from temper.cli import main
from temper.policy import Policy

ROW: dict[str, Any] = {
    "workload": "A",
    "size": "1m",
    "text": "short",
    "target": 1.5,
    "seconds": {"temper": [0.01, 0.02, 0.03]},
}


@pytest.mark.parametrize("name", ["A", "B"])
def test_answers_are_as_long_as_the_workload_says(name: str, tmp_path: Path) -> None:
    workload = WORKLOADS[name]
    policy = Policy(model=make_model(tmp_path / "m", workload), trainable=False, device="cpu")
    policy.open()

    async def sample() -> list[int]:
        made = [policy.sampler.sample((65, 66), SamplingParams(max_tokens=workload.answer, seed=s)) for s in range(300)]
        return [len(c.ids) for c in await asyncio.gather(*made)]

    lengths = asyncio.run(sample())
    if not workload.mean:
        assert set(lengths) == {workload.answer}
    else:
        q = 1 - 1 / workload.mean  # geometric, cut at `answer`
        assert sum(lengths) / 300 == pytest.approx((1 - q**workload.answer) / (1 - q), rel=0.2)
        assert max(lengths) > 3 * workload.mean


def test_prompts_have_their_length_and_differ() -> None:
    for workload in WORKLOADS.values():
        prompts = workload.prompts()
        assert len(set(prompts)) == 64
        assert all(abs(len(p) - workload.prompt) <= max(6, 0.1 * workload.prompt) for p in prompts)


def test_loops_go_on_a_step_at_a_time_and_errors_come_through() -> None:
    said: list[str] = []

    def counting(name: str, last: int) -> Any:
        def loop(tick: Any) -> None:
            for n in range(last):
                said.append(f"{name}{n}")
                tick()

        return loop

    one, two = Stepper(counting("a", 9)), Stepper(counting("b", 1))
    for _ in range(2):
        one.step()
        if len(said) < 2:
            two.step()
    assert said == ["a0", "b0", "a1"]
    with pytest.raises(RuntimeError, match="ended by itself"):
        two.step()
    one.close()
    assert said == ["a0", "b0", "a1"]


@pytest.mark.parametrize("name", ["A", "D"])
def test_our_side_trains(name: str, tmp_path: Path) -> None:
    workload = small(WORKLOADS[name])
    stepper = Stepper(ours.loop(workload, make_model(tmp_path / "m", workload), told := {}))
    assert stepper.step().cpu > 0 and stepper.step().wall > 0
    stepper.close()
    assert told["step"] >= 1 and told["completions/mean_length"] > 0


def test_what_the_loop_costs(tmp_path: Path) -> None:
    """Its share is what is left of a step, and the instruments are gone afterwards."""
    workload, before = small(WORKLOADS["A"]), [getattr(owner, name) for _, owner, name in overhead.PARTS]
    found = overhead.share(workload, make_model(tmp_path / "m", workload), repeats=2, warm_up=1)
    parts = found["parts"]
    assert set(parts) == {"sampling", "reward", "forward", "backward", "optimiser", "loop"}
    assert all(ms > 0 for ms in parts.values())
    assert found["ratio"] == pytest.approx(parts["loop"] / sum(parts.values()), rel=0.5)
    assert [getattr(owner, name) for _, owner, name in overhead.PARTS] == before


def test_the_least_that_sampling_needs(tmp_path: Path) -> None:
    workload = small(WORKLOADS["A"])
    found = roofline.sampling(make_model(tmp_path / "m", workload), workload, repeats=1)
    assert found["ratio"] > 1


def test_command_without_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    measure = suite.measure
    monkeypatch.setattr(suite, "measure", lambda *a: measure(*a, tiny=True))
    assert main(["bench", "--workloads", "a,E", "--peer", "none", "--repeats", "1", "--out", str(tmp_path)]) == 0
    data = json.loads((tmp_path / "bench.json").read_text())
    assert [r["workload"] for r in data["workloads"]] == ["A", "E"] and data["machine"]["threads"] == 1
    assert data["workloads"][1]["mib"]["temper"][0] < 500
    assert "no peer" in capsys.readouterr().out and "| A: " in (tmp_path / "bench.md").read_text()


def test_guesses_are_measured_beside_none(tmp_path: Path) -> None:
    cases = [guesses.Case("again", "temper-tiny", True, 1)]
    said: list[str] = []
    data = guesses.measure(said.append, 1, cases, rows=(1,))
    (row,) = data["cases"]
    assert 0 < row["passes"]["guessing"] <= row["passes"]["plain"] == 1.0
    assert row["low"] <= row["ratio"] <= row["high"] and data["knee"]["1"] > 0
    assert "| again | 1.00 |" in guesses.page(data) and len(said) == 2


def test_table_and_plot_by_hand() -> None:
    row = {**ROW, "seconds": {**ROW["seconds"], "trl": [0.04] * 3}, "ratio": 2.0, "low": 1.3, "high": 4.0}
    row |= {"tuned": {"ratio": 1.9, "low": 1.8, "high": 2.2}, "loop": {"ratio": 0.034}}
    other = {**row, "size": "5m", "tuned": {"ratio": 1.7, "low": 1.6, "high": 2.0}}
    data = {
        "date": "2026-01-01", "peer": "trl", "settings": {"a": 1}, "repeats": 3, "versions": {"torch": "2"},
        "machine": {"processor": "a processor", "cores": 2, "threads": 1}, "workloads": [row, other],
    }  # fmt: skip
    page = suite.page(data)
    assert "| A: short | 20.00 ms | 40.00 ms | 2.00 [1.30, 4.00] | 1.50 | 1.90 [1.80, 2.20] |  | 3.4% |" in page
    assert page.index("of 1m parameters") < page.index("of 5m parameters") < page.index("Tuned peer: a=1.")
    assert "reached" in suite.line(row) and "not reached" in suite.line({**row, "target": 2.5})
    assert suite.plot(data).count("<rect") == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workloads", "Z"], "unknown workload 'Z'"),
        (["--sizes", "1m,9b"], "unknown size '9b'"),
        (["--repeats", "0"], "repeats of at least 1"),
        (["--peer-settings", "beta"], "name=value"),
    ],
)
def test_mistakes(options: list[str], said: str, capsys: Any) -> None:
    assert main(["bench", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_side_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="memory of temper failed"):
        memory.peak("temper", str(tmp_path / "nothing"), WORKLOADS["E"], tiny=True)
