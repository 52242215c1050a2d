"""Every pathology can be injected, its alarm fires, no other does, and healthy runs are silent."""

from __future__ import annotations

import ast
import asyncio
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from temper import console
from temper.diagnosis import PATHOLOGIES, diagnose, render
from temper.diagnosis.measure import Attempts, Seen
from temper.recipe import signature
from temper.testing import toy_batch
from temper.testing.pathologies import INJECTIONS, diverging, records, toy_run

QUICKSTART = Path(__file__).parent / "files" / "quickstart.jsonl"
NAMES = [p.name for p in PATHOLOGIES]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "say", lambda text: None)


@pytest.fixture(scope="module")
def fired(exact_model: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """Of every injection: the findings, each with what it explains. Healthy runs are there by their seed."""
    runs = {f"healthy, seed {seed}": records(toy_run(exact_model, seed)) for seed in range(3)}
    runs |= {name: records(inject(toy_run(exact_model))) for name, inject in INJECTIONS.items()}
    runs["reward–evaluation divergence"] = diverging(runs["healthy, seed 0"])
    return {name: {f.name: f.also for f in diagnose(rows).findings} for name, rows in runs.items()}


def test_each_alarm_fires_for_its_own_injection_alone(fired: dict[str, dict[str, tuple[str, ...]]]) -> None:
    print("\n" + render.confusion(fired))
    assert set(fired) - set(NAMES) == {f"healthy, seed {seed}" for seed in range(3)}
    assert set(NAMES) <= set(fired), "every pathology has an injection"
    for name, found in fired.items():
        assert list(found) == ([] if name.startswith("healthy") else [name]), f"{name}: {found}"


def test_the_confusion_table_in_the_docs_is_the_measured_one(fired: dict[str, dict[str, tuple[str, ...]]]) -> None:
    doc = (Path(__file__).parents[1] / "docs" / "how-to-diagnose.md").read_text()
    assert render.confusion(fired) in doc, (
        "write it anew: python -m temper.diagnosis.render, and the table of this test"
    )


def test_stored_quickstart_runs_are_silent() -> None:
    """Seeds 0, 1 and 2 (which was stopped after 58 of 60 steps), recorded on 2026-11-20: what the rules read."""
    runs: dict[int, list[dict[str, Any]]] = {}
    for line in QUICKSTART.read_text().splitlines():
        row = json.loads(line)
        runs.setdefault(row.pop("seed"), []).append(row)
    assert sorted(runs) == [0, 1, 2] and all(len(rows) >= 58 for rows in runs.values())
    for seed, rows in runs.items():
        for steps in (4, 10, 20, 35, 60):
            found = diagnose(rows[: steps + 1])
            assert not found.findings, f"seed {seed}, {steps} steps: {found.findings}"
        stopped = {"clipped tokens", "reward–evaluation divergence"} if seed == 2 else set()
        assert set(found.unchecked) <= {"verifier disagreement", "frontier-chasing curriculum"} | stopped


# levers and docs ----------------------------------------------------------------------------------------------------


def options() -> set[str]:
    from temper.cli.run import COMMON
    from tests.contract.discover import RECIPES

    return {o.flag for recipe in RECIPES.values() for o in signature(recipe)} | {o.flag for o in COMMON}


def test_every_lever_names_what_exists() -> None:
    known = options()
    for p in PATHOLOGIES:
        levers = [
            v for k, v in vars(type(p)).items() if isinstance(v, str) and k not in ("name", "__doc__", "__module__")
        ]
        named = [n for text in levers for n in re.findall(r"`([^`]+)`", text)]
        assert named, f"{p.name} names no lever"
        for n in named:
            if n.startswith("--"):
                assert n.split()[0] in known, f"{p.name}: no recipe has the option {n}"
            elif n.startswith("temper."):
                module, _, last = n.rpartition(".")
                try:
                    assert importlib.import_module(n)
                except ModuleNotFoundError:
                    assert hasattr(importlib.import_module(module), last), f"{p.name}: there is no {n}"


def test_docs_have_the_table_of_pathologies() -> None:
    doc = (Path(__file__).parents[1] / "docs" / "how-to-diagnose.md").read_text()
    assert render.table() in doc, "write it anew: python -m temper.diagnosis.render"


def test_rules_say_why_their_limit_is_where_it_is() -> None:
    for p in PATHOLOGIES:
        assert "Limit" in (type(p).__doc__ or ""), f"{p.name} does not say why it fires where it does"
        assert set(p.explains) <= set(NAMES) - {p.name}


def test_diagnosis_needs_nothing_but_the_standard_library() -> None:
    """The page is written, and a run explained, where torch is not installed or takes seconds to load."""
    folder = Path(sys.modules["temper.diagnosis"].__file__ or "").parent
    for file in folder.glob("*.py"):
        if file.name == "measure.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names or name.startswith("temper.diagnosis"), (
                    file,
                    name,
                )
                assert name != "temper.diagnosis.measure"


# old and odd records ------------------------------------------------------------------------------------------------


def test_records_of_old_and_odd_runs_are_no_error() -> None:
    for rows in ([], [{"step": 0, "eval/pass@1": 0.5}], [{"step": 1}], [{"step": k, "reward": None} for k in range(9)]):
        found = diagnose(rows)
        assert not found.findings
        assert set(found.unchecked) == set(NAMES) - set(found.silent)
    hist = {"edges": [0.5, 1.0, 1.5], "counts": [0, 64]}
    old = [{"step": k + 1, "reward": 1.0, "reward_std": 0.0, "frac_reward_zero_std": 1.0, "hist/reward": hist}
           for k in range(5)]  # fmt: skip
    (finding,) = diagnose(old).findings
    assert finding.name == "constant reward" and finding.also == ("zero-signal groups",)


def test_solved_tasks_are_a_note_and_unsolvable_ones_an_alarm() -> None:
    def rows(level: float) -> list[dict[str, Any]]:
        return [{"step": k, "reward": level, "reward_min": 0.0, "reward_max": 1.0, "frac_reward_zero_std": 0.95,
                 "zero_std_reward": level, "trajectories": 64.0} for k in range(1, 9)]  # fmt: skip

    (done,), (hopeless,) = diagnose(rows(0.97)).findings, diagnose(rows(0.02)).findings
    assert (done.level, hopeless.level) == ("note", "alarm")
    assert "harder" in done.lever and "easier" in hopeless.lever
    assert done.samples == "192 answers"


ODD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "supervised": ({"entropy": 1.0, "loss": 1.0}, {}, "entropy collapse"),
    "zero-sum": ({"entropy": 1.0, "reward": 0.0, "reward_max": 1.0}, {}, "entropy collapse"),
    "one attempt": ({"frac_reward_zero_std": 1.0, "reward": 0.2}, {"attempts per group": 1}, "zero-signal groups"),
    "critic": ({"frac_reward_zero_std": 1.0, "reward": 0.2, "grad_norm": 0.3}, {}, "zero-signal groups"),
    "epochs": ({"policy_kl": 0.02}, {"optimiser steps per step": 4}, "sampler–learner mismatch"),
    "mini-batches": ({"policy_kl": 0.02, "ledger/optimiser_steps": 2.0}, {}, "sampler–learner mismatch"),
    "ahead": ({"policy_kl": 0.02}, {"updates that sampling may lag behind": 2}, "sampler–learner mismatch"),
    "few groups": ({"reward": 0.5, "by_source/b/groups": 1.0}, {}, "frontier-chasing curriculum"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_a_rule_cannot_judge_it_does_not_judge(name: str) -> None:
    """Kinds of runs on which a rule was wrong when the stored runs of the claims were searched for alarms."""
    row, units, rule = ODD[name]
    rows = [{"step": k, "trajectories": 32.0, **row} for k in range(1, 13)]
    for early in rows[:3]:
        early |= {"by_source/a/groups": 1.0}
    for late in rows[6:]:
        late |= {"entropy": 0.01} if "entropy" in row else {}
    found = diagnose(rows, {"units": units})
    assert rule not in [f.name for f in found.findings]
    assert rule in found.unchecked or name == "few groups"


def test_a_falling_evaluation_counts_by_its_interval() -> None:
    rows = [{"step": k, "reward": 0.1 * k} for k in range(1, 13)]
    said = diagnose(rows, summary={"difference": {"pass@1": -0.05, "interval": [-0.09, -0.01]}}).findings
    assert [f.name for f in said] == ["reward–evaluation divergence"] and "0.05" in said[0].sentence
    assert not diagnose(rows, summary={"difference": {"pass@1": -0.05, "interval": [-0.12, 0.02]}}).findings


# measuring ----------------------------------------------------------------------------------------------------------


def test_seen_tasks_survive_a_checkpoint() -> None:
    from temper.columns import REWARD, TRAJECTORY

    seen, b = Seen(), toy_batch()
    assert REWARD in b and b.size(TRAJECTORY)
    first = seen.add(b)
    assert first == {"tasks/seen": 3.0, "tasks/new": 1.0, "tasks/solved": 2.0}
    again = Seen()
    again.load_state_dict(seen.state_dict())
    assert again.add(b) == first | {"tasks/new": 0.0}


def test_an_evaluations_seconds_are_in_its_own_record(exact_model: str) -> None:
    from temper.evaluate import Evaluation
    from temper.testing import toy_tasks

    rows = records(toy_run(exact_model, steps=4, probes=[Evaluation(toy_tasks(), attempts=1, every=2)]))
    timed = {r["step"]: r.get("timing_s/evaluation", 0.0) for r in rows if r["step"]}
    assert timed[2] > 0 and timed[4] > 0 and timed[1] == timed[3] == 0
    for r in rows[1:]:
        inside = r["timing_s/rollout"] + r["timing_s/update"] + r["timing_s/sync"]
        assert inside <= r["timing_s/step"] + 0.01, "what an evaluation sampled is no part of the step after it"


def test_the_tail_of_a_rollout() -> None:
    async def rollout(attempts: Attempts) -> None:
        async def one(seconds: float) -> None:
            with attempts.one():
                await asyncio.sleep(seconds)

        await asyncio.gather(*(one(0.2 if k == 7 else 0.02) for k in range(12)))

    attempts = Attempts()
    asyncio.run(rollout(attempts))
    told = attempts.take()
    assert 0.5 < told["perf/tail_share"] < 0.97
    counts, edges = told["perf/attempt_s"]["counts"], told["perf/attempt_s"]["edges"]
    assert sum(counts) == 12 and counts[-1] == 1 and 0.01 < edges[0] < 0.15 and edges[-1] >= 0.19
    assert attempts.take() == {}, "it forgets"
