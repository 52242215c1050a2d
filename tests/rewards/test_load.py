"""Reward functions by name, and one line for every mistake in a name."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util

import pytest

from temper.errors import UserError
from temper.rewards.load import BUNDLED, Reward, reward_from
from temper.rewards.pool import Pool
from temper.rewards.worker import Call
from tests.rewards import functions

FILE = """
import helper_beside_it

def short(completion):
    return helper_beside_it.VALUE

async def later(completion):
    return 1.0

LIMIT = 3

class Penalty:
    def __call__(self, completion):
        return -float(len(completion))

penalty = Penalty()
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "helper_beside_it.py").write_text("VALUE = 0.75\n")
    path = tmp_path / "my_rewards.py"
    path.write_text(FILE)
    return path


def judged(reward: Reward, **arguments) -> float:
    pool = Pool([reward.reference], timeout=20)
    try:
        ((verdict,),) = asyncio.run(pool.run([Call(0, 0, arguments)]))
    finally:
        pool.close()
    assert verdict.outcome == "ok", verdict
    return verdict.value


def test_a_function_of_a_file_runs_in_the_worker_with_what_lies_beside_it(file):
    reward = reward_from(f"{file}:short")
    assert reward.name == "short"
    assert judged(reward, completion="x") == 0.75


def test_an_instance_in_a_file_has_the_name_that_it_was_asked_for_by(file):
    reward = reward_from(f"{file}:penalty")
    assert reward.name == "penalty"
    assert judged(reward, completion="four") == -4.0


def test_a_function_of_a_module():
    reward = reward_from("tests.rewards.functions:right")
    assert reward.function is functions.right
    assert judged(reward, completion="4", answer="4") == 1.0


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_names_load(name):
    reward = reward_from(name)
    assert reward.name == name and reward.signature.style == "temper"


def test_a_bundled_checker_runs_in_the_worker():
    assert judged(reward_from("number_match"), completion="It is 1,200.", answer="1200") == 1.0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{file}x.py:short", "no file .*my_rewards.pyx.py; did you mean my_rewards.py\\?"),
        ("{file}:shrt", "unknown function in .*my_rewards.py 'shrt'; did you mean short\\?"),
        ("{file}:LIMIT", "'LIMIT' in .*my_rewards.py is a int, not a function"),
        ("{file}:Penalty", "'Penalty' in .*my_rewards.py is a class: name an instance of it"),
        ("{file}", "name the function in the file: .*my_rewards.py:FUNCTION"),
        ("math_verfy", "unknown reward 'math_verfy'; did you mean math_verify\\?; a function of your own"),
        ("no_such_package.rewards:f", "no module no_such_package"),
    ],
)
def test_a_wrong_name_is_one_line(file, spec, message):
    with pytest.raises(UserError, match=f"^{message}") as error:
        reward_from(spec.format(file=file))
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_imported_is_one_line(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def f(completion)\n    return 1\n")
    with pytest.raises(UserError, match=r"^broken\.py cannot be imported: SyntaxError: expected ':'"):
        reward_from(f"{path}:f")


def test_a_name_of_its_own():
    assert Reward(functions.half, name="bonus").name == "bonus"


@pytest.mark.parametrize("name", ["math_verify", "reasoning_gym"])
def test_a_bundled_checker_is_ready_before_its_first_deadline(name):
    reference = reward_from(name).reference
    module, _, function = reference.prepare.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_import_of_a_bundled_checker_does_not_count():
    """sympy takes longer to import than one call may take here."""
    pytest.importorskip("math_verify")
    pool = Pool([reward_from("math_verify").reference], timeout=0.8)
    calls = [Call(0, 0, {"completion": "4", "answer": "4"})] * 4
    try:
        answers = asyncio.run(pool.run(calls))
    finally:
        pool.close()
    assert answers[-1][0].value == 1.0


def test_a_missing_package_is_told_when_the_reward_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^the reward math_verify needs the package math_verify, .*temper-rl\[math\]"):
        reward_from("math_verify")
