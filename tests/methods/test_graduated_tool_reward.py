"""Graduated tool reward: the table of the paper's code by hand, the cache, and tasks made from it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, REWARD
from temper.envs.scenes import Scenes, replay, says
from temper.envs.tools import ToolUse
from temper.errors import UserError
from temper.methods.environments.graduated_tool_reward import ATOMIC, GRADUATED, ORCHESTRATION, Graduated
from temper.methods.environments.graduated_tool_reward import graduated_tool_reward as method
from temper.models.tiny import tiny_tokenizer
from temper.parts.advantages import Advantage
from temper.policy import Policy
from temper.recipes.graduated_tool_reward import graduated_tool_reward as recipe
from temper.rewards.orchestration import Orchestrated, atomic, orchestration, strict, syntax
from temper.tasks import orchestration_trips as trips
from temper.tasks.orchestration import Step, Template, asked, at, read_templates, synthesise
from temper.tasks.orchestration_cache import ApiCache, CachedTools, key
from temper.tasks.task import Task
from temper.testing import toy_batch
from temper.tools.base import Call, Toolbox
from tests.envs.actors import Actor, seat
from tests.envs.actors import says as lines

CACHE = trips.cache()
STEPS: list[dict[str, Any]] = [
    {"name": "find", "arguments": {"city": "Kalo"}, "after": []},
    {"name": "rooms", "arguments": {"id": 7, "stars": 4.5}, "after": [0]},
    {"name": "book", "arguments": {"room": "r1"}, "after": [1]},
]


def call(name: str, arguments: dict[str, Any], outcome: str = "ok", text: str = '{"id": 7}', turn: int = 0) -> Any:
    return {"turn": turn, "name": name, "arguments": arguments, "outcome": outcome, "text": text}


def perfect(n: int, **other: Any) -> Any:
    return call(STEPS[n]["name"], STEPS[n]["arguments"], turn=n, **other)


# one call -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, wanted, score",
    [
        ({"a": 1, "b": "x"}, {"a": 1, "b": "x"}, 1.0),
        ({"a": 1}, {"a": 1, "b": "x"}, 0.33 + 0.165),  # one of two parameters, of the right type
        ({"a": "1"}, {"a": 1, "b": "x"}, 0.33),  # of the wrong type
        ({"a": 1, "b": 2}, {"a": 1, "b": "x"}, 0.33 + 0.165),  # both, one of the right type
        ({"a": 2, "b": "y"}, {"a": 1, "b": "x"}, 0.66),
        ({"a": 1, "b": "x", "c": 0}, {"a": 1, "b": "x"}, 0.66),  # one too many: structure whole, values not
        ({"c": 0}, {"a": 1}, 0.33),
        ({}, {"a": 1}, 0.33),
        ({}, {}, 1.0),  # no parameters
        ({"a": 1}, {}, 0.33),
        ({"a": 2}, {"a": 2.0}, 1.0),  # an int passes for a float
        ({"a": 2.0}, {"a": 2}, 0.66),  # not the other way round, but they are of one type
        ({"a": True}, {"a": 1}, 0.66),
    ],
)
def test_syntax_of_a_call_by_hand(given: dict[str, Any], wanted: dict[str, Any], score: float) -> None:
    assert syntax(given, wanted) == pytest.approx(score)


@pytest.mark.parametrize(
    "given, wanted, same",
    [
        ("April 1, 2024", "april 1 2024", True),
        ("New-York", "new york", True),
        ("it's", 'it"s', True),
        ("Oslo", "Bergen", False),
        (["A b", 1], ["ab", 1], True),
        (["a"], ["a", "b"], False),
        ([1, 2], [2, 1], False),
        ({"x": "A.B", "y": 1}, {"x": "ab", "y": 1.0}, True),
        ({"x": 1}, {"x": 1, "y": 2}, False),
        (None, None, True),
        ("1", 1, False),
        (1, True, False),
        ([{"x": 1}], [{"x": 2}], False),
    ],
)
def test_the_strict_check_by_hand(given: Any, wanted: Any, same: bool) -> None:
    assert strict({"p": given}, {"p": wanted}) is same


# several calls --------------------------------------------------------------------------------------------------------


def parts(*calls: Any, oracle: Any = STEPS) -> Any:
    return pytest.approx(atomic(calls, oracle)), pytest.approx(orchestration(calls, oracle))


def test_table() -> None:
    one, two, three = perfect(0), perfect(1), perfect(2)
    assert parts(one, two, three) == (1.0, 1.0)
    assert parts(one) == (1.0, 1 / 3)  # one perfect call of three: atomic alone would be content
    assert parts(two, one, three) == (1.0, 1 / 3)  # swapped: the second is unmatched, and so is what depends on it
    assert parts(one, three, two) == (1.0, 2 / 3)  # the last came too early
    assert parts(one, three, two, three) == (1.0, 1.0)
    assert parts() == (0.0, 0.0)
    wrong = call("rooms", {"id": 8, "stars": 4.5}, "tool error")
    assert parts(one, wrong, three) == ((1 + 0.33 + 1) / 3, 1.0)  # arguments do not count for the order
    half = call("rooms", {"id": 7}, "tool error")
    assert parts(half) == ((0.33 + 0.165) / 2, 0.0)
    assert parts(one, call("fly", {})) == (0.5, 1 / 3)  # a call of no step is worth 0, and it is counted
    assert parts(one, one) == (1.0, 1 / 3)
    assert parts(call("find", {"city": "Kalo"}, text='{"error": "busy"}')) == (0.5, 1 / 3)
    assert parts(call("find", {"city": "Kalo"}, text='{"status": false}')) == (0.5, 1 / 3)
    assert parts(call("find", {"city": "Kalo"}, text="plain")) == (1.0, 1 / 3)
    assert orchestration([], []) == 0.0


def test_a_name_that_recurs_is_compared_with_its_first_step() -> None:
    again = [STEPS[0], {**STEPS[0], "arguments": {"city": "Miren"}}]
    other = call("find", {"city": "Miren"})
    assert parts(other, oracle=again) == ((0.66 + 1) / 2, 1.0)  # and one call serves both steps
    assert Orchestrated()("", again, [other])["score"] == 0.0  # but not for making every call
    chained = [again[0], {**again[1], "after": [0]}]
    assert parts(other, oracle=chained) == ((0.66 + 1) / 2, 0.5)


def test_a_reference_call_that_failed_is_worth_nothing() -> None:
    broken = [{**STEPS[0], "success": False}, STEPS[1]]
    assert parts(perfect(0), perfect(1), oracle=broken) == (0.5, 0.0)


def test_calls_that_cannot_be_read_or_never_ran() -> None:
    unread = {"turn": 1, "name": "", "arguments": {}, "outcome": "refused", "text": "The tool call cannot be read"}
    assert Orchestrated()("Done.", STEPS, [perfect(0), unread], turns=3)["atomic"] == 1.0  # they vanish …
    assert Orchestrated(unread=True)("Done.", STEPS, [perfect(0), unread], turns=3)["atomic"] == 0.5  # … or count
    last = '<tool_call>\n{"name": "rooms", "arguments": {"id": 7, "stars": 4.5}}\n</tool_call>'
    found = Orchestrated()(last, STEPS, [perfect(0)], turns=2)
    assert found["atomic"] == pytest.approx((1 + 0.5) / 2)  # no response
    assert found["orchestration"] == pytest.approx(2 / 3) and found["score"] == 0.0
    assert Orchestrated()("<tool_call>{", STEPS, [perfect(0)], turns=2)["atomic"] == 1.0
    assert Orchestrated(unread=True)("<tool_call>{", STEPS, [perfect(0)], turns=2)["atomic"] == 0.5


def test_graduated_reward_by_hand() -> None:
    b = toy_batch()
    n = len(b[REWARD])
    a, o = torch.linspace(0, 1, n), torch.linspace(1, 0.5, n)
    b = b.put(REWARD, (a > 0.5).float()).put(ATOMIC, a).put(ORCHESTRATION, o)
    found = asyncio.run(Graduated()(b))
    torch.testing.assert_close(found[GRADUATED], 0.5 * a + 0.5 * o)
    torch.testing.assert_close(found[REWARD], b[REWARD])  # evaluations stay about solved tasks
    torch.testing.assert_close(asyncio.run(Graduated(0.0, 0.0, 1.0)(b))[GRADUATED], b[REWARD])
    with pytest.raises(UserError, match="positive"):
        Graduated(0.0, 0.0)
    stages: list[Any] = method(Policy()).on_group
    assert isinstance(stages[2], Advantage) and stages[2].reward == GRADUATED
    nothing: Batch = asyncio.run(stages[2](found.put(GRADUATED, torch.full((n,), 0.25))))  # degenerate groups
    assert not nothing[ADVANTAGE].any()


# the cache ------------------------------------------------------------------------------------------------------------


def test_a_key_is_one_for_all_spellings() -> None:
    assert key("f", {"a": "1", "b": "2.0"}) == key("f", {"b": 2, "a": 1.0}) != key("f", {"a": 1})
    assert key("f", {"a": ["3", {"x": "4.5"}]}) == key("f", {"a": [3, {"x": 4.5}]})
    assert key("f", {"a": "1.2.3"}) != key("f", {"a": 1.2}) and key("f", {"a": "x"}) != key("g", {"a": "x"})


def test_a_miss_is_an_error_that_the_policy_sees() -> None:
    task = Task("t", "?", info={"functions": ["hotel", "room"], "oracle": []})
    box = Toolbox(CachedTools(CACHE)(task))
    hit = asyncio.run(box.run(Call("hotel", {"city": "Kalo"})))
    assert hit.outcome == "ok" and json.loads(hit.text)["hotel"].startswith("h")
    miss = asyncio.run(box.run(Call("hotel", {"city": "Oslo"})))
    assert miss.outcome == "tool error" and "error" in json.loads(miss.text)
    assert asyncio.run(box.run(Call("hotel", {"town": "Kalo"}))).outcome == "tool error"
    assert asyncio.run(box.run(Call("car", {"city": "Kalo"}))).outcome == "refused"
    flagged = ApiCache({"f": [{"arguments": {}, "response": {"status": False}}]})
    (tool,) = CachedTools(flagged)(Task("t", "?", info={"functions": ["f"]}))
    assert asyncio.run(tool()).outcome == "tool error"


def test_the_record_of_a_run_has_the_hash_of_the_cache() -> None:
    run = recipe(cold_start=0)[-1]
    assert json.loads(json.dumps(run.describe()))["env"]["tools"]["digest"] == CACHE.digest
    assert trips.cache(1).digest != CACHE.digest == trips.cache().digest


def test_schemas_as_the_calls_show_them() -> None:
    cache = ApiCache(
        {"f": [{"arguments": {"a": 1, "b": "x"}, "response": 1}, {"arguments": {"a": 1.5}, "response": 2}]}
    )
    parameters = cache.schema("f")["parameters"]
    assert parameters["required"] == ["a"] and parameters["properties"]["a"]["type"] == ["integer", "number"]
    told = {"f": {"description": "F.", "parameters": {"type": "dict", "properties": {"a": {"type": "float"}}}}}
    (tool,) = CachedTools(cache, told)(Task("t", "?", info={"functions": ["f"]}))
    assert tool.parameters == {"type": "object", "properties": {"a": {"type": "number"}}}


# tasks from it --------------------------------------------------------------------------------------------------------


def test_every_task_is_solved_by_its_reference() -> None:
    tasks = synthesise(CACHE, trips.TEMPLATES, queries=10, distractors=2)
    assert len(tasks) == 80 and len({t.id for t in tasks}) == 80
    env = Scenes(CachedTools(CACHE), talk=ToolUse(turns=6))
    for task in tasks:
        played = asyncio.run(replay(asyncio.run(env.scene(task))))
        found = Orchestrated()(str(played.answer), task.info["oracle"], played.calls, len(played.calls) + 1)
        assert (found["score"], found["atomic"], found["orchestration"]) == (1.0, 1.0, 1.0)
        used = {c["name"] for c in task.info["oracle"]}
        assert used < set(task.info["functions"]) and len(set(task.info["functions"])) == len(used) + 2
        for n, c in enumerate(task.info["oracle"]):  # what no step gives is asked for
            assert all(k < n for k in c["after"])
            assert c["after"] or next(iter(c["arguments"].values())) in task.prompt
    assert tasks == synthesise(CACHE, trips.TEMPLATES, queries=10, distractors=2)
    assert tasks != synthesise(CACHE, trips.TEMPLATES, queries=10, distractors=2, seed=1)


def test_the_reference_plays_in_the_environment() -> None:
    task = synthesise(CACHE, trips.TEMPLATES[3:4], queries=1)[0]
    env = Scenes(CachedTools(CACHE), talk=ToolUse(turns=6))
    context, said = "", []
    for n in range(4):
        said.append(says(task, context))
        context += f"{said[-1]}<tool_response>\n{n}\n</tool_response>"
    short = Scenes(CachedTools(CACHE), talk=ToolUse(turns=6), limit=4)
    cut = asyncio.run(short.play(task, {"solver": seat(Actor(tiny_tokenizer(), lines(*said)), max_tokens=200)}))
    assert all("left out" in c["text"] for c in cut.trajectories[0].info["calls"])
    episode = asyncio.run(env.play(task, {"solver": seat(Actor(tiny_tokenizer(), lines(*said)), max_tokens=200)}))
    (trajectory,) = episode.trajectories
    assert said[-1] == "Done." and trajectory.info["outcomes"] == {"ok": 3} and trajectory.info["turns"] == 4
    judged = Orchestrated()("Done.", task.info["oracle"], trajectory.info["calls"], trajectory.info["turns"])
    assert judged == {"score": 1.0, "atomic": 1.0, "orchestration": 1.0, "calls": 3.0}


def test_questions_by_rule_or_by_a_model() -> None:
    template = Template("w", (Step("find_city"), Step("rooms", (0,), {"id": (0, "data[0].id")})))
    calls: list[dict[str, Any]] = [
        {"name": "find_city", "arguments": {"name": "Anna"}, "after": []},
        {"name": "rooms", "arguments": {"id": 7, "n": 2}, "after": [0]},
    ]
    assert asked(template, calls) == 'Do the following. 1. find city with name "Anna". 2. rooms with n 2, using step 1.'
    cache = ApiCache(
        {
            "find_city": [{"arguments": {"name": "Anna"}, "response": {"data": [{"id": "7"}]}}],
            "rooms": [
                {"arguments": {"id": 7, "n": 2}, "response": {"ok": 1}},
                {"arguments": {"id": 8, "n": 2}, "response": {"ok": 1}},  # of another chain
                {"arguments": {"id": 7, "n": 3}, "response": {"error": "full"}},  # failed
                {"arguments": {"id": 7, "n": 4}, "response": {"data": []}},  # empty
            ],
        }
    )
    (task,) = synthesise(cache, [template], queries=10, write=lambda t, c: f"{t.id}: {len(c)} calls")
    assert task.prompt == "w: 2 calls" and task.info["oracle"] == calls
    with pytest.raises(UserError, match="no workflow"):
        synthesise(cache, [Template("x", (Step("fly"),))])
    with pytest.raises(UserError, match="within 1 and 10"):
        synthesise(cache, [template], queries=11)
    with pytest.raises(UserError, match="earlier steps"):
        Template("y", (Step("a", (1,)), Step("b")))
    with pytest.raises(LookupError):
        at({"data": []}, "data[0].id")


def files(folder: Path) -> dict[str, str]:
    """A cache, templates and tasks in the form of the paper's repository."""
    hotels = [{"arguments": {"city": c}, "response": {"data": [{"id": n}]}} for n, c in enumerate(trips.CITIES)]
    rooms = [{"arguments": {"id": n}, "response": {"data": f"r{n}"}} for n in range(len(hotels))]
    dependencies = {
        "0": {"function": "hotel", "arguments": {}, "depends_on": [], "dependency_args": {}},
        "1": {
            "function": "room", "arguments": {}, "depends_on": [0],
            "dependency_args": {"id": {"from_step": 0, "from_field": "data[0].id", "value": 3}},
        },
    }  # fmt: skip
    oracle = [
        {"name": "hotel", "arguments": {"city": "Kalo"}, "after": []},
        {"name": "room", "arguments": {"id": 0}, "after": [0]},
    ]
    rows = [{"prompt": f"{n}?", "functions": ["hotel", "room"], "oracle": oracle} for n in range(6)]
    texts = {
        "cache.json": json.dumps({"hotel": hotels, "room": rooms}),
        "workflows.json": json.dumps({"workflows": [{"id": "w0", "dependencies": dependencies}]}),
        "tasks.jsonl": "\n".join(map(json.dumps, rows)),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {name.partition(".")[0]: str(folder / name) for name in texts}


def test_a_users_files_are_taken_as_they_are(tmp_path: Path) -> None:
    found = files(tmp_path)
    (template,) = read_templates(found["workflows"])
    assert template.steps[1] == Step("room", (0,), {"id": (0, "data[0].id")})
    (run,) = recipe(cache=found["cache"], workflows=found["workflows"], eval_tasks=2, beta=0.0)
    assert len(run.curriculum.tasks) + len(run.probes[0].tasks) == 10  # type: ignore[attr-defined]
    (run,) = recipe(cache=found["cache"], tasks=found["tasks"], eval_tasks=2)
    assert len(run.probes[0].tasks) == 2 and run.others  # a reference for the KL
    for wrong, why in (
        ({"cache": found["cache"]}, "--workflows"),
        ({"tasks": found["tasks"]}, "--cache"),
        ({"cache": found["workflows"], "tasks": found["tasks"]}, "is no cache"),
        ({"cache": found["cache"], "workflows": found["cache"]}, "no workflow templates"),
        ({"cache": "nowhere.json", "tasks": found["tasks"]}, "cannot be read"),
    ):
        with pytest.raises(UserError, match=why):
            recipe(**wrong)  # type: ignore[arg-type]
    text = Path(found["tasks"]).read_text().replace("Kalo", "Oslo", 1)
    Path(found["tasks"]).write_text(text)
    with pytest.raises(UserError, match="not in the cache"):
        recipe(cache=found["cache"], tasks=found["tasks"])
