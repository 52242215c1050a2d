"""Runs beside the package bfcl-eval, in a process of its own (see `temper.tools.lines`): one episode, or a list.

Tasks, simulated classes, the execution of calls and the verdict are the package's own functions, unchanged.
"""

import ast
import copy
import inspect
import os

os.environ["BFCL_PROJECT_ROOT"] = os.getcwd()  # the package makes folders there

from bfcl_eval.constants.default_prompts import DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC
from bfcl_eval.constants.eval_config import PROMPT_PATH, VERSION_PREFIX
from bfcl_eval.constants.type_mappings import GORILLA_TO_OPENAPI
from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker
from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import execute_multi_turn_func_call
from bfcl_eval.utils import (
    add_language_specific_hint_to_function_doc,
    load_file,
    load_ground_truth_entry,
    populate_test_cases_with_predefined_functions,
)

NO_SUCH_CALL = "no_such_function()"  # stands for a call of what is no tool: the package runs it into a NameError


class _Episode:
    entry = None
    truth = None
    steps = None  # of each user turn: a list of steps, each a list of calls as Python source
    methods = None


def answer(message):
    """{"op": "list", "category"}, then nothing else; or {"op": "start", "id"}, "call"s and {"op": "judge"}."""
    op = message.pop("op")
    return {"list": _list, "start": _start, "call": _call, "judge": _judge}[op](**message)


def _list(category):
    truth = {one["id"]: one["ground_truth"] for one in load_ground_truth_entry(category)}
    entries = load_file(PROMPT_PATH / f"{VERSION_PREFIX}_{category}.json")
    return [{"id": e["id"], "first": e["question"][0], "turns": len(truth[e["id"]])} for e in entries]


def _start(id):
    """What is shown: the user's turns, the tools at the beginning, and those that a later turn brings."""
    category = id.rsplit("_", 1)[0]
    entry = next(e for e in load_file(PROMPT_PATH / f"{VERSION_PREFIX}_{category}.json") if e["id"] == id)
    (entry,) = add_language_specific_hint_to_function_doc(populate_test_cases_with_predefined_functions([entry]))
    _Episode.entry = entry
    _Episode.truth = next(e["ground_truth"] for e in load_ground_truth_entry(category) if e["id"] == id)
    _Episode.steps = [[]]
    _, instances = _execute([])
    later = {int(turn): list(map(_tool, docs)) for turn, docs in entry.get("missed_function", {}).items()}
    tools = list(map(_tool, entry["function"]))
    named = {tool["name"] for tool in sum(later.values(), tools)}
    _Episode.methods = {n: getattr(one, n) for one in instances.values() for n in named if hasattr(one, n)}
    added = [{"role": "user", "content": DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC}]
    turns = [turn or added for turn in entry["question"]]
    truth = [[_named(call) for call in turn] for turn in _Episode.truth]
    return {"turns": turns, "tools": tools, "later": later, "truth": truth}


def _call(turn, calls):
    """The results of a step's calls [name, arguments] in a user turn, as the package says them."""
    while len(_Episode.steps) <= turn:
        _Episode.steps.append([])
    sources = [_source(name, arguments) for name, arguments in calls]
    _Episode.steps[turn].append(sources)
    results, _ = _execute(sources)
    return results


def _judge(turns):
    """The package's verdict, after so many of the user's turns were played to their end."""
    if turns != len(_Episode.truth):
        return {"valid": False, "why": "multi_turn:force_terminated"}
    steps = _Episode.steps + [[] for _ in range(turns - len(_Episode.steps))]
    entry = _Episode.entry
    verdict = multi_turn_checker(steps, _Episode.truth, entry, entry["id"].rsplit("_", 1)[0], "policy")
    return {"valid": bool(verdict["valid"]), "why": verdict.get("error_type", "")}


def _execute(sources):
    entry = _Episode.entry
    return execute_multi_turn_func_call(
        sources, entry["initial_config"], entry["involved_classes"], "policy", entry["id"],
        long_context="long_context" in entry["id"] or "composite" in entry["id"],
    )  # fmt: skip


def _source(name, arguments):
    """A call as Python source: a documented method of the task's classes, with arguments that are literals."""
    if name not in _Episode.methods or not all(k.isidentifier() for k in arguments):
        return NO_SUCH_CALL
    return f"{name}({','.join(f'{k}={v!r}' for k, v in arguments.items())})"


def _named(source):
    """[name, arguments] of one of the ground truth's calls, whose arguments may be positional."""
    call = ast.parse(source, mode="eval").body
    name = call.func.id
    given = [ast.literal_eval(a) for a in call.args]
    names = list(inspect.signature(_Episode.methods[name]).parameters)
    return [name, {**dict(zip(names, given)), **{k.arg: ast.literal_eval(k.value) for k in call.keywords}}]


def _tool(doc):
    """A function's documentation with the types of JSON schema."""
    parameters = copy.deepcopy(doc["parameters"])
    return {
        "name": doc["name"],
        "description": doc["description"],
        "parameters": {**_typed(parameters), "type": "object"},
    }


def _typed(rule):
    rule["type"] = GORILLA_TO_OPENAPI.get(rule.get("type"), "string")
    for inner in rule.get("properties", {}).values():
        _typed(inner)
    if isinstance(rule.get("items"), dict):
        _typed(rule["items"])
    return rule
