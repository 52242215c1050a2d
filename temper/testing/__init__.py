"""Checks for your own parts, methods and recipes: those that Temper runs over everything it ships.

    from temper.testing import check_method, check_stage, check_term

    def test_my_bonus():
        check_stage(MyBonus())

    def test_my_method(tmp_path):
        check_method(my_method, tmp_path)      # my_method(policy) -> Method

A check raises AssertionError with a sentence that says what is wrong. The model is a tiny random one and
rewards are computed in the process, so a check takes a second or two.
"""

from temper.testing.envs import check_env
from temper.testing.parts import check_curriculum, check_memory, check_stage, check_term
from temper.testing.runs import check_method, check_run
from temper.testing.toys import ToyReward, random_ends, toy_batch, toy_group, toy_model, toy_tasks

__all__ = [
    "ToyReward",
    "check_curriculum",
    "check_env",
    "check_memory",
    "check_method",
    "check_run",
    "check_stage",
    "check_term",
    "random_ends",
    "toy_batch",
    "toy_group",
    "toy_model",
    "toy_tasks",
]
