"""Every recipe builds, uses all its options, and trains: three steps, the same again, resumed, cut in any way."""

from __future__ import annotations

import importlib.util
import inspect
import json
import typing
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from temper.parts.rewards import Rewards
from temper.recipe import Option, signature
from temper.run import Run
from temper.testing import ToyReward, check_run, random_ends, toy_tasks
from tests.contract.discover import METHODS, RECIPES, stem

# What makes a recipe small; each gets those of these options that it has.
SMALL: dict[str, Any] = {
    "reward": ("exact_match",), "steps": 3, "groups": 2, "attempts": 3, "max_tokens": 6, "eval_tasks": 1,
    "eval_attempts": 1, "longest": 400, "lr": 1e-3,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "gvm-raft": {"block": "wte", "phase": 2},
    "epicar": {"right": 0.3},
    "simpletir": {"mask_void": False}, "thor": {"tail": 0}, "rstar2-grpo-roc": {"keep": 2},  # a random model has no box
    "gymnasium": {"turns": 3}, "rlcr": {"lenient": True}, "gdpo": {"reward": ("exact_match", "think_format")},
    "trl": {"reward_func": ("tests.envs.adapters.test_trl:spread",)},
    "verifiers": {"env": "tests.envs.adapters.test_verifiers:spread", "args": "{}"},
}  # fmt: skip
NEEDS = {  # a package that the recipe cannot do without
    "quickstart": "reasoning_gym", "gymnasium": "gymnasium", "asearcher": "bm25s", "verifiers": "verifiers",
    "spiral-rae": "textarena",
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of tasks."""
    tasks = [(f"{how} {t.answer}", str(t.answer)) for how in ("say", "now say") for t in toy_tasks()]
    return written(tmp_path_factory.mktemp("rows") / "rows.jsonl", tasks)


def written(path: Path, rows: list[tuple[str, str]]) -> str:
    """Rows that are tasks, demonstrations and preferences at once."""
    lines = [{"prompt": p, "answer": a, "chosen": a, "rejected": f"{a[::-1]}?"} for p, a in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def built(name: str, model: str, rows: str) -> Run:
    """The recipe's run, judged in the process."""
    alone = {"trajectory": 0} if name == "next-extrapolation" else {"cold_start": 0}
    run = plain(name, model=model, data=rows, **alone)[-1]
    run.on_group = [_in_process(s) if isinstance(s, Rewards) else s for s in run.on_group]
    run.sampling = random_ends(run.sampling)
    return run


def plain(name: str, **options: Any) -> list[Run]:
    """The recipe's phases; `built` trains the last."""
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    known = {o.name for o in signature(RECIPES[name])}
    given = {**SMALL, **OWN.get(name, {}), **options}
    made = RECIPES[name](**{k: v for k, v in given.items() if k in known})
    phases = made if isinstance(made, list) else [made]
    assert phases and all(isinstance(p, Run) for p in phases), f"{name} returns {made}: teach this file to check it"
    return phases


def _in_process(judge: Rewards) -> ToyReward:
    return ToyReward(parts=tuple(c.name.removeprefix("reward@") for c in judge.writes if c.name.startswith("reward@")))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_documents_itself(name: str) -> None:
    recipe = RECIPES[name]
    assert callable(recipe), f"the file of {name} has no function of its name"
    options = {o.name: o for o in signature(recipe)}
    assert {"steps", "model", "seed"} <= set(options)
    plain_words = {"seed", "steps", "model", "temperature", "top_p", "top_k", "device", "eval_tasks", "eval_attempts"}
    silent = [o.name for o in options.values() if not o.help and o.name not in plain_words]
    assert not silent, f"{name} says nothing about {', '.join(silent)}"
    assert inspect.getdoc(recipe)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains(name: str, exact_model: str, rows: str, tmp_path: Path) -> None:
    check_run(partial(built, name, exact_model, rows), tmp_path)


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if "out" in {o.name for o in signature(r)}])
def test_a_phase_starts_from_the_model_that_the_one_before_it_leaves(
    name: str, exact_model: str, tmp_path: Path
) -> None:
    """As `temper run` lays phases out: each in its own directory."""
    phases = plain(name, model=exact_model, out=tmp_path, cold_start=3)
    for n, (first, second) in enumerate(pairwise(phases), 1):
        left = tmp_path / f"{n}-{first.name}" / "checkpoints" / "latest" / "model"
        assert {p.model for p in second.policies.values() if p.trainable} == {str(left)}
        assert {p.model for p in first.policies.values() if p.trainable}.isdisjoint({str(left)})


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_recipe_runs_that_method(name: str) -> None:
    m = METHODS[name]
    recipe = RECIPES[m.RECIPE]
    used = [v for v in vars(inspect.getmodule(recipe)).values() if inspect.isfunction(v)]
    assert getattr(m, stem(m)) in used


# no option without effect ---------------------------------------------------------------------------------------------

WHOLE = ("grpo", "dpo")  # for these, the options that they share with others too
TEXTS: dict[str, Any] = {  # another value for options whose type does not tell one
    "reward": ("number_match",), "second_reward": ("number_match",),
    "system": "Be brief.", "prefill": "So ", "device": "cpu", "dtype": "bfloat16",
    "top_p": 0.9, "weights": (0.25,), "eval_attempts": 2, "eval_tasks": 2, "minibatches": 2,
    "teacher": "temper-tiny", "end": "so",
}  # fmt: skip
FILES = Path(__file__).parent / "files"
COVERT = {"tasks": str(FILES / "oracles.jsonl"), "tools": "temper.tasks.toolworld:tools_of"}
CASES = {"cases": str(FILES / "cases.jsonl"), "patient": "temper-tiny"}
CHAINS = {"cache": str(FILES / "cache.json"), "tasks": str(FILES / "chains.jsonl")}
WORKFLOWS = {"cache": CHAINS["cache"], "workflows": str(FILES / "workflows.json")}
QUESTIONS = {"questions": str(FILES / "questions.jsonl"), "eval_tasks": 1, "reward": ("exact_match",)}
SEARCHED = {**QUESTIONS, "corpus": str(FILES / "corpus.jsonl")}
BUNDLED = {"data": "products", "out": Path("elsewhere")}
TOGETHER: dict[tuple[str, str], dict[str, Any]] = {  # options that mean something together only
    **{(n, "out"): BUNDLED for n in ("retool", "simpletir", "thor", "rstar2-grpo-roc")},
    **{("light-if", n): {"data": "quickstart", "eval_tasks": 1, n: v} for n, v in (
        ("out", Path("elsewhere")), ("imitation", 5), ("imitation_lr", 0.5), ("share", 0.5), ("c", 0.5))},
    **{("rlcr", n): {"data": "quickstart", "eval_tasks": 1, n: v} for n, v in (
        ("out", Path("elsewhere")), ("cold_start", 5), ("cold_start_lr", 0.5))},
    **{("sd-e2", n): {"data": "quickstart", "eval_tasks": 1, n: v} for n, v in (
        ("out", Path("elsewhere")), ("cold_start", 5), ("cold_start_lr", 0.5))},
    ("sd-e2", "embedder"): {"embedder": "elsewhere"},
    ("apriel-reasoner", "domains"): {"domains": ("rows",), "shares": (1.0,)},
    ("apriel-reasoner", "shares"): {"domains": ("rows",), "shares": (0.5,)},
    ("qwenlong-l1", "caps"): {"caps": (40, 400)}, ("qwenlong-l1", "phase"): {"caps": (40, 400), "phase": 3},
    ("qwenlong-l1", "retrospective"): {"caps": (40, 400), "retrospective": 0.5},
    **{("expo", n): {"cold_start": 3, n: v} for n, v in (("out", Path("elsewhere")), ("cold_start_lr", 0.5))},
    ("expo", "dpo_beta"): {"form": "dpo", "dpo_beta": 0.5}, ("expo", "hint"): {"hint": "It is {answer}."},
    ("gvm-raft", "block"): {"block": "attn"},
    **{("next-extrapolation", n): {n: v} for n, v in (("trajectory", 44), ("every", 2), ("horizon", 8))},
    **{("next-extrapolation", n): {"data": "quickstart", n: 5} for n in ("validation", "eval_tasks")},
    ("reg-grpo", "window"): {"augment": True, "window": 5},
    ("qwenlong-l1", "reward"): {"reward": ("exact_match", "number_match")},
    ("epicar", "ask"): {"ask": "Sure?"}, ("epicar", "cue"): {"cue": ""},
    ("traac", "target"): {"target": (0.5, 0.25, 0.125)}, ("traac", "start"): {"start": ""},
    ("traac", "cues"): {"cues": (",",)},
    **{("verirl", n): {"rounds": 1, n: v} for n, v in (
        ("out", Path("elsewhere")), ("passed", 0.5), ("rejection_steps", 5))},
    ("verirl", "cold_start"): {"data": "quickstart", "cold_start": 5},
    ("verirl", "cold_start_lr"): {"data": "quickstart", "cold_start": 3, "cold_start_lr": 0.5},
    ("attention-entropy", "share"): {"keep": "low", "share": 0.5},
    ("doctoragent-rl", "cases"): CASES, ("doctoragent-rl", "patient"): CASES,
    ("unitymas-o", "turns"): {"code": str(FILES / "programs.jsonl"), "turns": 5},
    ("covert", "tasks"): COVERT, ("covert", "tools"): COVERT,
    ("covert", "distractors"): {**COVERT, "distractors": "temper.tasks.toolworld:distractors_of"},
    ("graduated-tool-reward", "cache"): CHAINS, ("graduated-tool-reward", "tasks"): CHAINS,
    ("graduated-tool-reward", "workflows"): WORKFLOWS,
    ("asearcher", "questions"): SEARCHED, ("asearcher", "eval_questions"): {"eval_questions": SEARCHED["questions"]},
    ("asearcher", "corpus"): {"corpus": SEARCHED["corpus"]}, ("asearcher", "hops"): {"hops": (2,)},
    ("zerosearch", "questions"): {**QUESTIONS, "simulator": "self"}, ("zerosearch", "simulator"): {"simulator": "self"},
    ("zerosearch", "eval_questions"): {"eval_questions": QUESTIONS["questions"]},
    ("think2sql", "questions"): QUESTIONS, ("think2sql", "eval_questions"): {"eval_questions": QUESTIONS["questions"]},
    ("think2sql", "databases"): {"databases": FILES, **QUESTIONS},
    ("markovian-thinker-delethink", "chunk"): {"chunk": 20},
    ("markovian-thinker-delethink", "minibatches"): {"minibatches": 3},
    **{("sapo-swarm", n): {"meet": Path("swarm"), n: v} for n, v in (
        ("meet", Path("swarm")), ("node", "b"), ("nodes", 5), ("wait", 5.0))},
    **{("sop", n): {n: v} for n, v in (
        ("folder", Path("elsewhere")), ("tasks", ("mirror",)), ("fixed", 0.5), ("model", "temper-tiny-random"))},
    ("relax", "cap"): {"cap": 0.5, "staleness": 2},
    **{("spo", n): {"form": "tree", n: v} for n, v in (
        ("ahead", 2), ("widths", (2, 3)), ("segment", 3), ("scale", True), ("age", 3), ("most", 4))},
    ("ufo-unary-feedback", "beta"): {"beta": 0.25, "credit": "critic"},
}  # fmt: skip
TWO = {"reward": ("number_match", "think_format"), "weights": (1.0, 0.25)}  # for recipes that take two rewards

WRITTEN = "tests.envs.adapters.test_trl"
THEIRS: dict[str, dict[str, Any]] = {  # the same, where it depends on the recipe
    "trl": {"env": f"{WRITTEN}:Counter", "tool": (f"{WRITTEN}:shout",), "reward_func": (f"{WRITTEN}:seen",)},
    "verifiers": {"env": "tests.envs.adapters.test_verifiers:other", "args": '{"gym": "gcd"}'},
    "simpletir": {"mask_void": True}, "rlcr": {"lenient": False},
    "think2sql": {"weights": (0.5, 0.5)},
    "spiral_rae": {"game": "TicTacToe-v0"},
    "unitymas_o": {"code": str(FILES / "programs.jsonl")},
    "gymnasium": {"env": "CliffWalking-v1", "args": '{"is_slippery": true}', "prompt": "Go.", "names": tuple("abcd")},
}  # fmt: skip


def other(o: Option, default: Any) -> Any:
    """A value of the option that is not its default."""
    if o.name in THEIRS.get(o.recipe, {}):
        return THEIRS[o.recipe][o.name]
    if o.name in TEXTS:
        return TWO.get(o.name, TEXTS[o.name]) if o.recipe in OWN else TEXTS[o.name]
    kinds = typing.get_args(o.type) or (o.type,)
    for kind in (o.type, *kinds):
        if typing.get_origin(kind) is typing.Literal:
            return next(k for k in reversed(typing.get_args(kind)) if k != default)
    for kind, value in ((bool, not default), (float, 0.4375), (int, 5), (int, 4)):
        if kind in kinds and default != value:
            return tuple(v + 1 for v in default) if isinstance(default, tuple) else value
    return None


def resolved(make: Callable[..., list[Run]], **options: Any) -> str:
    return json.dumps([phase.describe() for phase in make(**options)], sort_keys=True)


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_of_a_recipe_changes_the_run(name: str, exact_model: str, rows: str, tmp_path: Path) -> None:
    make = partial(plain, name)
    small = {"model": exact_model, "data": rows}
    base, options = resolved(make, **small), signature(RECIPES[name])
    fresh = options if name in WHOLE else [o for o in options if o.recipe == RECIPES[name].__name__]
    places: dict[str, Any] = {
        "data": elsewhere(tmp_path), "eval_data": elsewhere(tmp_path), "model": str(tmp_path), "out": tmp_path / "out",
    }  # fmt: skip
    idle = []
    for o in fresh:
        given = TOGETHER.get((name, o.name)) or {o.name: places.get(o.name) or other(o, o.default)}
        assert None not in given.values(), f"no other value is known for {o.name} ({o.type}): add one to TEXTS"
        if resolved(make, **{**small, **given}) == base:
            idle.append(o.name)
    assert not idle, f"{', '.join(idle)} of {name} has no effect"


def elsewhere(folder: Path) -> str:
    return written(folder / "other.jsonl", [(f"what is {k}?", str(k)) for k in range(9)])
