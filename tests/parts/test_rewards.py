"""The Rewards stage: what it writes, what it counts, and when it gives up."""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import replace

import pytest
import torch

from temper.carrier import Batch
from temper.columns import INFO, OUTCOME, REWARD, TRAJECTORY
from temper.episode import Completion, Recorder
from temper.errors import UserError
from temper.parts.rewards import Rewards
from temper.rewards.load import Reward, reward_from
from temper.tasks.data import load_tasks
from temper.tasks.task import Task
from tests.rewards import functions

SUM = Task("sums/1", "2+2?", "4", "sums", {"level": 2})
OTHER = Task("sums/2", "2+3?", "5", "sums", {"level": 3})


def batch(attempts: dict[str, list[str]] | None = None, tasks=(SUM, OTHER), split="train", **judged) -> Batch:
    """A group a task, a trajectory a text; `judged` are fields of every trajectory."""
    attempts = attempts or {"sums/1": ["4", "bad", "5"], "sums/2": ["5", "5"]}
    episodes = []
    for task in tasks:
        for text in attempts[task.id]:
            r = Recorder(task)
            prompt = r.add([1, 2, 3], text="prompt")
            r.judge([prompt, r.sampled(Completion((4, 5), (-0.1, -0.2), text=text, version=7), prompt)], **judged)
            episodes.append(replace(r.episode(), request=task.id, split=split))
    return Batch.of(episodes)


def run(stage: Rewards, b: Batch) -> Batch:
    try:
        return asyncio.run(stage(b))
    finally:
        stage.close()


def same(x: torch.Tensor, wanted: list[float]) -> bool:
    return torch.equal(x.nan_to_num(nan=-99.0), torch.tensor(wanted).nan_to_num(nan=-99.0))


NAN = math.nan


def test_rewards_and_their_parts_are_columns():
    out = run(Rewards([functions.right, functions.length], weights=[2.0, 0.5]), batch())
    assert same(out[REWARD.of("right")], [1.0, 0.0, 0.0, 1.0, 1.0])
    assert same(out[REWARD.of("length")], [-1.0, -3.0, -1.0, -1.0, -1.0])
    assert same(out[REWARD], [1.5, -1.5, -0.5, 1.5, 1.5])
    assert out[OUTCOME] == ["ok"] * 5


def test_declared_reads_and_writes_are_the_real_ones():
    for stage in (Rewards([functions.right, functions.trl_ids]), Rewards([functions.compute_score], extras=["acc"])):
        trace: set[tuple[str, str]] = set()
        info = {"level": 2, "reward_model": {"ground_truth": "4"}, "extra_info": {"index": 3}}
        b = batch({"sums/1": ["4", "5"]}, [replace(SUM, info=info)])
        out = run(stage, b.traced(trace))
        assert {name for verb, name in trace if verb == "read"} == {c.name for c in stage.reads}
        assert {name for verb, name in trace if verb == "write"} == {c.name for c in stage.writes}
        assert all(c in out for c in stage.writes)


def test_a_part_that_is_not_applicable_is_left_out_and_nothing_applicable_is_nan():
    out = run(Rewards([functions.none, functions.half], weights=[1.0, 1.0]), batch())
    assert same(out[REWARD], [1.5, 0.5, 1.5, 1.5, 1.5])
    out = run(Rewards([functions.none]), batch())
    assert same(out[REWARD], [1.0, NAN, 1.0, 1.0, 1.0]) and out[OUTCOME] == ["ok"] * 5


@pytest.mark.parametrize(
    ("function", "outcome"),
    [
        (functions.hangs, "timeout: hangs: no result within 0.8 s"),
        (functions.dies, "crash: dies: the process ended (exit status 3)"),
        (functions.raises, "error: raises: ValueError: two lines"),
        (functions.nan, "invalid: nan: returned nan"),
    ],
)
def test_a_failed_part_leaves_no_reward_and_says_why(function, outcome):
    stage = Rewards([functions.half, function], timeout=0.8 if "timeout" in outcome else 10.0)
    out = run(stage, batch())
    assert same(out[REWARD], [1.5, NAN, 1.5, 1.5, 1.5])
    assert same(out[REWARD.of("half")], [0.5] * 5)
    assert out[OUTCOME] == ["ok", outcome, "ok", "ok", "ok"]
    assert stage.metrics[f"rewards/outcome/{outcome.partition(':')[0]}"] == pytest.approx(1 / 10)


def test_metrics_are_those_since_the_last_look():
    stage = Rewards([functions.right, functions.none])
    b = batch()
    for _ in range(2):
        asyncio.run(stage(b))
    metrics = stage.metrics
    stage.close()
    assert metrics["rewards/right/mean"] == pytest.approx(0.6)
    assert metrics["rewards/right/std"] == pytest.approx(math.sqrt(0.24))
    assert metrics["rewards/outcome/ok"] == pytest.approx(0.9)
    assert metrics["rewards/outcome/not_applicable"] == pytest.approx(0.1)
    assert stage.metrics == {}


def test_evaluation_does_not_mix_into_the_metrics_of_training():
    stage = Rewards([functions.right])
    training, evaluation = batch(), batch({"sums/1": ["4"]}, [SUM], split="held-out")
    for b in (evaluation, training, evaluation):
        asyncio.run(stage(b))
    assert stage.metrics["rewards/right/mean"] == pytest.approx(0.6)
    asyncio.run(stage(evaluation))
    assert stage.metrics["rewards/right/mean"] == 1.0
    stage.close()


def test_verl_extras_are_metrics_and_columns_when_asked_for():
    info = {"data_source": "sums", "reward_model": {"ground_truth": "4"}, "extra_info": {"index": 3}}
    b = batch({"sums/1": ["4", "5"]}, [replace(SUM, info=info)])
    stage = Rewards([functions.compute_score], extras=["acc", "never_said"])
    out = run(stage, b)
    assert same(out[REWARD], [1.0, 0.0]) and same(out[REWARD.of("acc")], [1.0, 0.0])
    assert same(out[REWARD.of("never_said")], [NAN, NAN])
    assert stage.metrics["rewards/compute_score/acc/mean"] == 0.5


def test_trl_functions_are_called_once_a_group():
    stage = Rewards([functions.trl_right, functions.trl_some, functions.trl_later])
    out = run(stage, batch())
    assert same(out[REWARD.of("trl_right")], [1.0, 0.0, 0.0, 1.0, 1.0])
    assert same(out[REWARD.of("trl_some")], [1.0, NAN, 1.0, 1.0, 1.0])
    assert same(out[REWARD], [3.0, 1.0, 2.0, 3.0, 3.0])


def test_trl_sees_completion_ids_the_step_and_may_log():
    stage = Rewards([functions.trl_ids, functions.trl_logs])
    out = run(stage, batch())
    assert out[REWARD.of("trl_ids")].tolist() == pytest.approx([2.07] * 5)
    metrics = stage.metrics
    assert metrics["rewards/trl_logs/letters/mean"] == pytest.approx((1 + 3 + 1 + 1 + 1) / 5)
    assert metrics["rewards/trl_logs/seen/mean"] == pytest.approx((3 * 3 + 2 * 2) / 5)


def test_a_wrong_length_fails_its_group_only():
    attempts = {"sums/1": ["4", "5"], "sums/2": ["5"]}
    out = run(Rewards([functions.trl_short]), batch(attempts))
    assert same(out[REWARD], [NAN, NAN, 1.0])
    assert out[OUTCOME][0] == "invalid: trl_short: returned 1 values for 2 completions"


def test_no_list_at_all_is_invalid():
    out = run(Rewards([functions.trl_number], give_up=0), batch())
    assert out[OUTCOME][0] == "invalid: trl_number: returned a float (1.0), not a list of 3 numbers"


def test_what_the_environment_failed_at_is_not_judged():
    b = batch(outcome="error: the sandbox is gone")
    out = run(Rewards([functions.half]), b)
    assert same(out[REWARD], [NAN] * 5) and out[OUTCOME] == ["error: the sandbox is gone"] * 5


def test_without_functions_the_environments_rewards_stay():
    stage = Rewards()
    b = batch(reward=0.7)
    assert run(stage, b) is b
    assert stage.reads == (REWARD,) and stage.writes == ()


def test_with_functions_they_are_replaced():
    assert same(run(Rewards([functions.half]), batch(reward=0.7))[REWARD], [0.5] * 5)


def test_the_environments_notes_reach_functions_by_name():
    b = batch({"sums/1": ["4"]}, [replace(SUM, info={})], info={"level": 9})
    assert b[INFO] == [{"level": 9}]
    assert same(run(Rewards([functions.wants_level]), b)[REWARD], [9.0])


def test_a_missing_argument_is_told_before_training_and_at_the_first_call():
    stage = Rewards([functions.half, functions.wants_level])
    with pytest.raises(UserError, match="'wants_level' needs 'level', which task 'x' does not have; there are: compl"):
        stage.check([SUM, Task("x", "2+2?", "4")])
    stage.check([SUM])
    with pytest.raises(UserError, match="'wants_level' needs 'level'"):
        run(stage, batch({"x": ["4"]}, [Task("x", "2+2?", "4")]))


def test_training_on_nothing_is_refused():
    with pytest.raises(
        UserError, match=r"^reward 'mapping_without_score' failed on every one of the last 5 judgements: invalid:"
    ):
        run(Rewards([functions.mapping_without_score]), batch())


def test_single_groups_may_fail_for_a_while():
    b = batch({"sums/1": ["x"] * 4}, [SUM])

    async def go(stage):
        await stage(b)
        with pytest.raises(UserError, match="failed on every one of the last 8 judgements"):
            await stage(b)

    stage = Rewards([functions.mapping_without_score], give_up=8)
    asyncio.run(go(stage))
    stage.close()
    assert run(Rewards([functions.mapping_without_score], give_up=0), batch())[OUTCOME][0].startswith("invalid")


def test_groups_share_the_pool_and_each_gets_its_own():
    stage = Rewards([functions.slow], workers=2)
    groups = [batch({"sums/1": [str(g), str(g + 0.5)]}, [SUM]) for g in range(4)]

    async def go():
        return await asyncio.gather(*(stage(g) for g in groups))

    began = time.monotonic()
    outs = asyncio.run(go())
    assert time.monotonic() - began < 8 * 0.3
    stage.close()
    assert [o[REWARD].tolist() for o in outs] == [[float(g), g + 0.5] for g in range(4)]


def test_groups_and_the_whole_batch_give_the_same():
    stage = Rewards([functions.right, functions.trl_right, functions.none])
    b = batch()
    whole = run(stage, b)
    parts = [run(stage, b.select(b.structure.group == g)) for g in range(2)]
    joined = Batch.concat(parts)
    for column in stage.writes:
        x, y = whole[column], joined[column]
        assert (same(x, y.tolist())) if isinstance(x, torch.Tensor) else x == y


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"functions": [functions.half], "weights": [1, 2]}, "2 reward weights for 1 functions"),
        ({"functions": [functions.half, functions.half]}, "two rewards are called 'half'"),
        ({"functions": [lambda completion: 1.0]}, "lambda"),
        ({"functions": [functions.half], "timeout": 0}, "positive timeout"),
    ],
)
def test_senseless_settings_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Rewards(**arguments)


def test_the_last_turn_of_the_judged_role_is_the_completion():
    r = Recorder(SUM)
    prompt = r.add([1], text="prompt")
    first = r.sampled(Completion((2,), (-0.1,), text="4"), prompt, author="solver")
    other = r.sampled(Completion((3,), (-0.1,), text="bad"), first, author="critic")
    seen = r.add([4], other, text="observation")
    r.judge([prompt, first, other, seen], role="solver")
    r.judge([prompt, first, other, seen], role="critic")
    out = run(Rewards([functions.right]), Batch.of([r.episode()]))
    assert same(out[REWARD], [1.0, 0.0])


def test_reasoning_gym_scores_two_thousand_a_second():
    tasks = list(load_tasks("rg:chain_sum?size=64"))
    attempts = {t.id: [t.answer, "7", f"<think>hm</think><answer>{t.answer}</answer>", ""] * 4 for t in tasks}
    b = batch(attempts, tasks)
    stage = Rewards([reward_from("reasoning_gym")])

    async def go():
        await stage(b)  # imports, and the tasks' regeneration
        best = math.inf
        for _ in range(3):
            began = time.perf_counter()
            out = await stage(b)
            best = min(best, time.perf_counter() - began)
        return out, b.size(TRAJECTORY) / best

    out, speed = asyncio.run(go())
    stage.close()
    assert torch.equal(out[REWARD].reshape(-1, 4)[:, [0, 2]], torch.ones(256, 2))
    assert speed > 2000


def test_math_verify_judges_gsm8k_rows(gsm8k):
    pytest.importorskip("math_verify")
    tasks = load_tasks(gsm8k, split="test", limit=20)
    right = {t.id: [f"<think>…</think>The answer is ${t.answer.rpartition('#### ')[2]}$.", "no idea"] for t in tasks}
    stage = Rewards([reward_from("math_verify")])
    stage.check(tasks)
    out = run(stage, batch(right, tasks))
    assert same(out[REWARD], [1.0, 0.0] * 20)


def test_math_verify_judges_rows_in_gsm8k_format(tmp_path):
    pytest.importorskip("math_verify")
    rows = [{"question": f"{a} + 1?", "answer": f"It is <<{a}+1={a + 1}>>{a + 1}.\n#### {a + 1:,}"} for a in (4, 1199)]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = load_tasks(path)
    attempts = {t.id: ["So it is \\boxed{5}", "It must be 1,200 in all"] for t in tasks}
    out = run(Rewards([Reward(functions.half), reward_from("math_verify")], weights=[0, 1]), batch(attempts, tasks))
    assert same(out[REWARD], [1.0, 0.0, 0.0, 1.0])
