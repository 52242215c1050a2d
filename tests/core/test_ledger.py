"""The ledger: tokens and FLOPs against counts by hand, budgets that end a run, and the same after a resume."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from temper.backends.base import AdamW
from temper.backends.local import LocalLearner
from temper.carrier import Batch
from temper.cli import main
from temper.columns import LOGP
from temper.episode import ENV, Episode, Trajectory, Turn
from temper.errors import UserError
from temper.evaluate import Evaluation
from temper.ledger import AXES, Ledger, Shape, budget_of, work
from temper.loop import train
from temper.models.load import load_model
from temper.objective import Update
from temper.run import Run
from temper.tasks.task import Task
from tests.seams import toys


def test_flops_of_the_bundled_model_by_hand() -> None:
    shape = Shape.of(load_model("temper-tiny", device="cpu"))
    assert shape is not None
    layer = 128 * 128 + 2 * (128 * 64) + 128 * 128 + 3 * (128 * 384)  # q; k and v of 2 heads of 4; o; gate, up, down
    assert (shape.linear, shape.head, shape.width) == (4 * layer, 128 * 512, 4 * 4 * 32)
    assert shape.trained == shape.linear and shape.trained_head == shape.head
    # 3 tokens, the last of them scored: they attend to 1 + 2 + 3 positions, q·k and p·v with 2 · 128 FLOPs in a layer
    by_hand = 3 * 2 * 4 * layer + 6 * 4 * (2 * 128 + 2 * 128) + 2 * 128 * 512
    assert by_hand == 4_861_952 == shape.forward(3, 6, 1)
    assert shape.backward(3, 6, 1) == 2 * by_hand  # a gradient by both factors of every product


def test_frozen_weights_have_no_gradient_of_their_own() -> None:
    shape = Shape(linear=100, head=10, trained=20, trained_head=0, width=8)
    assert shape.backward(5, 0, 2) == 2 * 100 * 5 + 2 * 10 * 2 + 2 * 20 * 5


def batch_of(prompt: int, answers: list[int]) -> Batch:
    turns = (Turn(tuple(range(1, prompt + 1)), -1, ENV),)
    turns += tuple(Turn(tuple([9] * n), 0, "solver", logp=(0.0,) * n) for n in answers)
    trajectories = tuple(Trajectory((0, i + 1), "solver") for i in range(len(answers)))
    return Batch.of([Episode(Task("t", "say", "x", source="toy"), turns, trajectories, "1", "train")])


def test_a_shared_context_is_computed_once() -> None:
    b = batch_of(5, [2, 3])
    # shared: 5 + 2 + 3 tokens; positions 1…5, then 6, 7, then 6, 7, 8. By chains: 7 and 8 tokens
    assert work(b, shared=True) == (10, 15 + 13 + 21, 5)
    assert work(b, shared=False) == (15, 28 + 36, 5)


def test_the_matrix_products_are_those_that_torch_counts() -> None:
    module = load_model("temper-tiny", device="cpu")
    learner, shape, b = LocalLearner(module, AdamW()), Shape.of(module), batch_of(20, [12, 9])
    assert shape is not None and learner.flat
    with FlopCounterMode(display=False) as counter:
        learner.read(b, {LOGP.of("old"): LOGP})
    products = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    one_more = shape.forward(0, 0, 1)  # a row through the head tells the learner the size of the vocabulary
    assert products == shape.forward(41, 0, 21) + one_more


def make(model: str, **options: Any) -> Run:
    policy = toys.policy(model)
    return Run(
        env=toys_env(), curriculum=toys.curriculum(), roles={"solver": policy}, name="toy", groups=2,
        on_group=[toys.ShareOf(), toys.CENTRED], updates=[Update(policy, [toys.POLICY_TERM], epochs=2)],
        probes=[Evaluation(toys.TASKS, attempts=2)], sampling=toys.SHORT, **options,
    )  # fmt: skip


def toys_env() -> Any:
    from temper.envs.single import SingleTurn

    return SingleTurn()


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def ended(toy_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that its budget ended: a step samples 2 x 4 answers of at most 6 tokens."""
    out = tmp_path_factory.mktemp("ended") / "run"
    asyncio.run(train(make(toy_model, steps=50, budget={"sampled_tokens": 100}, out=out)))
    return out


def test_a_budget_ends_the_run_after_the_step_that_reaches_it(ended: Path) -> None:
    records, summary = lines(ended)[1:], json.loads((ended / "summary.json").read_text())
    totals = [r["ledger/total/sampled_tokens"] for r in records]
    assert totals[-1] >= 100 > totals[-2] and summary["steps"] == len(records) < 50
    assert "after" in summary and summary["budget"] == {"sampled_tokens": 100}
    assert (ended / "checkpoints" / f"step_{len(records)}").is_dir()


def test_what_was_spent_agrees_with_the_records(ended: Path) -> None:
    records, summary = lines(ended)[1:], json.loads((ended / "summary.json").read_text())
    ledger = summary["ledger"]
    assert ledger["sampled_tokens"] == sum(r["ledger/sampled_tokens"] for r in records) == summary["tokens"]
    assert ledger["trained_tokens"] == 2 * ledger["sampled_tokens"]  # two epochs
    assert ledger["optimiser_steps"] == 2 * len(records) and ledger["scored_tokens"] == ledger["judge_tokens"] == 0
    assert 0 < ledger["evaluation_tokens"] <= 2 * 4 * 2 * 6 and ledger["evaluation_flops"] > 0
    assert ledger["forward_flops"] == sum(r["ledger/forward_flops"] for r in records) > 0
    assert ledger["backward_flops"] > ledger["forward_flops"]  # two epochs of 2 against the rollout's 1 and 2 of 1
    assert ledger["seconds"]["update"] > 0 and ledger["peak_memory_mib"] > 10


def test_passes_of_every_task_are_kept(ended: Path) -> None:
    passes = json.loads((ended / "summary.json").read_text())["passes"]
    assert passes["tasks"] == [["toy", f"t{i}"] for i in range(4)] and passes["attempts"] == 2
    assert len(passes["before"]) == len(passes["after"]) == 4 and set(passes["after"]) <= {0, 1, 2}


def test_interrupted_within_a_budget_it_ends_the_same(ended: Path, toy_model: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    budget = {"sampled_tokens": 100}
    first = make(toy_model, steps=1, out=out)
    asyncio.run(train(first))
    asyncio.run(train(make(toy_model, steps=50, budget=budget, out=out, resume=True)))
    mine, whole = lines(out), lines(ended)
    assert [r["ledger/total/forward_flops"] for r in mine[1:]] == [r["ledger/total/forward_flops"] for r in whole[1:]]
    assert [r["loss"] for r in mine[1:]] == [r["loss"] for r in whole[1:]]
    asyncio.run(train(make(toy_model, steps=50, budget=budget, out=out, resume=True)))  # there is nothing left to do
    assert len(lines(out)) == len(whole)
    asyncio.run(train(make(toy_model, steps=50, budget={"sampled_tokens": 150}, out=out, resume=True)))
    assert len(lines(out)) > len(whole)


def test_a_policy_without_a_role_is_a_judge(toy_model: str) -> None:
    run = make(toy_model, steps=1)
    judge = toys.policy(toy_model, "judge", trainable=False)
    run.others.append(judge)
    with run.live():
        done = asyncio.run(judge.sampler.sample((1, 2, 3), toys.SHORT))
        assert run.ledger.total["judge_tokens"] == len(done.ids) and run.ledger.total["judge_calls"] == 1
        assert run.ledger.total["sampled_tokens"] == 0
        with run.ledger.apart():
            asyncio.run(judge.sampler.sample([1, 2, 3], toys.SHORT))  # type: ignore[arg-type]
        assert run.ledger.total["judge_calls"] == 1 and run.ledger.total["evaluation_tokens"] == len(done.ids)


def test_seconds_of_environments_and_of_nobody(toy_model: str, tmp_path: Path) -> None:
    """Two attempts at once wait 0.1 s for a tool and call it twice: 0.2 s of environments, 0.1 s without work."""
    from temper.envs.single import SingleTurn

    class Slow(SingleTurn):
        async def play(self, task: Task, roles: Any) -> Episode:
            await asyncio.sleep(0.1)
            episode = await super().play(task, roles)
            return replace(
                episode, trajectories=tuple(replace(t, info={"calls": ["a", "b"]}) for t in episode.trajectories)
            )

    run = make(toy_model, steps=2, out=tmp_path / "run")
    run.env, run.groups, run.curriculum.attempts, run.probes = Slow(), 1, 2, []
    asyncio.run(train(run))
    ledger = json.loads((tmp_path / "run" / "summary.json").read_text())["ledger"]
    assert ledger["tool_calls"] == 2 * 2 * 2
    assert 2 * 0.2 <= ledger["seconds"]["environment"] < 0.9 and 2 * 0.1 <= ledger["seconds"]["idle"] < 0.6
    assert ledger["seconds"]["idle"] < ledger["seconds"]["step"]
    rows = lines(tmp_path / "run")
    assert sum(r["perf/environment_s"] for r in rows) == pytest.approx(ledger["seconds"]["environment"], abs=0.01)
    assert run.ledger.spent("environment_seconds") == pytest.approx(ledger["seconds"]["environment"], abs=1e-3)


def test_every_axis_ends_a_run() -> None:
    for axis in AXES:
        ledger = Ledger()
        for name in ledger.total:
            ledger.total[name] = 5.0
        ledger.seconds = {"step": 10.0, "environment": 10.0}
        spent = 10.0 if axis in ("flops", "seconds", "environment_seconds") else 5.0
        assert ledger.spent(axis) == pytest.approx(spent, abs=0.1), axis
        assert ledger.share({axis: spent}) >= 1 > ledger.share({axis: spent + 1})


def test_a_budget_of_seconds_counts_the_step_that_goes_on(toy_model: str, tmp_path: Path) -> None:
    run = make(toy_model, steps=1000, budget={"seconds": 0.3}, out=tmp_path / "run")
    asyncio.run(train(run))
    seconds = [r["timing_s/step"] for r in lines(tmp_path / "run")[1:]]
    assert sum(seconds[:-1]) < 0.3 and sum(seconds) > 0.28 and len(seconds) < 1000


def test_the_sampling_of_others_is_not_idle(toy_model: str) -> None:
    ledger = Ledger()
    with ledger._models.inside():
        time.sleep(0.05)
    with ledger.apart(), ledger._models.inside():
        time.sleep(0.05)  # an evaluation's
    time.sleep(0.02)
    out = ledger.step({"step": 0.07, "reward": 0.01})
    assert out["perf/idle_s"] == pytest.approx(0.02, abs=0.01) and out["perf/environment_s"] == 0.01
    assert ledger.step({"step": 0.5})["perf/idle_s"] == 0.5


def test_a_prompt_that_attempts_share_is_counted_once(toy_model: str) -> None:
    run = make(toy_model, steps=1)
    policy = run.roles["solver"]
    with run.live():
        shape = Shape.of(policy.learner.module)
        assert shape is not None

        async def twice() -> list[int]:
            both = [policy.sampler.sample((1, 2, 3), toys.SHORT.but(seed=s)) for s in (1, 2)]
            return [len(c.ids) for c in await asyncio.gather(*both)]

        drawn = asyncio.run(twice())
    want = shape.forward(3, 1 + 2 + 3, 1)
    for n in drawn:  # the first comes from the prompt's logits; each next one from a token at position 4, 5, …
        want += sum(shape.forward(1, 3 + k, 1) for k in range(1, n))
    assert run.ledger.total["forward_flops"] == want and run.ledger.total["sampled_tokens"] == sum(drawn)


def test_counting_costs_less_than_a_thousandth_of_an_update(toy_model: str) -> None:
    b = Batch.concat([batch_of(30, [12] * 16) for _ in range(4)])
    began = time.perf_counter()
    for _ in range(20):
        work(b, shared=True)
    each = (time.perf_counter() - began) / 20
    assert each < 0.005  # an update on as many tokens takes longer than half a second


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("2M-sampled-tokens", {"sampled_tokens": 2e6}),
        ("200k_trained_tokens", {"trained_tokens": 2e5}),
        ("1.5T-flops", {"flops": 1.5e12}),
        ("300-seconds", {"seconds": 300.0}),
        ("90-environment-seconds", {"environment_seconds": 90.0}),
        ("2k-judge-calls", {"judge_calls": 2000.0}),
    ],
)
def test_budgets_are_read(text: str, want: dict[str, float]) -> None:
    assert budget_of(text) == want


@pytest.mark.parametrize("text", ["2M", "0k-flops", "2M-tokens", "-3-flops", "many-flops", "1..2k-flops"])
def test_what_is_no_budget_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(UserError, match="budget"):
        budget_of(text)


def test_the_command_line_takes_a_budget(toy_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    argv = ["run", "grpo", "--model", toy_model, "--groups", "2", "--attempts", "2", "--max-tokens", "4"]
    argv += [
        "--eval-tasks",
        "2",
        "--eval-attempts",
        "1",
        "--budget",
        "40-trained-tokens",
        "--out",
        str(tmp_path / "run"),
        "--threads",
        "1",
    ]
    assert main(argv) == 0
    assert "until 40 trained tokens" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["ledger"]["trained_tokens"] >= 40
    assert main([*argv, "--budget", "40-tokens"]) == 2
    assert "axis of a budget" in capsys.readouterr().err
