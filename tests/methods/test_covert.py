"""COVERT: whatever is done to an environment, its oracle solves it; nothing else does by accident."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.envs.distractors import Distractors, shortcut
from temper.envs.scenes import Mix, Scene, Scenes, base, replay
from temper.envs.tools import ToolUse
from temper.envs.transforms import FORMATS, Failing, Formatted, Indirect, Noisy, Reworded
from temper.errors import UserError
from temper.methods.environments.covert import Matched
from temper.models.tiny import tiny_tokenizer
from temper.recipes.covert import UNSEEN
from temper.recipes.covert import covert as recipe
from temper.rewards.calls import match
from temper.tasks.task import Task
from temper.tasks.toolworld import DOMAINS, World, distractors_of, function, tools_of
from temper.tasks.toolworld_pool import Draft, grow, grown, validate
from temper.tools.base import Result
from tests.envs.actors import Actor, says, seat

TASKS = grow(24, seed=5, longest=3)
TRANSFORMS: dict[str, Any] = {
    "distractors": Distractors(distractors_of, most=3),
    "reworded": Reworded(),
    "indirect": Indirect(),
    "formatted": Formatted(tuple(FORMATS)),
    "noisy": Noisy(most=3),
    "failing": Failing(most=2),
}
MATCHED = Matched()


def scene_of(task: Task, transforms: Sequence[Any], seed: int = 0, turns: int = 6, share: float = 1.0) -> Scene:
    return asyncio.run(Scenes(tools_of, {"": Mix(tuple(transforms), share)}, ToolUse(turns=turns), seed).scene(task))


def judged(scene: Scene, calls: Sequence[Any], said: str) -> dict[str, float]:
    info = scene.task.info
    return MATCHED(said, str(scene.task.answer), info["oracle"], calls)


def solved(scene: Scene) -> bool:
    played = asyncio.run(replay(scene))
    assert len(played.calls) < scene.turns
    return played.answer is not None and judged(scene, played.calls, played.answer)["score"] == 1.0


# the oracle is preserved ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_oracle_solves_every_task_under_each_transform(name: str) -> None:
    changed = 0
    for seed, task in enumerate(TASKS):
        scene = scene_of(task, [TRANSFORMS[name]], seed)
        assert solved(scene), (name, task.prompt)
        assert scene.oracle == task.info["oracle"] and scene.task.answer == task.answer
        plain = base(task, tools_of(task), 6)
        changed += scene.task.messages != plain.task.messages or scene.tools != plain.tools
    assert changed == len(TASKS)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    order=st.lists(st.sampled_from(sorted(TRANSFORMS)), max_size=8),
    seed=st.integers(0, 10_000),
    which=st.integers(0, len(TASKS) - 1),
    spare=st.integers(0, 3),
)
def test_the_oracle_solves_any_composition_within_the_turns(
    order: list[str], seed: int, which: int, spare: int
) -> None:
    task = TASKS[which]
    turns = len(task.info["oracle"]) + 1 + spare
    scene = scene_of(task, [TRANSFORMS[n] for n in order], seed, turns)
    assert scene.needs <= turns and solved(scene)
    again = scene_of(task, [TRANSFORMS[n] for n in order], seed, turns)
    assert again.task == scene.task and [t.name for t in again.tools] == [t.name for t in scene.tools]


def test_the_oracle_solves_the_noise_that_is_held_out() -> None:
    assert all(solved(scene_of(t, UNSEEN.transforms, n)) for n, t in enumerate(TASKS))


def test_a_policy_that_replays_the_oracle_in_the_environment_is_rewarded() -> None:
    """Through the house's own conversation: formats, failures and all."""
    env = Scenes(tools_of, {"": Mix(tuple(TRANSFORMS.values()))}, ToolUse(turns=6))
    for task in TASKS[:6]:
        played = asyncio.run(replay(asyncio.run(env.scene(task))))
        lines = [m["content"] for m in played.messages if m["role"] == "assistant"]
        actor = Actor(tiny_tokenizer(), says(*lines))
        episode = asyncio.run(env.play(task, {"solver": seat(actor, max_tokens=200)}))
        (trajectory,) = episode.trajectories
        assert [c["outcome"] for c in trajectory.info["calls"]] == [c["outcome"] for c in played.calls]
        texts = [(c["name"], c["text"]) for c in trajectory.info["calls"]]
        assert texts == [(c["name"], c["text"]) for c in played.calls]
        last = episode.turns[trajectory.turns[-1]].text
        assert MATCHED(last, str(task.answer), task.info["oracle"], trajectory.info["calls"])["score"] == 1.0
        assert episode.task.info["transforms"] == [type(t).__name__ for t in TRANSFORMS.values()]
        assert env.roles == ("solver",)


def test_what_is_asked_for_can_be_recovered() -> None:
    """The name that an indirect question leaves out is in the conversation, or a tool tells it."""
    for where in ("message", "tool"):
        for seed, task in enumerate(TASKS):
            scene = scene_of(task, [Indirect((where,)), Reworded()], seed)
            name, text = task.info["subject"]["text"], str(scene.task.messages)
            asking = [t for t in scene.tools if t.name == "ask"]
            assert f"this {task.info['subject']['kind']}" in text
            if where == "tool":
                (tool,) = asking
                assert name not in text.replace(str(task.info["oracle"]), "")
                assert asyncio.run(tool(about=task.info["subject"]["kind"])).text == name
            else:
                assert name in text and not asking
    tight = scene_of(TASKS[2], [Indirect(("tool",))], turns=len(TASKS[2].info["oracle"]) + 1)
    assert all(t.name != "ask" for t in tight.tools) and TASKS[2].info["subject"]["text"] in str(tight.task.messages)


def test_failures_fit_into_the_turns_and_come_anew_in_each_episode() -> None:
    task = next(t for t in TASKS if len(t.info["oracle"]) == 2)
    assert scene_of(task, [Failing(most=5)], turns=3).needs == 3  # no room: nothing fails
    scene = scene_of(task, [Failing(most=5), Failing(most=5)], turns=6)
    runs = [asyncio.run(replay(scene)) for _ in range(2)]
    assert 3 < scene.needs <= 6 and len(runs[0].calls) == scene.needs - 1 and runs[0] == runs[1]
    assert {c["outcome"] for c in runs[0].calls} == {"ok", "tool error"}


class Counting:
    """A tool with state of its own in each episode, or one that is shared."""

    name, description = "price", "Price of this item."
    parameters = {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}  # noqa: RUF012

    def __init__(self, log: list[str], shared: bool):
        self.log, self.calls = log, 0
        if not shared:
            self.fresh = lambda: Counting(log, False)

    async def __call__(self, item: str) -> Result:
        self.calls += 1
        return Result(str(self.calls))

    async def close(self) -> None:
        self.log.append("closed")


def test_state_of_a_tool_ends_with_its_episode_and_what_is_shared_does_not() -> None:
    oracle = [{"name": "price", "arguments": {"item": "lamp"}, "after": []}] * 2
    for shared in (False, True):
        log: list[str] = []
        tool = Counting(log, shared)
        env = Scenes(lambda task, t=tool: [t], {"": Mix((Noisy(("x",), 1), Failing(), Formatted(("field",))))})  # type: ignore[misc]
        scene = asyncio.run(env.scene(Task("t", "?", "2", info={"oracle": oracle})))
        runs = [asyncio.run(replay(scene)) for _ in range(2)]
        last = [r.calls[-1]["text"] for r in runs]
        assert [sum(c.isdigit() for c in text) for text in last] == [1, 1] and all(r.answer for r in runs)
        assert ["2" in text for text in last] == [True, not shared] and len(log) == (0 if shared else 2)


# distractors ----------------------------------------------------------------------------------------------------------


def test_no_distractor_does_what_the_oracle_does() -> None:
    """By search, over every set of distractors that was added: one call or two in a row from all that is known."""
    added = 0
    for seed, task in enumerate(TASKS):
        scene = scene_of(task, [TRANSFORMS["distractors"]], seed)
        plain = base(task, tools_of(task), 6)
        own = {t.name for t in plain.tools}
        others = [t for t in scene.tools if t.name not in own]
        added += len(others)
        assert asyncio.run(shortcut(plain, others, depth=2)) is None
    assert added >= 2 * len(TASKS)


def test_the_search_finds_a_tool_that_solves_the_task_and_it_is_not_added() -> None:
    task = next(t for t in TASKS if len(t.info["oracle"]) == 2 and t.info["oracle"][1]["after"])
    plain = base(task, tools_of(task), 6)
    subject, answer = task.info["subject"]["text"], str(task.answer)

    def known(text: str) -> str:
        return {subject: "half way", "half way": answer}[text]

    whole = function("whole", "Knows it.", "of", lambda text: {subject: answer}[text])
    steps = function("steps", "Knows it in two steps.", "of", known)
    mine = {t.name: t for t in plain.tools}[task.info["oracle"][0]["name"]]
    clone = replace(mine, name="clone")  # type: ignore[type-var]
    echo = function("echo", "Says it again.", "of", str)
    for tool, calls in ((whole, 1), (steps, 2), (clone, 1)):
        found = asyncio.run(shortcut(plain, [echo, tool]))
        assert found is not None and len(found) == calls and {c.name for c in found} == {tool.name}
        noisy = scene_of(task, [Formatted(), Noisy(), Failing()])  # the search sees through what is around results
        assert asyncio.run(shortcut(noisy, [tool])) is not None
        scene = scene_of(task, [Distractors(lambda _, t=tool: [echo, t], most=2)])  # type: ignore[misc]
        assert {t.name for t in scene.tools} - {t.name for t in plain.tools} == {"echo"}
    assert asyncio.run(shortcut(plain, [steps], depth=1)) is None and asyncio.run(shortcut(plain, [echo])) is None


# the reward -----------------------------------------------------------------------------------------------------------

ORACLE: list[dict[str, Any]] = [
    {"name": "price", "arguments": {"item": "lamp"}, "after": []},
    {"name": "stock", "arguments": {"item": "cup", "n": 2}, "after": []},
    {"name": "calculator", "arguments": {"expression": "3+4"}, "after": [0, 1]},
]


def call(n: int, turn: int, outcome: str = "ok", **other: Any) -> dict[str, Any]:
    return {"turn": turn, "outcome": outcome, "text": "", **ORACLE[n], **other}


@pytest.mark.parametrize(
    "calls, score",
    [
        ([call(0, 0), call(1, 1), call(2, 2)], 1.0),
        ([call(1, 0), call(0, 1), call(2, 2)], 1.0),  # order is free …
        ([call(0, 0), call(1, 0), call(2, 1)], 1.0),  # … also within a turn …
        ([call(2, 0), call(0, 1), call(1, 2)], 0.0),  # … but for dependencies
        ([call(0, 0), call(1, 0), call(2, 0)], 0.0),  # which results of the same turn do not meet
        ([call(2, 0), call(0, 1), call(1, 2), call(2, 3)], 1.0),  # made again in time
        ([call(0, 0), call(2, 1)], 0.0),  # one is missing
        ([], 0.0),
        ([call(0, 0, "tool error"), call(1, 1), call(2, 2)], 0.0),  # failed and not repeated
        ([call(0, 0, "tool error"), call(0, 1), call(1, 2), call(2, 3)], 1.0),
        ([call(0, 0), call(1, 1, arguments={"n": 2.0, "item": " cup "}), call(2, 2)], 1.0),
        ([call(0, 0), call(1, 1, arguments={"item": "cup", "n": True}), call(2, 2)], 0.0),
        ([call(0, 0), call(1, 1, arguments={"item": "cup"}), call(2, 2)], 0.0),
        ([call(0, 0), call(1, 1, name="price"), call(2, 2)], 0.0),
        ([call(0, 0), call(0, 1), call(0, 2), call(1, 3), call(2, 4)], 1.0),  # two more than needed
        ([call(0, 0), call(0, 1), call(0, 2), call(0, 3), call(1, 4), call(2, 5)], 0.0),  # three
        ([call(0, 0), call(1, 1), call(2, 2), call(0, 3, "refused", name="", arguments={})], 1.0),
    ],
)
def test_the_reward_of_calls_by_hand(calls: list[dict[str, Any]], score: float) -> None:
    found = MATCHED("It is <answer>7</answer>", "7", ORACLE, calls)
    assert found["score"] == score
    assert MATCHED("8", "7", ORACLE, calls)["score"] == 0.0


def test_a_call_counts_once() -> None:
    twice = [ORACLE[0], ORACLE[0]]
    assert match(twice, [call(0, 0)]) == [0, None] and match(twice, [call(0, 0), call(0, 1)]) == [0, 1]


def test_a_call_that_changes_something_is_never_harmless() -> None:
    calls = [call(0, 0), call(1, 1), call(2, 2)]
    book = {"turn": 3, "name": "book", "arguments": {}, "outcome": "ok", "text": ""}
    assert MATCHED("7", "7", ORACLE, [*calls, book])["score"] == 1.0
    assert MATCHED("7", "7", ORACLE, [*calls, book], writes=["book"])["score"] == 0.0
    assert (
        MATCHED("7", "7", [*ORACLE, {"name": "book", "arguments": {}}], [*calls, book], writes=["book"])["score"] == 1
    )
    assert Matched(extra=0)("7", "7", ORACLE, [*calls, book])["score"] == 0.0


def notices(behaviour: str, messages: Sequence[Any]) -> bool:
    return behaviour == "says that it failed" and "failed" in messages[-1]["content"]


def test_a_judge_decides_on_what_no_reference_can_match() -> None:
    calls = [call(0, 0), call(1, 1), call(2, 2)]
    judge = Matched(judge=notices)
    for said, score in (("One call failed. <answer>7</answer>", 1.0), ("7", 0.0)):
        messages = [{"role": "assistant", "content": said}]
        given = {"behaviour": "says that it failed", "messages": messages}
        assert judge(said, "7", ORACLE, calls, **given)["score"] == score  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no judge"):
        MATCHED("7", "7", ORACLE, calls, behaviour="says that it failed")


# stage 1 --------------------------------------------------------------------------------------------------------------


def test_grown_tasks_are_what_they_say() -> None:
    tasks = grow(60, seed=1, longest=3)
    assert {t.source for t in tasks} == {"calls-1", "calls-2", "calls-3"} and len({t.id for t in tasks}) == 60
    assert {d for t in tasks for d in t.info["domains"]} == set(DOMAINS.values())
    assert any(t.info["oracle"][-1]["after"] == [0, 1] for t in tasks)  # two independent calls, then one of both
    assert all(str(t.answer) not in str(t.prompt).strip("?").split() for t in tasks)
    assert all(solved(base(t, tools_of(t), 6)) for t in tasks)
    assert tasks == grow(60, seed=1, longest=3) and tasks != grow(60, seed=2, longest=3)


def test_what_makes_no_sense_is_refused_at_its_level() -> None:
    world, lamp = World("w"), {"text": "lamp", "kind": "item"}
    price = {"name": "price", "arguments": {"item": "lamp"}, "after": []}
    found = asyncio.run(world.tools[0](item="lamp")).text
    double = {"name": "calculator", "arguments": {"expression": f"{found}+{found}"}, "after": [0]}

    def level(*calls: dict[str, Any], phrase: str = "the price of lamp") -> str:
        return asyncio.run(validate(Draft(phrase, calls, lamp), world.tools))[0]

    assert level(price) == "" and level(price, double) == ""
    assert (
        level({**price, "name": "cost"}) == "schema" and level({**price, "arguments": {"person": "lamp"}}) == "schema"
    )
    assert level({**price, "arguments": {"item": "lamb"}}) == "execution"
    assert level({**price, "arguments": {"item": "cup"}}) == "dependency"  # where does it know of the cup?
    assert level(price, {**double, "arguments": {"expression": "1+2"}}) == "dependency"
    assert level(price, phrase=f"the price of lamp if it is not {found}") == "answer"
    assert (
        level(price, price) == "answer" and level(price, {**price, "arguments": {"item": "lamp"}}, double) == "answer"
    )
    pool = asyncio.run(grown(world, 30, 3, 0))
    assert pool.refused["execution"] > 10 and pool.accepted


# the recipe -----------------------------------------------------------------------------------------------------------


def test_a_users_tasks_need_their_tools_and_an_oracle(tmp_path: Any) -> None:
    file = tmp_path / "tasks.jsonl"
    row = {"prompt": "What is the price of lamp?", "answer": "7", "world": "w", "oracle": [ORACLE[0]]}
    file.write_text("".join(json.dumps({**row, "answer": str(n)}) + "\n" for n in range(5)))
    with pytest.raises(UserError, match="give --tasks"):
        recipe(tasks=str(file))
    (run,) = recipe(tasks=str(file), tools="temper.tasks.toolworld:tools_of", eval_tasks=1)
    env: Any = run.env
    scene = asyncio.run(env.scene(run.curriculum.next(1)[0].task))
    assert [t.name for t in scene.tools] == ["price"] and len(run.probes[0].tasks) == 2
    (run,) = recipe(
        tasks=str(file), tools="temper.tasks.toolworld:tools_of", distractors="temper.tasks.toolworld:distractors_of",
        share=1.0,
    )  # fmt: skip
    env = run.env
    assert len(asyncio.run(env.scene(run.curriculum.next(1)[0].task)).tools) >= 3
    file.write_text('{"prompt": "?", "answer": "7"}\n')
    with pytest.raises(UserError, match="no oracle"):
        recipe(tasks=str(file), tools="temper.tasks.toolworld:tools_of")


def test_an_oracle_that_does_not_fit_into_the_turns_is_refused() -> None:
    with pytest.raises(UserError, match="allow more turns"):
        scene_of(TASKS[2], [], turns=2)
    with pytest.raises(UserError, match="mix"):
        scene_of(replace(TASKS[0], info={**TASKS[0].info, "mix": "hard"}), [])
    for wrong in (lambda: Formatted(("yaml",)), lambda: Indirect(("nowhere",)), lambda: Mix(share=2.0)):
        with pytest.raises(UserError):
            wrong()
