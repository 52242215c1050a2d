"""Bundled suites: questions of training and evaluation never meet, and every difficulty is reported by its own name."""

from __future__ import annotations

import pytest

from temper.tasks.skills import SKILLS
from temper.tasks.suites import BASE_SKILLS, QUICKSTART_HELDOUT, QUICKSTART_TRAIN, held_out_tasks, train_tasks


def test_no_question_is_in_both_training_and_evaluation() -> None:
    train = {task.prompt for task in train_tasks("quickstart", seed=0, size=2000)}
    held_out = {task.prompt for task in held_out_tasks("quickstart", 300)}
    assert not train & held_out


def test_parts_take_turns_under_their_own_names() -> None:
    labels = [part.label for part in (*QUICKSTART_TRAIN, *QUICKSTART_HELDOUT)]
    assert len(set(labels)) == len(labels)
    assert [task.source for task in held_out_tasks("quickstart", 2 * len(labels))] == labels * 2
    assert [task.source for task in train_tasks("quickstart")[:3]] == labels[:3]


def test_the_quickstart_trains_on_four_data_sets_and_keeps_something_back() -> None:
    assert len({part.name for part in QUICKSTART_TRAIN}) >= 4
    assert QUICKSTART_HELDOUT


def test_seeds_give_other_questions() -> None:
    assert [t.id for t in train_tasks("quickstart", 0)[:9]] != [t.id for t in train_tasks("quickstart", 1)[:9]]
    assert train_tasks("quickstart", 1)[11] == train_tasks("quickstart", 1)[11]


def test_an_unknown_suite_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown suite 'quick'; there are: quickstart"):
        train_tasks("quick")


def test_the_pretraining_mixture_covers_every_skill() -> None:
    assert set(BASE_SKILLS) == set(SKILLS)
