"""UnityMAS-O: allocators by hand, whose parameters move, and a code workflow with a real executor."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from temper.backends.base import SamplingParams
from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP_KEY, REWARD, ROLE, TOKEN, TRAJECTORY
from temper.envs.reflective import Executor, ReflectiveCode
from temper.envs.workflow import Call, Desk, Workflow
from temper.episode import Episode
from temper.errors import UserError
from temper.loop import train
from temper.methods.environments.unitymas_o import iterative_search, math_chain, reflective_code, unitymas_o
from temper.models.tiny import tiny_tokenizer
from temper.objective import Update
from temper.parts.advantages import Advantage, Whiten
from temper.parts.roles import ForRoles
from temper.recipes.unitymas_o import halves, is_number, pair
from temper.recipes.unitymas_o import unitymas_o as unitymas_o_recipe
from temper.request import Drop
from temper.run import Run
from temper.tasks.task import Task
from tests.envs.actors import Actor, says, seat
from tests.seams import toys


def call(role: str, turn: int, score: float | None = None, note: str = "") -> Call:
    chat: Any = SimpleNamespace()
    return Call(role, turn, "", chat, score, note=note)


# allocators -----------------------------------------------------------------------------------------------------------


def test_pass_rates_become_deltas_that_add_up_to_the_last_one() -> None:
    calls = []
    for k, rate in enumerate((0.25, 0.0, 0.75)):
        calls += [call("planner", k), call("coder", k, rate), call("reflector", k)]
    rewards = reflective_code(calls)
    assert rewards == [0.25, 0.25, -0.25, -0.25, -0.25, 0.75, 0.75, 0.75, 0.0]
    for role in ("planner", "coder"):
        assert sum(r for r, c in zip(rewards, calls) if c.role == role and r is not None) == 0.75


def test_one_turn_is_worth_its_pass_rate_and_an_early_stop_leaves_nothing_to_reflect() -> None:
    assert reflective_code([call("planner", 0), call("coder", 0, 1.0)]) == [1.0, 1.0]


def test_search_is_paid_by_what_its_turn_added() -> None:
    calls = [
        call("plan", 0, 0.2), call("answer", 0, 0.5), call("search", 1), call("summary", 1), call("update", 1),
        call("answer", 1, 0.4), call("search", 2), call("search", 3), call("answer", 3, 1.0),
        call("search", 4, note="end"),
    ]  # fmt: skip
    assert iterative_search(calls) == pytest.approx([0.2, 0.5, -0.1, -0.1, -0.1, 0.4, None, 0.6, 1.0, 0.0], abs=1e-9)


def test_everybody_in_a_chain_gets_the_final_answer() -> None:
    roles = ("solver", "verifier", "refiner", "finalizer")
    assert math_chain([call(r, 0, float(r == "finalizer")) for r in roles]) == [1.0] * 4


# the environment ------------------------------------------------------------------------------------------------------


def played(env: Workflow, words: Mapping[str, Sequence[str]], task: Task, **options: Any) -> Episode:
    seats = {r: seat(Actor(tiny_tokenizer(), says(*words[r]), **options), r) for r in env.roles}
    return asyncio.run(env.play(task, seats))


SUM = halves(20)[0][0]


def test_every_call_is_a_trajectory_with_the_tasks_and_its_own_reward() -> None:
    task = Task("t", "1 + 2 + 3", "6", info={"first": "1 + 2", "second": "+ 3"})
    env = Workflow(pair, reflective_code)
    episode = played(env, {"planner": ["<think>1+2=3</think>3"], "coder": ["= 6"]}, task)
    planner, coder = episode.trajectories
    assert (planner.role, planner.reward, planner.rewards) == ("planner", 0.0, {"task": 0.0, "format": 0.0})
    assert (coder.role, coder.reward, coder.rewards) == ("coder", -1.0, {"task": 0.0, "format": -1.0})
    assert episode.turns[coder.turns[0]].text.endswith("3 + 3 =") and episode.turns[coder.turns[0]].parent == -1
    assert [len(t.turns) for t in episode.trajectories] == [2, 2]
    right = played(env, {"planner": ["3"], "coder": ["6"]}, task)
    assert [t.reward for t in right.trajectories] == [1.0, 1.0] and right.trajectories[0].info["final"] == 1.0


def test_the_coder_sees_the_first_half_only_through_the_plan() -> None:
    env = Workflow(pair, reflective_code)
    episode = played(env, {"planner": ["nothing"], "coder": ["6"]}, SUM)
    assert str(SUM.info["first"]) not in episode.turns[episode.trajectories[1].turns[0]].text


def test_a_dropped_workflow_leaves_nothing_behind() -> None:
    """The first call went well; what it recorded is gone with the attempt."""

    async def breaks(task: Task, desk: Desk) -> None:
        await desk.ask("planner", "plan")
        raise Drop("timeout")

    with pytest.raises(Drop):
        played(Workflow(breaks, reflective_code), {"planner": ["ok"], "coder": []}, SUM)
    with pytest.raises(UserError, match="one for each"):
        played(Workflow(pair, lambda calls: []), {"planner": ["1"], "coder": ["2"]}, SUM)


def test_numbers_and_only_numbers_have_the_form() -> None:
    assert [is_number(x) for x in ("-3", "12", "", "= 4", "4.")] == [True, True, False, False, False]


# whose parameters move ------------------------------------------------------------------------------------------------


class Letters:
    """Judge: how often a role says small letters; nothing for the roles in `silent`."""

    def __init__(self, silent: tuple[str, ...] = ()):
        self.silent = silent
        self.reads, self.writes = (REWARD, ROLE), (REWARD,)

    async def __call__(self, b: Batch) -> Batch:
        hit = ((b.token_ids >= 97) & (b.token_ids < 123)).float()
        r = b.mean(hit, TOKEN, TRAJECTORY)
        r = torch.where(torch.tensor([x in self.silent for x in b[ROLE]]), torch.zeros_like(r), r)
        return b.put(REWARD, r)


async def both_speak(task: Task, desk: Desk) -> None:
    plan = await desk.ask("planner", "plan")
    (await desk.ask("coder", f"code {plan.text[:3]}")).score = 0.0


def weights(policy: Any) -> dict[str, Any]:
    return {n: w.clone() for n, w in policy.learner.weights().items()}


class Moved:
    """How far each policy is from where it began (a probe)."""

    def __init__(self) -> None:
        self.first: dict[str, Any] = {}
        self.far: dict[str, float] = {}

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        for name, policy in run.policies.items():
            now = weights(policy)
            then = self.first.setdefault(name, now)
            self.far[name] = max(float((now[k] - then[k]).abs().max()) for k in now)
        return {}


def trained(toy_model: str, folder: Path, separate: bool, silent: tuple[str, ...], estimator: Any) -> dict[str, float]:
    one = toys.policy(toy_model, "one")
    two = toys.policy(toy_model, "two") if separate else one
    owners = [(one, ("planner",)), (two, ("coder",))] if separate else [(one, ("planner", "coder"))]
    made = [(p, roles, unitymas_o(p, roles=roles, estimator=estimator, value_coef=0.0)) for p, roles in owners]
    moved = Moved()
    run = Run(
        env=Workflow(both_speak, reflective_code, format_weight=0.0), curriculum=toys.curriculum(4),
        roles={"planner": one, "coder": two}, on_group=[Letters(silent)],
        on_batch=[s for *_, m in made for s in m.on_batch], probes=[moved],
        updates=[Update(p, m.terms, roles=roles) for p, roles, m in made], steps=1, groups=2,
        sampling=SamplingParams(max_tokens=6),
    )  # fmt: skip
    run.out = folder
    asyncio.run(train(run))
    return moved.far


@pytest.mark.parametrize("estimator", ["group", "gae"])
def test_with_two_policies_only_the_rewarded_role_moves(estimator: str, toy_model: str, tmp_path: Path) -> None:
    """With zero rewards and a critic at zero, advantages are exactly zero: nothing moves."""
    far = trained(toy_model, tmp_path / "planner", True, ("coder",), estimator)
    assert far["one"] > 0 and far["two"] == 0
    far = trained(toy_model, tmp_path / "coder", True, ("planner",), estimator)
    assert far["one"] == 0 and far["two"] > 0


def test_with_one_policy_both_roles_reach_its_optimiser(toy_model: str, tmp_path: Path) -> None:
    for silent in ("planner", "coder"):
        assert trained(toy_model, tmp_path / silent, False, (silent,), "group")["one"] > 0
    nobody = trained(toy_model, tmp_path / "nobody", False, ("planner", "coder"), "group")
    assert nobody["one"] == 0


# a part for the rows of some roles ------------------------------------------------------------------------------------


def two_roles() -> Batch:
    episodes = []
    for n in range(2):
        env = Workflow(both_speak, lambda calls: [0.0, 0.0], format_weight=0.0)
        episodes.append(played(env, {"planner": [f"p{n}"], "coder": [f"c{n}"]}, SUM))
    return Batch.of(episodes)


def test_whitening_is_of_one_models_rows() -> None:
    b = asyncio.run(Advantage()(two_roles())).put(REWARD, torch.tensor([1.0, 10.0, 3.0, 30.0]))
    raw = b.spread(b[REWARD], TRAJECTORY, TOKEN)
    b = b.put(ADVANTAGE, raw)
    out = asyncio.run(ForRoles(Whiten(), ("coder",))(b))
    mine = torch.tensor([r == "coder" for r in b[ROLE]])
    rows = b.spread(mine.float(), TRAJECTORY, TOKEN) > 0
    assert torch.equal(out[ADVANTAGE][~rows], raw[~rows])
    assert abs(float(out[ADVANTAGE][rows].mean())) < 1e-6 and float(out[ADVANTAGE][rows].std()) == pytest.approx(1.0)


def test_rows_of_other_roles_are_nan_where_nothing_was_written() -> None:
    b = two_roles()
    out = asyncio.run(ForRoles(Advantage(), ("planner",))(b))
    rows = b.spread(torch.tensor([r == "coder" for r in b[ROLE]]).float(), TRAJECTORY, TOKEN) > 0
    assert bool(out[ADVANTAGE][rows].isnan().all()) and not bool(out[ADVANTAGE][~rows].isnan().any())


# reflective code ------------------------------------------------------------------------------------------------------

DOUBLE = Task("double", "Write f(x), twice x.", info={"tests": [["f(2)", "4"], ["f('a')", "'aa'"], ["f(0)", "0"]]})


@pytest.fixture(scope="module")
def executor() -> Any:
    made = Executor(seconds=5.0)
    yield made
    made.close()


def rate(executor: Executor, code: str) -> float:
    return asyncio.run(executor.pass_rate(code, DOUBLE.info["tests"]))[0]


def test_tests_are_compared_outside_the_interpreter(executor: Executor) -> None:
    assert rate(executor, "def f(x):\n    return x + x") == 1.0
    assert rate(executor, "def f(x):\n    return 4") == pytest.approx(1 / 3)
    assert rate(executor, "def f(x):\n    return x*2 if x != 0 else 1/0") == pytest.approx(2 / 3)
    assert rate(executor, "no python") == 0.0
    assert rate(executor, "import os\nprint('ok')\nos._exit(0)") == 0.0  # ends before anything is called
    cheat = "class E:\n    def __eq__(self, o): return True\n    def __repr__(self): return 'E()'\ndef f(x): return E()"
    assert rate(executor, cheat) == 0.0


def test_planner_coder_and_reflector_go_round_until_all_tests_pass(executor: Executor) -> None:
    env = ReflectiveCode(executor, reflective_code)
    words = {
        "planner": ["<pseudocode>return 4</pseudocode>", "<pseudocode>add</pseudocode>"],
        "coder": ["<code>def f(x):\n    return 4</code>", "<code>def f(x):\n    return x + x</code>"],
        "reflector": ["<reflection>not always 4</reflection>"],
    }
    episode = played(env, words, DOUBLE)
    found = [(t.role, t.group, round(t.reward or 0, 3)) for t in episode.trajectories]
    assert found == [
        ("planner", "", 0.333), ("coder", "", 0.333), ("reflector", "", 0.667), ("planner", "turn 1", 0.667),
        ("coder", "turn 1", 0.667),
    ]  # fmt: skip
    assert episode.trajectories[0].info["final"] == 1.0
    b = Batch.of([episode, episode])
    assert sorted(b[GROUP_KEY]) == ["", "", "", "turn 1", "turn 1"]  # a role is compared with itself in the same turn
    last = episode.turns[episode.trajectories[3].turns[0]].text
    assert "not always 4" in last and "return 4" in last


def test_text_beside_the_tags_is_a_wrong_form_and_code_is_read_all_the_same(executor: Executor) -> None:
    words = {
        "planner": ["add it"], "coder": ["Here: <code>def f(x):\n    return x + x</code>"], "reflector": [],
    }  # fmt: skip
    planner, coder = played(ReflectiveCode(executor, reflective_code), words, DOUBLE).trajectories
    assert (planner.reward, coder.reward) == (0.0, 0.0) and coder.rewards == {"task": 1.0, "format": -1.0}


# the recipe -----------------------------------------------------------------------------------------------------------


def mapping(**options: Any) -> tuple[dict[str, str], list[tuple[str, Any]]]:
    """(role → policy, (policy, roles) of the updates)."""
    run = unitymas_o_recipe(steps=1, **options)
    return {r: p.name for r, p in run.roles.items()}, [(u.policy.name, u.roles) for u in run.updates]


def test_roles_share_a_policy_or_have_their_own() -> None:
    assert mapping() == ({"planner": "policy", "coder": "policy"}, [("policy", None)])
    assert mapping(policies="separate") == (
        {"planner": "planner", "coder": "coder"},
        [("planner", ("planner",)), ("coder", ("coder",))],
    )
    assert mapping(policies="frozen") == ({"planner": "planner", "coder": "policy"}, [("policy", ("coder",))])


def test_programs_have_three_roles_and_need_tests(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Write f.", "tests": [["f(1)", "1"]]}\n' * 5)
    roles, updates = mapping(code=str(rows), policies="separate")
    assert set(roles) == {"planner", "coder", "reflector"} and len(updates) == 3
    assert len(mapping(code=str(rows), policies="frozen")[1]) == 1
    rows.write_text('{"prompt": "Write f."}\n')
    with pytest.raises(UserError, match="no tests"):
        mapping(code=str(rows))
