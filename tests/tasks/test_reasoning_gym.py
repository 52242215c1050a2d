"""Reasoning Gym tasks: lazy, stable, scored by the package's own verifiers, and plain about what is wrong."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from temper.tasks import reasoning_gym as rg
from temper.tasks.reasoning_gym import ReasoningGym, extract_answer, score

QUICK = ["chain_sum", "gcd", "spell_backward", "letter_counting", "number_sorting", "count_bits", "gsm_symbolic"]


def test_the_installed_version_has_106_data_sets() -> None:
    assert len(rg.names()) == 106
    assert set(rg.missing()) <= set(rg.names())


def test_without_its_compiled_dependency_the_rest_still_works() -> None:
    """In a process where no optional package can be found, the import works and says which data sets miss."""
    code = (
        "import sys, importlib.util as u; from temper.tasks import reasoning_gym as rg\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('pycosat', 'bfi') else find(name, *a)\n"
        "print(sorted(rg.missing()), rg.ReasoningGym('gcd', 1)[0].id, 'pycosat' in sys.modules)\n"
        "try: rg.ReasoningGym('bf', 1)\n"
        "except ValueError as error: print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[0] == "['bf', 'zebra_puzzles'] rg/gcd/0/0 False"
    assert out.splitlines()[1] == "data set 'bf' cannot be used here: it needs the package bfi, which is not installed"


def test_task_sources_import_without_torch() -> None:
    code = "import sys, temper.tasks.suites, temper.tasks.skills; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


@pytest.mark.parametrize("name", QUICK)
def test_items_are_stable_and_their_answers_pass(name: str) -> None:
    tasks, again = ReasoningGym(name, 20, seed=3), ReasoningGym(name, 20, seed=3)
    assert len(tasks) == 20
    assert tasks[4] == again[4]
    assert tasks[-1] == tasks[19]
    assert tasks[4].id == f"rg/{name}/3/4"
    assert score(f"<think>so</think>{tasks[4].answer}", **tasks[4].info) >= rg.PASS
    assert score("<think>nothing", **tasks[4].info) < rg.PASS


def test_neighbouring_seeds_share_no_item() -> None:
    """The package seeds item i with seed + i, so that its own seeds 0 and 1 differ in one item of 50."""
    first = {task.prompt for task in ReasoningGym("products", 50, seed=0, min_digits=5, max_digits=5)}
    second = {task.prompt for task in ReasoningGym("products", 50, seed=1, min_digits=5, max_digits=5)}
    assert not first & second


def test_difficulty_options_reach_the_generator() -> None:
    tasks = ReasoningGym("chain_sum", 30, min_terms=2, max_terms=2, min_digits=1, max_digits=1)
    assert all(str(task.prompt).count(" + ") + str(task.prompt).count(" - ") == 1 for task in tasks)
    assert tasks[0].id == "rg/chain_sum[max_digits=1,max_terms=2,min_digits=1,min_terms=2]/0/0"


def test_slices_are_lists_and_the_end_is_an_end() -> None:
    tasks = ReasoningGym("gcd", 5)
    assert [t.id for t in tasks[1:3]] == ["rg/gcd/0/1", "rg/gcd/0/2"]
    with pytest.raises(IndexError):
        tasks[5]


def test_a_score_needs_only_the_tasks_info_in_another_process() -> None:
    task = ReasoningGym("letter_counting", 9, seed=5, min_words=2, max_words=3)[7]
    scorer, info = pickle.loads(pickle.dumps((score, dict(task.info))))
    assert scorer(str(task.answer), **info, unused_column=1) == 1.0


@pytest.mark.parametrize("garbage", ["", "x", "²", "[", "1/0", "× ×", "{}", "9" * 400])
@pytest.mark.parametrize("name", ["prime_factorization", "countdown", "number_sorting", "simple_equations", "codeio"])
def test_an_unreadable_answer_is_wrong_and_no_error(name: str, garbage: str) -> None:
    assert score(garbage, **ReasoningGym(name, 1)[0].info) < rg.PASS


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>1</think> 2 ", "2"),
        ("2", "2"),
        ("<think>a</think>b</think>c", "c"),
        ("<think><answer>1</answer></think>so <answer> 2 </answer>.", "2"),
        ("<answer>1</answer><answer>3</answer>", "3"),
        ("<think>unfinished 5", "<think>unfinished 5"),
    ],
)
def test_what_is_judged(completion: str, answer: str) -> None:
    assert extract_answer(completion) == answer


def test_wrong_names_are_one_sentence_that_names_what_exists() -> None:
    with pytest.raises(ValueError, match=r"unknown data set 'chainsum'.*did you mean chain_sum"):
        ReasoningGym("chainsum")
    with pytest.raises(ValueError, match=r"unknown option 'max_term' of data set 'chain_sum'; did you mean max_terms"):
        ReasoningGym("chain_sum", max_term=3)
    with pytest.raises(ValueError, match="data set 'chain_sum' refuses"):
        ReasoningGym("chain_sum", min_terms=5, max_terms=2)


def test_curricula() -> None:
    assert rg.curriculum("chain_sum")["num_digits"][0] == 1
    easy, hard = ReasoningGym.at_level("chain_sum", 0, 20), ReasoningGym.at_level("chain_sum", 3, 20)
    assert max(len(str(t.prompt)) for t in easy) < max(len(str(t.prompt)) for t in hard)
    with pytest.raises(ValueError, match="levels 0 to"):
        rg.level_config("chain_sum", 99)
    with pytest.raises(ValueError, match="has no curriculum"):
        rg.curriculum("composite")
