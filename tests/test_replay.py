"""Replay: the run's own gradient comes out to the last bit, others as arithmetic says; the page in a real browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from temper import console
from temper.backends.local import LocalLearner
from temper.cli import main
from temper.columns import ADVANTAGE, TOKEN, TRAJECTORY
from temper.errors import UserError
from temper.method import Method
from temper.methods.objectives.grpo import grpo
from temper.methods.objectives.ppo import ppo
from temper.objective import Update
from temper.replay.gradient import effective
from temper.replay.methods import Alternative, named
from temper.replay.outcome import Bench, replay
from temper.replay.page import write
from temper.replay.record import read, steps_in, steps_of
from temper.run import Run
from temper.testing.pathologies import records, toy_run
from tests.browser import Browser, find_chromium

RECIPE = '''
from temper.testing.pathologies import toy_run

def toy(model: str = "", steps: int = 3, seed: int = 0):
    """A toy run.

    model  a directory
    steps  of training; seed: of everything
    """
    return toy_run(model, seed, steps=steps)
'''
METHODS = """
from dataclasses import replace
from temper.methods.objectives.grpo import grpo

def twice(policy):
    m = grpo(policy, beta=None)
    m.terms = [replace(t, coef=2.0) for t in m.terms]
    return m

def against(policy):
    m = grpo(policy, beta=None)
    m.terms = [replace(t, coef=-1.0) for t in m.terms]
    return m
"""


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "say", lambda text: None)


def graded(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[list[Tensor]]:
    """Train the run; the gradient of each optimiser step, before it is clipped."""
    kept: list[list[Tensor]] = []
    real = LocalLearner._optimise

    def optimise(self: LocalLearner) -> dict[str, float]:
        kept.append([p.grad.clone() for p in self.module.parameters() if p.grad is not None])
        return real(self)

    monkeypatch.setattr(LocalLearner, "_optimise", optimise)
    records(run)
    monkeypatch.setattr(LocalLearner, "_optimise", real)
    return kept


def changed(run: Run, make: Any) -> Run:
    """The run with another method."""
    policy = run.updates[0].policy
    m: Method = make(policy)
    run.on_group, run.on_batch = [run.on_group[0], *m.on_group], m.on_batch
    run.updates = [Update(policy, m.terms, m.epochs, m.minibatches)]
    return run


KINDS = {"grpo": lambda p: grpo(p, beta=None), "ppo": lambda p: ppo(p, epochs=1)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_runs_own_gradient_is_replayed_exactly(
    kind: str, exact_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(**fields: Any) -> Run:
        return changed(toy_run(exact_model, steps=3, **fields), KINDS[kind])

    run = make(out=tmp_path / "run", record=(1, 3), save_every=1, keep=0)
    steps = graded(run, monkeypatch)
    assert steps_in(tmp_path / "run") == [1, 3]
    for step in (1, 3):
        recorded = read(tmp_path / "run", step)
        bench = Bench(make(), recorded)
        found, _ = bench.gradient(Alternative("it", bench.policy, bench.update), bench.update.rows(recorded.batch))
        assert all(torch.equal(a, b) for a, b in zip(found.of.values(), steps[step - 1], strict=True))
        bench.policy.close()
        (own,) = replay(make(), recorded, [])["methods"]
        assert own["cosine"] == pytest.approx(1.0, abs=1e-12) and own["ratio"] == 1.0
    (tmp_path / "run" / "recorded" / "step_000003" / "weights.safetensors").unlink()
    from_checkpoint = replay(make(), read(tmp_path / "run", 3), [])["methods"][0]
    assert from_checkpoint == own, "the checkpoint before the step has the same weights"


@pytest.fixture(scope="module")
def recorded(exact_model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a run of a recipe in a file, with steps 2 and 3 recorded; and the file with methods."""
    folder = tmp_path_factory.mktemp("replay")
    (folder / "toy.py").write_text(RECIPE)
    (folder / "mine.py").write_text(METHODS)
    argv = ["run", str(folder / "toy.py"), "--model", exact_model, "--out", str(folder / "run"), "--threads", "1"]
    assert main([*argv, "--record-steps", "2,3"]) == 0
    return folder / "run", str(folder / "mine.py")


def outcome(found: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((found / "replay.json").read_text())
    return told


def test_other_methods_differ_as_arithmetic_says(
    recorded: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, mine = recorded
    argv = ["replay", str(run), "--step", "2", "--with", f"{mine}:twice,{mine}:against", "--out", str(tmp_path)]
    assert main(argv) == 0
    told = outcome(tmp_path)
    own, twice, against = told["methods"]
    assert (twice["cosine"], against["cosine"]) == (pytest.approx(1, abs=1e-9), pytest.approx(-1, abs=1e-9))
    assert (twice["ratio"], against["ratio"]) == (pytest.approx(2, abs=1e-6), pytest.approx(1, abs=1e-6))
    assert (twice["moved"], against["moved"]) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    assert twice["effective_trajectories"] == pytest.approx(own["effective_trajectories"])
    assert told["check"]["apart"] < 1e-5, "the norm is the one that the run recorded"
    shown = capsys.readouterr().out
    assert "mine.py:twice" in shown and "-1.0000" in shown and "replay.html" in shown
    token = told["changed"]["mine.py:against"][0]
    assert token["after"] == pytest.approx(-token["before"], abs=1e-3)


def test_gates_and_signals_change_the_effective_batch(exact_model: str, recorded: tuple[Path, str]) -> None:
    b = read(recorded[0], 2)
    run, other = toy_run(exact_model), toy_run(exact_model)
    best = torch.zeros(b.batch.size(TRAJECTORY))
    best[5] = 1.0
    one = replace_credit(other, best)
    silent = Alternative.of_run("nothing counts", toy_run(exact_model, signal=lambda group: False))
    own, only, nothing = replay(run, b, [one, silent])["methods"]
    assert own["effective_trajectories"] > 8 and only["effective_trajectories"] == pytest.approx(1.0, abs=1e-6)
    assert 0 < only["used"] < 0.2
    assert "leaves no group" in nothing["error"], "a method that cannot be asked does not take the others with it"
    zero = replace_credit(toy_run(exact_model), torch.zeros(b.batch.size(TRAJECTORY)))
    assert "no token has a gradient" in replay(toy_run(exact_model), b, [zero])["methods"][1]["error"]
    assert effective(torch.tensor([2.0, -2.0, 0.0])) == 2.0 and effective(torch.zeros(3)) == 0.0


def replace_credit(run: Run, weights: Tensor) -> Alternative:
    """A method that credits each token of some attempts alike."""
    from temper.stage import Compute

    stage = Compute(ADVANTAGE, lambda b: b.spread(weights, TRAJECTORY, TOKEN))
    a = Alternative.of_run("one attempt", run)
    return replace(a, on_group=[], on_batch=[stage])


def test_a_method_of_several_passes_leaves_the_weights_as_they_were(
    exact_model: str, recorded: tuple[Path, str]
) -> None:
    step = read(recorded[0], 3)

    def alternative(epochs: int) -> Alternative:
        return Alternative.of_run("ppo", changed(toy_run(exact_model), lambda p: ppo(p, epochs=epochs)))

    _own, once, often, again = replay(
        toy_run(exact_model), step, [alternative(1), alternative(4), replace(alternative(1), label="again")]
    )["methods"]
    assert often["optimiser_steps"] == 4 and often["clipped"] is not None
    assert {**again, "method": "ppo"} == once, "what came between has moved nothing"


def test_recipes_are_found_by_name(exact_model: str) -> None:
    own = {"model": exact_model, "max_tokens": 24, "clip": 0.5}
    a = named("drgrpo", own)
    assert a.update.terms[0].per.length == 24, "what every recipe has is the recorded run's"  # type: ignore[attr-defined]
    assert a.update.terms[0].loss.low == 0.2, "a method's own options are its own"  # type: ignore[union-attr]
    assert named("dapo --clip-high 0.5", own).update.terms[0].loss.high == 0.5  # type: ignore[union-attr]


ERRORS: dict[str, tuple[list[str], str]] = {
    "no run": (["nowhere"], "there is no directory nowhere"),
    "not recorded": (["RUN", "--step", "1"], "step 1 of RUN was not recorded: recorded are 2, 3"),
    "unknown": (["RUN", "--with", "gpro"], "unknown recipe 'gpro'"),
    "no function": (["RUN", "--with", "MINE:thrice"], "unknown function in mine.py 'thrice'"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_one_line(name: str, recorded: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    words, said = ERRORS[name]

    def full(text: str) -> str:
        return text.replace("RUN", str(recorded[0])).replace("MINE", recorded[1])

    assert main(["replay", *map(full, words)]) == 2
    shown = capsys.readouterr().err
    assert full(said) in shown and shown.count("\n") == 1


def test_what_is_gone_or_damaged_is_said(recorded: tuple[Path, str], tmp_path: Path) -> None:
    run = tmp_path / "copy"
    shutil.copytree(recorded[0], run)
    place = run / "recorded" / "step_000002"
    (place / "weights.safetensors").unlink()
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match=r"the weights of step 2 are gone: .* no checkpoint step_1"):
        read(run, 2)
    (place.parent / "step_000003" / "batch.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="is damaged"):
        read(run, 3)
    (place.parent / "step_000003" / "batch.json").unlink()
    with pytest.raises(UserError, match="recorded are 2"):
        read(run, 3)
    with pytest.raises(UserError, match="it has none; run with --record-steps"):
        read(tmp_path, 1)
    assert steps_of("10, 20") == (10, 20) and steps_of("checkpoints") == "checkpoints" and steps_of("") == ()
    with pytest.raises(UserError, match="--record-steps takes step numbers"):
        steps_of("ten")


def test_steps_after_checkpoints_are_recorded_also_when_resumed(exact_model: str, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"out": tmp_path, "record": "checkpoints", "save_every": 2}
    records(toy_run(exact_model, steps=2, **fields))
    assert steps_in(tmp_path) == []
    records(toy_run(exact_model, steps=6, resume=True, **fields))
    assert steps_in(tmp_path) == [3, 5]
    first = replay(toy_run(exact_model), read(tmp_path, 3), [])["methods"][0]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert first["norm"] == pytest.approx(next(r["grad_norm"] for r in rows if r["step"] == 3), rel=1e-5)


def test_columns_of_every_kind_come_back_as_they_were(exact_model: str, tmp_path: Path) -> None:
    run = toy_run(exact_model, steps=1, out=tmp_path, record=(1,))
    kept: list[Any] = []

    class Keep:
        reads = writes = ()

        async def __call__(self, b: Any) -> Any:
            kept.append(b)
            return b

    run.on_batch = [*run.on_batch, Keep()]
    records(run)
    back = read(tmp_path, 1).batch
    assert {c.name for c in back.columns} == {c.name for c in kept[0].columns}
    for c in kept[0].columns:
        mine, theirs = kept[0][c], back[c]
        assert torch.equal(mine, theirs) if isinstance(mine, Tensor) else mine == theirs, c.name


# the page -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    binary = find_chromium()
    if binary is None:
        pytest.skip("no Chromium here")
    with Browser(binary) as page:
        yield page


def made_up() -> dict[str, Any]:
    """An outcome of three methods and one that could not be asked, with hostile text."""
    methods = [
        {"method": name, "cosine": c, "norm": 0.5 * k, "ratio": k, "trajectories": 64, "effective_trajectories": e,
         "effective_tokens": 300.0, "used": u, "clipped": cl, "optimiser_steps": 1, "loss": 0.1, "moved": m}
        for name, c, k, e, u, cl, m in (
            ("grpo", 1.0, 1.0, 47.5, 1.0, 0.0, None), ("dr-grpo", 0.83, 0.07, 35.5, 1.0, 0.0, 0.21),
            ("my own method with a long name", -0.4, 5.3, 3.1, 0.4, None, 0.9),
        )
    ]  # fmt: skip
    tokens = ["<think>", "so ", "17 ", "+ ", "4 ", "=\n", "21", "</script><b>", "<|im_end|>"] * 8
    attempts = [
        {"attempt": j, "source": "chain_sum", "task": str(j), "prompt": "What is 17 + 4? " * 6, "reward": j % 2,
         "finish": "stop", "tokens": tokens,
         "credit": {m["method"]: [((k * (i + 3) + j) % 7 - 3) / 2 for k in range(len(tokens))]
                    for i, m in enumerate(methods)}}
        for j in range(5)
    ]  # fmt: skip
    top = [{"attempt": 1, "place": k, "token": tokens[k], "before": 1.0 - k, "after": k / 3} for k in range(9)]
    broken = {"method": "remax", "error": "column 'greedy' has not been written"}
    return {
        "run": "grpo-s0", "step": 10, "groups": 8, "trajectories": 64, "tokens": 942, "methods": [*methods, broken],
        "attempts": attempts, "changed": {m["method"]: top for m in methods[1:]},
        "check": {"recorded_norm": 0.5, "apart": 1.9e-7},
    }  # fmt: skip


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_works(browser: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    page, _ = write(tmp_path, made_up())
    browser.open(page, width, 900, dark)
    assert not browser.errors and all(r.startswith("file:") for r in browser.requests)
    assert browser.js("document.documentElement.scrollWidth") <= width, "the page does not scroll sideways"
    names = "[...document.querySelectorAll('.methods tbody tr')].map((r) => r.dataset.method).filter(Boolean)"
    assert browser.js(names)[0] == "grpo"
    browser.click("[data-sort=cosine]")
    assert browser.js(names) == ["grpo", "dr-grpo", "my own method with a long name"]
    browser.click("[data-sort=cosine]")
    assert browser.js(names)[0] == "my own method with a long name"
    assert "remax: column" in browser.js("document.querySelector('#methods .note').innerText")
    before = browser.js("[...document.querySelectorAll('.tk')].map((t) => t.style.getPropertyValue('--a')).join()")
    browser.click('#texts .choice[aria-label="Colour"] button[value=credit]')
    after = browser.js("[...document.querySelectorAll('.tk')].map((t) => t.style.getPropertyValue('--a')).join()")
    assert before != after
    browser.click(".replayed .tk:nth-child(3)")
    said = browser.js("document.querySelector('.inspect').innerText")
    assert browser.js("document.querySelector('.tk[aria-pressed=true]').innerText") == "17 ", "the page holds still"
    assert '"17 "' in said and "dr-grpo" in said and "token 3 of 72" in said
    assert browser.js("document.querySelectorAll('.said b').length") == 0, "text from the run is text"
    assert not browser.errors
