"""Every accepted kind of row, and what it demonstrates or prefers."""

from __future__ import annotations

import pytest

from temper.errors import UserError
from temper.tasks.rows import Keys, demonstration, demonstrations, labelled, preference, preferences, to_task
from temper.tasks.task import Task

USER, GOOD, BAD = ({"role": r, "content": c} for r, c in [("user", "Hi"), ("assistant", "yes"), ("assistant", "no")])
SYSTEM = {"role": "system", "content": "Be brief."}


def task(**row) -> Task:
    return to_task(row, "t/1", "here")


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"prompt": "Hi"}, "Hi", None),
        ({"prompt": [SYSTEM, USER]}, [SYSTEM, USER], None),
        ({"messages": [USER, GOOD]}, [USER], None),
        ({"messages": [USER, GOOD, USER, BAD]}, [USER, GOOD, USER], None),
        ({"prompt": "Hi", "completion": " yes"}, "Hi", None),
        ({"prompt": "Hi", "chosen": "yes", "rejected": "no"}, "Hi", None),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, [USER], None),
        ({"chosen": "Hi yes", "rejected": "Hi no"}, "Hi", None),
        ({"prompt": "Hi", "completion": "yes", "label": True}, "Hi", None),
        ({"prompt": "Hi", "completions": ["a", "b"], "labels": [True, False]}, "Hi", None),
        ({"text": "Once upon a time"}, [], None),
        ({"question": "Hi", "answer": "5", "info": {"n": 1}, "task": "sums"}, "Hi", "5"),
        ({"problem": "Hi", "solution": "5"}, "Hi", "5"),
        ({"prompt": [USER], "reward_model": {"ground_truth": "5"}, "data_source": "d"}, [USER], "5"),
    ],
)
def test_every_kind_of_row_has_its_prompt_and_answer(row, prompt, answer):
    made = task(**row)
    assert made.prompt == prompt and made.answer == answer


def test_everything_else_is_in_info_unchanged():
    row = {"prompt": "Hi", "answer": "5", "tools": [{"name": "f"}], "images": [b"x"], "n": 3, "solution": "5"}
    assert task(**row).info == {k: row[k] for k in ("tools", "images", "n", "solution")}


@pytest.mark.parametrize(("answer", "text"), [(5, "5"), ([1, 2], "[1, 2]"), ({"a": 1}, '{"a": 1}'), (0.5, "0.5")])
def test_an_answer_that_is_not_text_stays_what_it_is_in_info(answer, text):
    made = task(prompt="Hi", answer=answer)
    assert made.answer == text and made.info["answer"] == answer


def test_the_source_is_the_rows_own_where_it_has_one():
    assert task(prompt="Hi").source == "here"
    assert task(prompt="Hi", data_source="math").source == "math"
    assert task(prompt="Hi", task="sums").source == "sums"


def test_info_may_be_json_text():
    assert task(prompt="Hi", info='{"n": 1}').info["info"] == {"n": 1}
    assert task(prompt="Hi", info="plain").info["info"] == "plain"


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        ({"prompt": "Hi", "completion": "yes"}, [USER], [GOOD]),
        ({"prompt": [USER], "completion": [GOOD]}, [USER], [GOOD]),
        ({"messages": [SYSTEM, USER, GOOD]}, [SYSTEM, USER], [GOOD]),
        ({"prompt": "Hi", "chosen": "yes", "rejected": "no"}, [USER], [GOOD]),
        ({"question": "Hi", "answer": "yes"}, [USER], [GOOD]),
        ({"text": "yes"}, [], [GOOD]),
    ],
)
def test_demonstrations(row, prompt, completion):
    assert demonstration(task(**row)) == (prompt, completion)
    assert demonstrations([task(**row)]) == [(prompt, completion)]


def test_a_task_that_demonstrates_nothing_is_an_error():
    with pytest.raises(UserError, match="task 't/1' demonstrates nothing"):
        demonstration(task(prompt="Hi"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "yes", "rejected": "no"},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]},  # the prompt repeated in both
    ],
)
def test_preferences(row):
    assert preference(task(**row)) == ([USER], [GOOD], [BAD])
    assert preferences([task(**row)]) == [([USER], [GOOD], [BAD])]


def test_an_implicit_prompt_of_text_leaves_the_space_to_the_continuations():
    prompt, chosen, rejected = preference(task(chosen="Hi yes", rejected="Hi no"))
    assert (prompt[0]["content"], chosen[0]["content"], rejected[0]["content"]) == ("Hi", " yes", " no")


def test_a_system_message_does_not_hide_a_repeated_prompt():
    row = {"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]}
    made = to_task(row, "t/1", "here", Keys(system="Be brief."))
    assert preference(made) == ([SYSTEM, USER], [GOOD], [BAD])


def test_a_task_without_preference_is_an_error():
    with pytest.raises(UserError, match="task 't/1' has no preference"):
        preference(task(prompt="Hi"))


def test_labelled_completions():
    assert labelled(task(prompt="Hi", completion="no", label=False)) == ([USER], [BAD], False)
    with pytest.raises(UserError, match="is not labelled"):
        labelled(task(prompt="Hi"))
