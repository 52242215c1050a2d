"""ZeroSearch: the noise curriculum exactly, one draw for each search, corrections, what the simulator leaks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from temper.carrier import Batch
from temper.columns import TOKEN
from temper.envs.simulated import Asked, SimulatedSearch
from temper.episode import ENV, Episode
from temper.errors import UserError
from temper.methods.environments.zerosearch import CORRECTION, Rising, zerosearch
from temper.models.tiny import tiny_tokenizer
from temper.parts.schedules import Constant
from temper.policy import Policy
from temper.recipes.zerosearch import noisy, says
from temper.recipes.zerosearch import zerosearch as recipe
from temper.rewards.qa import AnswerReward, bag_f1, best, set_f1
from temper.tasks.knowledge import FILLERS, World, chains, look_up
from temper.tasks.task import Task
from temper.testing import ToyReward, check_run, random_ends
from tests.envs.actors import Actor, Guarded, seat
from tests.envs.actors import says as speaks

TASK = Task("t", "What is the mayor of Kalo?", "Ann Bob")


class Told:
    """A simulator that remembers what it was asked."""

    def __init__(self, text: str = "Doc 1: {noisy}"):
        self.text, self.asked = text, list[Asked]()

    def __call__(self, asked: Asked, rng: np.random.Generator) -> str:
        self.asked.append(asked)
        return self.text.format(noisy=asked.noisy)


def play(
    *lines: str, task: Task = TASK, who: object = 0, version: int = 0, **options: Any
) -> tuple[Episode, Actor, Any]:
    words = speaks(*(f"{line} +" if line.endswith(">") else line for line in lines))  # an actor stops before its end
    actor = Actor(Guarded(tiny_tokenizer()), words, version=version)
    told = options.pop("told", None) or Told()
    env = SimulatedSearch(told, **options)
    return asyncio.run(env.play(task, {"solver": seat(actor, who=who)})), actor, told


def reward(e: Episode) -> float:
    return AnswerReward()(e.trajectories[0].info["said"], "Ann Bob")


# the curriculum -------------------------------------------------------------------------------------------------------


def test_the_noise_at_the_beginning_the_middle_and_the_end() -> None:
    rising = Rising(steps=200)
    assert [rising(i) for i in (0, 100, 200)] == pytest.approx([0.0, 1 / 6, 0.5], abs=1e-15)
    assert rising(10_000) == 0.5
    assert Rising(steps=2, start=0.2, end=0.6, base=9.0)(1) == pytest.approx(0.2 + 0.4 * (3 - 1) / 8)
    assert Rising(steps=4, start=0.5, end=0.1)(4) == pytest.approx(0.1)  # it may fall
    with pytest.raises(UserError, match="between 0 and 1"):
        Rising(10, end=1.5)
    with pytest.raises(UserError, match="not 1"):
        Rising(10, base=1.0)


def test_the_step_is_the_version_of_the_weights_unless_the_task_says() -> None:
    rising = Rising(steps=2)
    noise = [play("<answer>x</answer>", version=v, noise=rising)[0].trajectories[0].info["noise"] for v in (0, 1, 2)]
    assert noise == pytest.approx([0.0, 1 / 6, 0.5])
    fixed = play("<answer>x</answer>", version=2, noise=rising, task=noisy(TASK, 0.25))[0]
    assert fixed.trajectories[0].info["noise"] == 0.25


def test_one_draw_for_each_search_and_independent_ones() -> None:
    lines = ["<search>a</search>"] * 5 + ["<answer>x</answer>"]
    draws = []
    for who in range(80):
        told = play(*lines, who=who, noise=Constant(0.3))[2]
        assert len(told.asked) == 5
        draws.append([a.noisy for a in told.asked])
    x = np.array(draws, dtype=float)
    assert abs(x.mean() - 0.3) < 3 * (0.21 / x.size) ** 0.5
    assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 0.3  # of 80 pairs: two standard deviations are 0.22
    again = [a.noisy for a in play(*lines, who=3, noise=Constant(0.3))[2].asked]
    assert again == draws[3]  # a function of the seat's stream


def test_never_and_always() -> None:
    for noise, flag in ((0.0, False), (1.0, True)):
        told = play(*["<search>a</search>"] * 4, "<answer>x</answer>", noise=Constant(noise))[2]
        assert {a.noisy for a in told.asked} == {flag}


def test_a_resumed_run_has_the_noise_of_the_step(exact_model: str, tmp_path: Path) -> None:
    def build() -> Any:
        run = recipe(cold_start=0, model=exact_model, steps=3, groups=2, attempts=3, max_tokens=4, eval_tasks=1)[-1]
        run.sampling = random_ends(run.sampling)
        run.on_group[0] = ToyReward()
        return run

    history = check_run(build, tmp_path)
    assert [h["env/noise"] for h in history if h["step"]] == pytest.approx([Rising(3)(i) for i in range(3)])


# a play ---------------------------------------------------------------------------------------------------------------


def test_results_stand_in_the_text_and_mixed_actions_stay_with_their_question() -> None:
    """The release hands the k-th search of a batch the k-th question; here an episode knows its own."""
    e, actor, told = play("Hm. <search> mayor of Kalo </search>", "<search>b</search>", "<answer>Ann Bob</answer>")
    assert [a.query for a in told.asked] == ["mayor of Kalo", "b"] and reward(e) == 1.0
    assert {(a.question, a.answer) for a in told.asked} == {("What is the mayor of Kalo?", "Ann Bob")}
    assert actor.raw.decode(actor.asked[1]).endswith("</search>\n\n<information>\nDoc 1: False\n</information>\n\n")
    assert Batch.of([e]).size(TOKEN) == sum(len(a.ids) for a in actor.answers)


def test_an_unknown_action_is_corrected_and_goes_on() -> None:
    words = {0: "let me think" * 9, 1: "<search>a</search> +", 2: "<answer>Ann Bob</answer> +"}
    actor = Actor(tiny_tokenizer(), lambda n: words[n])
    env = SimulatedSearch(Told(), correction=CORRECTION)
    e = asyncio.run(env.play(TASK, {"solver": seat(actor, max_tokens=30)}))  # cut off: no end token
    assert CORRECTION in actor.raw.decode(actor.asked[1])
    info = e.trajectories[0].info
    assert (info["invalid"], info["searches"], reward(e)) == (1, 1, 1.0)


def test_after_the_last_search_one_more_call_and_no_result() -> None:
    e, actor, told = play(*["<search>a</search>"] * 9, turns=2)
    assert len(told.asked) == 2 and len(actor.asked) == 3 and e.turns[-1].author != ENV
    assert reward(e) == 0.0


def test_only_what_the_policy_says_is_an_answer() -> None:
    told = Told("Doc 1: <answer>Ann Bob</answer>")
    e, _, _ = play("<search>a</search>", "<answer>Cid</answer>", told=told)
    assert reward(e) == 0.0 and e.trajectories[0].info["leaked"] == 1.0


def test_the_leak_rate_is_of_searches() -> None:
    def told(asked: Asked, rng: np.random.Generator) -> str:
        return "it is ANN BOB" if asked.query == "a" else "no"

    e, _, _ = play("<search>a</search>", "<search>b</search>", "<answer>x</answer>", told=told)
    assert e.trajectories[0].info["leaked"] == 0.5 and e.trajectories[0].info["noisy"] == 0.0
    assert "leaked" not in play("<answer>x</answer>")[0].trajectories[0].info


def test_a_policy_plays_the_engine_in_a_seat_of_its_own_and_is_not_trained() -> None:
    solver = Actor(tiny_tokenizer(), speaks("<search>a</search> +", "<answer>Ann Bob</answer> +"))
    engine = Actor(tiny_tokenizer(), speaks("Doc 1: one\n\nDoc 2: two\nDoc 3: three"))
    env = SimulatedSearch(None, Constant(1.0), top=2)
    assert env.roles == ("solver", "simulator")
    e = asyncio.run(env.play(TASK, {"solver": seat(solver), "simulator": seat(engine, "simulator")}))
    asked = engine.raw.decode(engine.asked[0])
    assert "noisy output:" in asked and "Ann Bob" in asked and "Query: a\n" in asked
    assert "<information>\nDoc 1: one\nDoc 2: two\n</information>" in solver.raw.decode(solver.asked[1])
    b = Batch.of([e])
    assert b.size(TOKEN) == sum(len(a.ids) for a in solver.answers)  # the simulator's tokens are nobody's
    assert [t.role for t in e.trajectories] == ["solver"]


# F1 -------------------------------------------------------------------------------------------------------------------


def test_f1_by_hand() -> None:
    assert bag_f1("The Ann, and Bob!", "ann bob") == pytest.approx(2 * 2 / (3 + 2))
    assert bag_f1("a a", "an the") == 0.0 and bag_f1("", "x") == 0.0
    assert bag_f1("no no no yes", "no no") == pytest.approx(2 * 2 / (4 + 2)) and bag_f1("don't", "dont") == 1.0
    assert set_f1("no no no yes", "no no") == pytest.approx(2 * 1 / (2 + 1))
    assert (
        set_f1("don't", "dont") == 0.0
        and set_f1("True", "yes") == 1.0
        and set_f1("the Ann", "Ann") == pytest.approx(2 / 3)
    )
    assert best(bag_f1, "bob", ["Ann", "Bob"]) == 1.0 and best(bag_f1, "x", None) == 0.0 == best(bag_f1, "x", [])


# the rules, the demonstrations and the recipe -------------------------------------------------------------------------


def test_the_rules_say_the_fact_or_nothing() -> None:
    world = World(5)
    (task, *_) = chains(world)
    query = str(task.prompt).removeprefix("What is the ").rstrip("?")
    rng = np.random.default_rng(0)
    useful = look_up(world, 3)(Asked(query, "", "", False), rng)
    assert useful.splitlines()[0] == f"Doc 1: {query}: {task.answer}" and len(useful.splitlines()) == 3
    for asked in (Asked(query, "", "", True), Asked("mayor of Nowhere", "", "", False), Asked("", "", "", False)):
        text = look_up(world, 3)(asked, rng)
        assert str(task.answer) not in text and all(any(f in line for f in FILLERS) for line in text.splitlines())


def test_demonstrations_search_again_or_guess() -> None:
    task = Task("world/x", "What is the mayor of Kalo?", "Mira")
    assert says(task, "") == "<search>mayor of Kalo</search>"
    seen = [says(task, f"{'x' * n} Doc 1: Kalo has a long past") for n in range(60)]
    again = sum(s == "<search>mayor of Kalo</search>" for s in seen)
    assert 15 < again < 45 and "<answer>Kalo</answer>" in seen
    told = [says(task, f"{'x' * n} Doc 1: Kalo has a long past\nDoc 1: mayor of Kalo: Mira") for n in range(60)]
    assert 36 < told.count("<answer>Mira</answer>") < 58 and all(s.startswith("<answer>") for s in told)


def test_the_method_is_grpo_in_this_environment() -> None:
    m = zerosearch(Policy(), steps=10, simulator=Told(), end=0.4)
    assert isinstance(m.env, SimulatedSearch) and m.env.noise == Rising(10, end=0.4) and m.env.correction == CORRECTION
    assert [t.name for t in m.terms] == ["policy"] and m.signal is None
    policy = Policy()
    assert zerosearch(policy, steps=1, simulator=Told(), reference=policy.reference()).policies


def test_the_recipe_takes_questions_and_a_frozen_simulator(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"q{n}?", "answer": ["a", "b"]}) + "\n" for n in range(12)))
    (run,) = recipe(questions=str(rows), simulator="temper-tiny-random", eval_tasks=2, explain=True)
    assert set(run.roles) == {"solver", "simulator"} and not run.roles["simulator"].trainable
    assert [u.policy for u in run.updates] == [run.roles["solver"]]
    assert run.probes[0].tasks[0].info["noise"] == 0.5 and "noise" not in run.curriculum.tasks[0].info
    with pytest.raises(UserError, match="rules of the simulator"):
        recipe(questions=str(rows))
    shown, rl = recipe(out=tmp_path)
    assert rl.roles["solver"].model == str(tmp_path / "1-cold-start" / "checkpoints" / "latest" / "model")
    assert shown.env.env.noise(0) == 0.5  # demonstrations are noisy too
