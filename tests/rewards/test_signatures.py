"""Three signatures, told apart by their parameter names and filled from the same row."""

from __future__ import annotations

import functools

import pytest

from temper.errors import UserError
from temper.rewards.signatures import Row, Signature
from temper.tasks.task import Task
from tests.rewards import functions

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]


def row(prompt="2+2?", completion="4", answer="4", info=None, noted=None, **fields):
    said = fields.pop("said", [(True, completion)])
    task = Task("t/1", prompt, answer, "sums", info if info is not None else {"level": 2})
    return Row(task, completion, [7, 8], said, noted or {}, **fields)


@pytest.mark.parametrize(
    ("function", "style"),
    [
        (functions.right, "temper"),
        (functions.trl_right, "trl"),
        (functions.trl_ids, "trl"),
        (functions.compute_score, "verl"),
        (functions.Penalty(), "temper"),
        (functools.partial(functions.trl_right, answer=["4"]), "trl"),
    ],
)
def test_the_style_shows_in_the_parameter_names(function, style):
    assert Signature.of(function).style == style


def test_the_style_can_be_said():
    assert Signature.of(functions.half, style="trl").many
    with pytest.raises(UserError, match="unknown reward style 'open'; there are: temper, trl, verl"):
        Signature.of(functions.half, style="open")


def test_a_plain_function_gets_exactly_what_it_names():
    assert Signature.of(functions.right).arguments([row()]) == {"completion": "4", "answer": "4"}


def test_a_column_of_the_row_and_what_the_environment_noted_are_reached_by_name():
    assert Signature.of(functions.wants_level).arguments([row()])["level"] == 2
    assert Signature.of(functions.wants_level).arguments([row(info={}, noted={"level": 5})])["level"] == 5


def test_a_double_star_gets_the_whole_row():
    arguments = Signature.of(functions.wants_everything).arguments([row()])
    assert arguments == {"completion": "4", "answer": "4", "level": 2, "prompt": "2+2?"}


def test_the_dialogue_has_prompt_replies_and_observations():
    turns = [(True, "<tool>2+2</tool>"), (False, "4"), (True, "It is 4.")]
    arguments = Signature.of(functions.wants_dialogue).arguments([row(CHAT, "It is 4.", said=turns)])
    assert arguments["messages"] == [
        *CHAT,
        {"role": "assistant", "content": "<tool>2+2</tool>"},
        {"role": "user", "content": "4"},
        {"role": "assistant", "content": "It is 4."},
    ]
    assert functions.wants_dialogue(**arguments) == 1.0


def test_an_answer_that_is_not_text_arrives_as_it_is():
    assert Signature.of(functions.right).arguments([row(answer="4", info={"answer": 4})])["answer"] == 4


def test_a_model_completion_is_never_the_column_of_that_name():
    assert Signature.of(functions.half).arguments([row(info={"completion": "data"})]) == {"completion": "4"}


def test_a_missing_argument_is_one_sentence_that_names_what_there_is():
    with pytest.raises(UserError) as error:
        Signature.of(functions.wants_level).check([Task("t/1", "2+2?", "4", info={"depth": 1})])
    assert str(error.value) == (
        "reward 'wants_level' needs 'level', which task 't/1' does not have; "
        "there are: completion, prompt, answer, task, messages, depth"
    )


def test_positional_only_parameters_are_refused():
    with pytest.raises(UserError, match="'positional' has positional-only parameters"):
        Signature.of(functions.positional)


def test_trl_gets_lists_and_texts_for_a_text_prompt():
    arguments = Signature.of(functions.trl_right).arguments([row(), row(completion="5", info={"other": 1})])
    assert arguments["prompts"] == ["2+2?", "2+2?"] and arguments["completions"] == ["4", "5"]
    assert arguments["completion_ids"] == [[7, 8], [7, 8]]
    assert arguments["answer"] == ["4", "4"]
    assert arguments["level"] == [2, None] and arguments["other"] == [None, 1]  # a column that one row lacks
    assert functions.trl_right(**arguments) == [1.0, 0.0]


def test_trl_gets_messages_for_a_conversational_prompt():
    arguments = Signature.of(functions.trl_chat).arguments([row(CHAT, info={"solution": "4"})])
    assert arguments["prompts"] == [CHAT]
    assert arguments["completions"] == [[{"role": "assistant", "content": "4"}]]
    assert functions.trl_chat(**arguments) == [1.0]


def test_trl_columns_are_those_of_the_data_row_and_the_state_has_the_step():
    arguments = Signature.of(functions.trl_kwargs).arguments([row(version=3)])
    assert functions.trl_kwargs(**arguments) == [1.0]
    assert arguments["trainer_state"].global_step == 3


def test_verl_gets_its_four_arguments():
    verl = {"data_source": "sums", "reward_model": {"style": "rule", "ground_truth": "4"}, "extra_info": {"index": 3}}
    arguments = Signature.of(functions.compute_score).arguments([row(info=verl)])
    assert functions.compute_score(**arguments) == {"score": 1.0, "acc": True, "pred": "4"}


def test_verl_takes_source_and_answer_of_other_rows():
    arguments = Signature.of(functions.compute_score).arguments([row()])
    assert arguments == {
        "data_source": "sums", "solution_str": "4", "ground_truth": "4", "extra_info": {"level": 2}
    }  # fmt: skip


def test_verl_defaults_are_not_filled_from_columns_that_happen_to_have_their_name():
    row_ = row(info={"data_source": "sums", "score": 3, "strict": True})
    assert Signature.of(functions.compute_gsm8k).arguments([row_]) == {
        "solution_str": "4", "ground_truth": "4", "strict": True
    }  # fmt: skip
