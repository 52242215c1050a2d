"""Every public class of temper/parts and temper/envs does what it declares, and comes back from a checkpoint."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from temper.backends.base import AdamW, SamplingParams
from temper.backends.routed import Notes, Routed
from temper.backends.speculate import Speculation
from temper.carrier import Batch
from temper.columns import ADVANTAGE, ENTROPY, GROUP_KEY, LOGP, REWARD, TOKEN, TRAJECTORY, Column, boolean, floating
from temper.envs.consultation import plain
from temper.envs.conversations import Dialogue, chains_of, demonstrated
from temper.envs.single import SingleTurn
from temper.envs.tools import ToolUse
from temper.episode import Completion, Recorder
from temper.models.drafter import HiddenDrafter
from temper.objective import Term
from temper.parts import (
    advantages,
    attention,
    curricula,
    gates,
    logprobs,
    losses,
    preferences,
    ratios,
    rewards,
    values,
    walks,
)
from temper.policy import Policy, Seat
from temper.rewards.checkers import exact_match
from temper.stage import Stage
from temper.tasks.cases import patient
from temper.tasks.task import Task
from temper.testing import (
    ToyReward,
    check_curriculum,
    check_env,
    check_memory,
    check_stage,
    check_term,
    toy_batch,
    toy_group,
    toy_tasks,
)
from temper.testing.toys import WIDTH
from tests.contract.discover import ENVS, PARTS
from tests.envs.test_search import Library
from tests.gateway.callers import polite
from tests.parts.toys import SoftmaxPolicy

SHORT = SamplingParams(max_tokens=4)
EITHER = Column("either", TOKEN, boolean, "a gate of this file")


def made(n: int) -> Task:
    return Task(f"made/{n}", "?", "!", source="made")


def ready_head() -> values.ValueHead:
    head = values.ValueHead()
    head.build(WIDTH)
    return head.double()


def opened(model: str) -> Policy:
    policy = Policy(model=model, optimizer=AdamW(lr=1e-3))
    policy.open()
    return policy


def drafting() -> Any:
    policy = Policy(drafts=Speculation(HiddenDrafter()))
    policy.open()
    return PARTS["drafters.TrainDrafter"](policy, every=1, updates=2)


def attended(model: str, feature: Any) -> logprobs.Read:
    return logprobs.Read(opened(model), {Column("feature", TOKEN, floating, "of this file"): feature})


def evaluated(model: str) -> Any:
    return PARTS["self_evaluation.SelfEvaluation"](opened(model))


# How a part is made that needs arguments; the others are made without. A function with a parameter gets a model.
EXAMPLES: dict[str, Callable[..., Any]] = {
    "advantages.DecoupledAdvantage": lambda: advantages.DecoupledAdvantage({"a": 1.0, "b": 0.5}),
    "attention.AttentionEntropy": lambda model: attended(model, attention.AttentionEntropy()),
    "attention.FromTheEnd": lambda model: attended(model, attention.FromTheEnd()),
    "attention.HeadDistance": lambda model: attended(model, attention.HeadDistance()),
    "attention.Rhythm": lambda model: attended(model, attention.Rhythm((0,), (1,))),
    "attention.Rhythms": lambda model: attention.Rhythms(opened(model)),
    "budget.Budgeted": lambda: PARTS["budget.Budgeted"](toy_tasks(), 2, pool=2, probes=2, threshold=-9.0),
    "budget.NoProbe": lambda: PARTS["budget.NoProbe"](PARTS["signals.RewardVaries"]()),
    "budget.ProbeNorms": lambda model: PARTS["budget.ProbeNorms"](EXAMPLES["score_norms.GradientNorms"](model)),
    "calls.CallCredit": lambda model: PARTS["calls.CallCredit"](opened(model)),
    "compression.Compress": lambda model: PARTS["compression.Compress"](
        opened(model), opened(model), [ToyReward()], right=0.0, start="", end="a", cues=("b",), sampling=SHORT
    ),
    "curricula.Shuffled": lambda: curricula.Shuffled(toy_tasks(), 2),
    "curricula.Generated": lambda: curricula.Generated(made, 2),
    "curricula.Mixture": lambda: curricula.Mixture(
        [(2.0, curricula.Shuffled(toy_tasks(), 2)), (1.0, curricula.Generated(made, 3))]
    ),
    "curricula.Growing": lambda: curricula.Growing(
        lambda level, n: Task(f"l{level}/{n}", "?"), levels=3, bar=0.1, window=2, attempts=2
    ),
    "demonstrations.AddDemonstration": lambda model: PARTS["demonstrations.AddDemonstration"](opened(model)),
    "difficulty.Augment": lambda model: PARTS["difficulty.Augment"](opened(model)),
    "domains.AdaptiveDomains": lambda: PARTS["domains.AdaptiveDomains"](toy_tasks(), 2, after=2),
    "domains.Phased": lambda: PARTS["domains.Phased"](toy_tasks(), (6, 400), 4, 2),
    "drafters.TrainDrafter": drafting,
    "explanations.SelfExplain": lambda model: PARTS["explanations.SelfExplain"](
        opened(model), [ToyReward()], shortest=0, right=-9.0, refresh=9, sampling=SHORT
    ),
    "forced.Rescue": lambda model: PARTS["forced.Rescue"](opened(model), [ToyReward()], sampling=SHORT),
    "flows.Explore": lambda model: PARTS["flows.Explore"](opened(model), noisy=2, search=2),
    "gates.AllOf": lambda: gates.AllOf((gates.NOT_GREEDY, gates.NOT_TRUNCATED), EITHER),
    "gold.GoldBehind": lambda model: PARTS["gold.GoldBehind"](opened(model)),
    "logprobs.Read": lambda model: logprobs.Read(opened(model), {logprobs.OLD: LOGP, logprobs.OLD_ENTROPY: ENTROPY}),
    "losses.Weighted": lambda: losses.Weighted(losses.Clip(), (ratios.TIS_WEIGHT,)),
    "losses.OffPolicyMask": lambda: losses.OffPolicyMask(losses.Clip()),
    "process_rewards.ProcessRewards": lambda model: PARTS["process_rewards.ProcessRewards"](opened(model)),
    "process_rewards.Steps": lambda model: PARTS["process_rewards.Steps"](opened(model)),
    "probes.HeldOutLoss": lambda: PARTS["probes.HeldOutLoss"](toy_tasks(), every=2),
    "reference.RefreshReference": lambda: PARTS["reference.RefreshReference"](SoftmaxPolicy(1), every=2),
    "duels.Duel": lambda: PARTS["duels.Duel"](Policy(), toy_tasks(), every=2),
    "noted.Noted": lambda: PARTS["noted.Noted"](toy_tasks(), every=2),
    "routing.Routes": lambda: PARTS["routing.Routes"](
        SimpleNamespace(engine=Routed(), sampler=SimpleNamespace(routes=Notes()))
    ),
    "reward_model.RewardModel": lambda model: PARTS["reward_model.RewardModel"](opened(model)),
    "rewards.Rewards": lambda: rewards.Rewards([exact_match]),
    "roles.ForRoles": lambda: PARTS["roles.ForRoles"](advantages.Advantage(), ("solver",)),
    "schedules.Constant": lambda: PARTS["schedules.Constant"](0.5),
    "schedules.Linear": lambda: PARTS["schedules.Linear"](1.0, 0.0, 10),
    "schedules.Cosine": lambda: PARTS["schedules.Cosine"](1.0, 0.0, 10),
    "schedules.StepAt": lambda: PARTS["schedules.StepAt"](0.0, 1.0, 3),
    "schedules.WarmUp": lambda: PARTS["schedules.WarmUp"](0.5, 10),
    "score_norms.GradientNorms": lambda model: PARTS["score_norms.GradientNorms"](opened(model), "wte"),
    "score_norms.ScoreNorm": lambda model: attended(model, PARTS["score_norms.ScoreNorm"]()),
    "second_opinion.SecondOpinion": lambda: PARTS["second_opinion.SecondOpinion"](ToyReward()),
    "self_evaluation.Confidence": lambda model: PARTS["self_evaluation.Confidence"](evaluated(model)),
    "self_evaluation.SelfEvaluation": lambda model: evaluated(model),
    "segments.SegmentCredit": lambda model: PARTS["segments.SegmentCredit"](
        opened(model), [ToyReward()], every=1, continuations=2, from_prompt=True, sampling=SHORT
    ),
    "shaping.Clamp": lambda: PARTS["shaping.Clamp"](0.0, 0.5),
    "steps.StepGroup": lambda model: PARTS["steps.StepGroup"](opened(model), ToolUse(), 2, sampling=SHORT),
    "trajectories.KeepWeights": lambda: PARTS["trajectories.KeepWeights"](Path(mkdtemp()), every=2),
    "values.ReadValue": lambda: values.ReadValue(ready_head()),
    "values.ValueLoss": lambda: values.ValueLoss(values.ValueHead()),
    "walks.Walk": lambda: walks.Walk.of(toy_batch()),
}


def make(name: str, model: str) -> Any:
    example = EXAMPLES.get(name, PARTS.get(name))
    assert example is not None
    try:
        return example(model) if name in EXAMPLES and inspect.signature(example).parameters else example()
    except TypeError as error:
        pytest.fail(f"{name} needs arguments ({error}): add an example of it to {Path(__file__).name}")


# what is done with one, by what it can be called with ----------------------------------------------------------------


def check(name: str, part: Any) -> None:
    """Find the hook that the part is for, and use it there."""
    if name in SPECIAL:
        return SPECIAL[name](part)
    if hasattr(part, "next") and hasattr(part, "observe"):
        return check_curriculum(part)
    called = list(inspect.signature(part).parameters) if callable(part) else []
    if isinstance(part, Stage) and inspect.iscoroutinefunction(type(part).__call__):
        check_stage(part)
    elif called == ["b", "r"]:
        check_statistic(part)
    elif called == ["b"] and hasattr(part, "reads"):
        check_term(Term("it", part))
    elif called == ["step"]:
        assert all(0 <= part(step) <= 1 for step in (0, 1, 5, 10, 100))
    elif called == ["n"]:  # layers of a model of n
        assert all(set(part(n)) <= set(range(n)) and len(part(n)) for n in (1, 2, 36))
    elif called == ["h", "beta"]:
        check_term(Term("it", preferences.DPO(link=part), where=preferences.PAIRED))
    else:
        pytest.fail(f"no check knows what {name} is for (it is called with {called}): add one to {Path(__file__).name}")


def check_statistic(part: Any) -> None:
    for stage in (advantages.Advantage(baseline=part), advantages.Advantage(scale=part)):
        assert bool(check_stage(stage)[ADVANTAGE].isfinite().any())


def check_signal(part: Any) -> None:
    request = next(iter(curricula.Shuffled(toy_tasks(), 2).next(1)))
    assert part(toy_group(request)) is True
    assert part(toy_group(request).put(REWARD, torch.zeros(2))) is False


def check_keeper(part: Any) -> None:
    update = type("Update", (), {"policy": SoftmaxPolicy(2)})()
    check_memory(part, lambda p: p(toy_batch(), update))
    assert [f.name for f in part.folder.iterdir()] == ["step_0.safetensors"]  # every=2


def check_merged(part: Any) -> None:
    made = type(part).of(Policy("a", "somewhere", lora=None))
    assert (made.name, made.model) == ("a", "somewhere") and isinstance(made, Policy)


def check_hook(part: Any) -> None:
    policy = SoftmaxPolicy(2)
    update = type("Update", (), {"policy": policy})()
    before = part.reference.theta.clone()
    part(toy_batch(), update)
    assert torch.equal(part.reference.theta, before)  # every=2
    part(toy_batch(), update)
    assert not torch.equal(part.reference.theta, before)
    check_memory(part, lambda p: [p(toy_batch(), update), p.reference.theta])


def check_controller(part: Any) -> None:
    before = part(0)
    part.observe(kl=100.0, n=10)
    assert part(0) > before


def check_probe(part: Any) -> None:
    """Its measuring is a matter of whole runs (test_recipes.py)."""
    assert [part.due(step, 5) for step in range(6)] == [True, False, True, False, True, True]
    part.results["before"] = {"eval/loss/it": 1.0}
    check_memory(part, lambda p: p.comparison())


def check_rewards(part: Any) -> None:
    try:
        b = check_stage(part)
        assert set(part.metrics) and b[REWARD].shape == (b.size(TRAJECTORY),)
    finally:
        part.close()


def check_walk(part: Any) -> None:
    b = toy_batch()
    assert torch.equal(part.per_token(torch.ones(len(part.token))), torch.ones(b.size(TOKEN)))
    assert torch.equal(
        torch.bincount(part.trajectory, minlength=b.size(TRAJECTORY)).float(), b.count(TOKEN, TRAJECTORY)
    )


def check_head(part: Any) -> None:
    part.build(WIDTH)
    assert not part(torch.ones(3, WIDTH)).any()


def check_step_group(part: Any) -> None:
    record = Recorder(Task("step", "?"))
    turn = record.sampled(Completion((1, 2), (-1.0, -1.0), text="so"), record.add((1, 2)))
    record.judge((0, turn), info={"calls": [{"turn": 0, "outcome": "tool error"}]})
    b = check_stage(part, Batch.of([record.episode()]))
    assert b[GROUP_KEY] == ["", "step"] and b.size(TRAJECTORY) == 3


def check_call_credit(part: Any) -> None:
    record = Recorder(Task("call", "?"))
    text = '<tool_call>{"name": "f"}</tool_call>'
    turn = record.sampled(Completion((1, 2), (-1.0, -1.0), text=text), record.add((1, 2)))
    record.judge((0, turn), info={"calls": [{"turn": 0, "outcome": "ok"}]})
    b = Batch.of([record.episode()])
    check_stage(part, b.put(ADVANTAGE, torch.zeros(b.size(TOKEN))))


def check_explore(part: Any) -> None:
    seat = Seat(part.env.role, part.policy, SHORT, 0, ())
    check_stage(part, Batch.of([asyncio.run(part.env.walk(toy_tasks()[0], seat, way)) for way in ("112", "22")]))


def check_tally(part: Any) -> None:
    assert part.metrics() == {}


SPECIAL: dict[str, Callable[[Any], None]] = {
    "budget.NoProbe": check_signal,
    "calls.CallCredit": check_call_credit,
    "flows.Explore": check_explore,
    "kl.Adaptive": check_controller,
    "duels.Duel": check_probe,
    "noted.Noted": check_probe,
    "probes.HeldOutLoss": check_probe,
    "reference.RefreshReference": check_hook,
    "rewards.Rewards": check_rewards,
    "rewards.Tally": check_tally,
    "signals.RewardVaries": check_signal,
    "steps.StepGroup": check_step_group,
    "trajectories.KeepWeights": check_keeper,
    "trajectories.Merged": check_merged,
    "values.ValueHead": check_head,
    "walks.Walk": check_walk,
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_does_what_it_declares(name: str, exact_model: str) -> None:
    assert inspect.getdoc(PARTS[name]), f"{name} has no docstring"
    check(name, make(name, exact_model))


def test_tables_name_only_what_exists() -> None:
    assert set(EXAMPLES) | set(SPECIAL) <= set(PARTS)


# environments -------------------------------------------------------------------------------------------------------


def spans(task: Task, tokenizer: Any) -> Any:
    (chain,) = chains_of(Dialogue(task.messages, [{"role": "assistant", "content": task.answer}]), tokenizer)
    return chain


async def pair(task: Task, desk: Any) -> None:
    """One call of each role."""
    plan = await desk.ask("planner", str(task.prompt))
    await desk.ask("coder", plan.text)


def short_game() -> Any:
    """Two moves of a real game, which both players make whatever they say."""
    pytest.importorskip("textarena")
    return ENVS["games.TextArena"](options={"piles": [2]}, move=lambda text: "[0 1]")


def short_walk() -> Any:
    """Over the lake, somewhere else with each answer."""
    pytest.importorskip("gymnasium")
    return ENVS["gymnasium.Gymnasium"](read=lambda text: len(text) % 4, turns=3, fresh=True)


ENVIRONMENTS: dict[str, Callable[[], Any]] = {
    "demonstrations.Demonstrations": lambda: ENVS["demonstrations.Demonstrations"](spans),
    "conversations.Conversations": lambda: ENVS["conversations.Conversations"](demonstrated),
    "switch.Switch": lambda: ENVS["switch.Switch"]({"play": SingleTurn()}, default="play"),
    "games.TextArena": lambda: short_game(),
    "agent.Agent": lambda: ENVS["agent.Agent"](polite),
    "gymnasium.Gymnasium": lambda: short_walk(),
    "consultation.Consultation": lambda: ENVS["consultation.Consultation"](patient, parse=plain, budget=(3, 3)),
    "reflective.ReflectiveCode": lambda: pytest.skip("has a sandbox of its own: tests/methods/test_unitymas_o.py"),
    "workflow.Workflow": lambda: ENVS["workflow.Workflow"](pair, lambda calls: [1.0] * len(calls)),
    "search.Research": lambda: ENVS["search.Research"](Library(), turns=3),
    "shown.Shown": lambda: ENVS["shown.Shown"](SingleTurn(), lambda task, context: "so"),
    "trl.Trl": lambda: ENVS["trl.Trl"](reward_funcs=[lambda completions, **row: [float(len(completions[0]))]]),
    "verifiers.Verifiers": lambda: pytest.skip("plays tasks of its own: tests/envs/adapters/test_verifiers.py"),
    "tasksets.Taskset": lambda: pytest.skip("plays tasks of its own: tests/envs/adapters/test_tasksets.py"),
    "openenv.OpenEnv": lambda: pytest.skip("needs a server: tests/envs/adapters/test_openenv.py"),
    "bfcl.Bfcl": lambda: pytest.skip("plays tasks of its own: tests/envs/adapters/test_bfcl.py"),
}


@pytest.mark.parametrize("name", [n for n, c in ENVS.items() if hasattr(c, "play")])
def test_an_environment_does_what_it_declares(name: str, exact_model: str, tmp_path: Path) -> None:
    try:
        env = ENVIRONMENTS.get(name, ENVS[name])()
    except TypeError as error:
        pytest.fail(f"{name} needs arguments ({error}): add an example of it to {Path(__file__).name}")
    check_env(env, tmp_path, model=exact_model)
