"""DoctorAgent-RL: the reward of every kind of turn, the budget, patients that are scripts and policies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from temper.carrier import Batch
from temper.columns import ADVANTAGE, REWARD, TRAJECTORY, TURN_REWARD
from temper.envs.consultation import Consultation, Reply, budget_of, grade, overlap, plain, same_words, tagged
from temper.episode import ENV, Episode
from temper.errors import UserError
from temper.methods.environments.doctoragent_rl import doctoragent_rl
from temper.models.tiny import tiny_tokenizer
from temper.recipes.doctoragent_rl import doctoragent_rl as doctor_recipe
from temper.run import Run
from temper.tasks.cases import SYMPTOMS, case, patient, shown_consultation
from temper.tasks.task import Task
from tests.envs.actors import Actor, says, seat

CASE = Task(
    "c", "I am ill and have fever.", info={"symptoms": ["fever", "cough"], "diagnosis": "flu",
                                           "recommendation": "rest and water", "case": "Fever and cough."},
)  # fmt: skip
RIGHT = "Diagnosis: flu Recommendation: rest and water"


def consult(*lines: str, patient_says: tuple[str, ...] = (), **options: Any) -> Episode:
    env = Consultation(**{"patient": None if patient_says else patient, "parse": plain, "budget": (5, 5), **options})
    said = {"doctor": lines, "patient": patient_says}
    seats = {r: seat(Actor(tiny_tokenizer(), says(*said[r])), r, max_tokens=200) for r in env.roles}
    return asyncio.run(env.play(CASE, seats))


def rewards(episode: Episode, role: str = "doctor") -> list[float | None]:
    return [t.reward for t in episode.turns if t.author == role]


@pytest.mark.parametrize(
    "lines, paid",
    [
        ((RIGHT,), [10.0]),  # 5 for the diagnosis, 5 for the recommendation
        (("Diagnosis: flu",), [5.0]),
        (("Diagnosis: cold Recommendation: rest",), [2.0]),  # F1 of one word of three: ½, rounded from 2.5
        (("Cough?", RIGHT), [1.0, 10.0]),
        (("Sleep?", RIGHT), [-1.0, 10.0]),  # the patient does not know
        (("Cough?", "cough ?", RIGHT), [1.0, -2.0, 10.0]),  # the same words
        (("Cough? Rash?", RIGHT), [-2.0, 10.0]),  # two questions
        (("Tell me.", RIGHT), [-2.0, 10.0]),  # none
        (("", RIGHT), [-2.0, 10.0]),  # nothing
    ],
)
def test_the_reward_of_every_kind_of_turn(lines: tuple[str, ...], paid: list[float]) -> None:
    assert rewards(consult(*lines)) == paid


def test_the_last_turn_without_a_diagnosis_costs_five_whatever_it_says() -> None:
    for last in ("Rash?", "", "no question"):
        assert rewards(consult("Cough?", last, budget=(2, 2))) == [1.0, -5.0]
    assert rewards(consult("Cough?", RIGHT, budget=(2, 2))) == [1.0, 10.0]


def test_invalid_turns_are_turns_of_the_budget() -> None:
    episode = consult("", "what", "Cough? Rash?", budget=(3, 3))
    assert rewards(episode) == [-2.0, -2.0, -5.0]
    info = episode.trajectories[0].info
    assert (info["turns"], info["budget"], info["form"], info["several"], info["spent"]) == (3, 3, 1, 1, 1)


def test_an_unanswered_question_may_be_asked_again_at_a_price() -> None:
    assert rewards(consult("Sleep?", "Sleep?", RIGHT)) == [-1.0, -2.0, 10.0]


def test_the_episodes_reward_is_the_sum_and_is_compared_in_its_group() -> None:
    m = doctoragent_rl(None, entropy=0.0)
    assert len(m.terms) == 1 and isinstance(m.env, Consultation) and m.env.budget == (2, 10)
    b = Batch.of([consult("Cough?", RIGHT), consult("Cough?", "Cough?", RIGHT)])
    assert b[TURN_REWARD][~b[TURN_REWARD].isnan()].tolist() == [1.0, 10.0, 1.0, -2.0, 10.0]
    for stage in m.on_group:
        b = asyncio.run(stage(b))
    assert b[REWARD].tolist() == [11.0, 9.0]
    half = 1 / 2**0.5
    assert b.mean(b[ADVANTAGE], 0, TRAJECTORY).tolist() == pytest.approx([half, -half], abs=1e-4)  # type: ignore[arg-type]


def test_the_budget_is_drawn_for_a_task_and_shown() -> None:
    drawn = [budget_of((2, 10), case(k)) for k in range(300)]
    assert set(drawn) == set(range(2, 11)) and drawn[7] == budget_of((2, 10), case(7))
    assert drawn != [budget_of((2, 10), case(k), seed=1) for k in range(300)]
    seen = [t.text for t in consult("Cough?", RIGHT).turns if t.author == ENV]
    ends = "Give a diagnosis and a recommendation before the end."
    assert seen == [f"I am ill and have fever.\nTurn 0/5. {ends}", f"Yes.\nTurn 1/5. {ends}"]
    with pytest.raises(UserError, match="budget"):
        Consultation(budget=(4, 2))


def test_the_released_form_is_reasoning_then_one_answer_and_nothing_else() -> None:
    assert tagged("<think>Hm.</think><answer>Cough?</answer>") == "Cough?"
    for bad in ("Cough?", "<answer>Cough?</answer>", "<think>a</think><answer>b</answer> and more",
                "<think>a</think><answer>b</answer><answer>c</answer>"):  # fmt: skip
        assert tagged(bad) is None


def test_a_patient_may_be_a_policy_that_sees_the_case_and_one_question() -> None:
    said = ("Yes, I am so sorry to say.", "Sorry, I do not know that.")
    episode = consult("Cough?", "Sleep?", RIGHT, patient_says=said)
    assert rewards(episode) == [1.0, -1.0, 10.0]  # "sorry" inside an answer is an answer
    doctor, other = episode.trajectories
    assert (doctor.role, other.role, other.reward) == ("doctor", "patient", None)
    asked = [episode.turns[u].text for u in other.turns if episode.turns[u].author == ENV]
    assert len(asked) == 2 and "Fever and cough." in asked[1] and "Cough?" not in asked[1]
    assert episode.turns[doctor.turns[2]].text.startswith("Yes, I am so sorry to say.")


def test_a_question_that_the_patient_cannot_read_has_no_form() -> None:
    """It cannot end the consultation; the next question is heard."""

    def seated(role: str, context: int, *lines: str) -> Any:
        return seat(Actor(tiny_tokenizer(), says(*lines), context=context), role, max_tokens=2000)

    env = Consultation(None, parse=plain, budget=(3, 3))
    doctor = seated("doctor", 9000, f"{'bla ' * 400}?", "Cough?", RIGHT)
    episode = asyncio.run(env.play(CASE, {"doctor": doctor, "patient": seated("patient", 600, "Yes.")}))
    assert rewards(episode) == [-2.0, 1.0, 10.0]


def test_a_trained_patient_is_paid_by_the_answer() -> None:
    episode = consult("Cough?", RIGHT, patient_says=("Yes.",), faithful=lambda task, q, a: float(a == "Yes."))
    assert rewards(episode, "patient") == [1.0]


def test_a_judge_model_may_grade_and_its_grade_is_a_whole_answer() -> None:
    async def judge(task: Task, diagnosis: str, recommendation: str) -> tuple[float, float]:
        return grade("<think>3 of 4</think><answer>4</answer>"), grade("5/5")

    assert rewards(consult(RIGHT, rubric=judge)) == [9.0]
    for bad in ("between 3 and 4", "<answer>I give 3</answer>", "7", ""):
        assert grade(bad) == 0.0


def test_words_are_compared_without_case_and_order_of_grading_is_by_overlap() -> None:
    assert same_words("Any COUGH?", ["any cough"]) and not same_words("Cough?", ["Any cough?"])
    assert overlap(CASE, "flu", "rest, water") == (5.0, 4.0) and overlap(CASE, "cold", "") == (0.0, 0.0)


def test_cases_can_be_solved_by_asking() -> None:
    assert len({case(k).answer for k in range(200)}) == 3
    assert patient(CASE, "Rash?") == Reply("No.") and not patient(CASE, "Rash or cough?").known
    for k in range(20):
        t = case(k)
        assert {s for s in SYMPTOMS if patient(t, f"{s}?").text == "Yes."} == set(t.info["symptoms"])
        assert t.info["told"] in t.info["symptoms"]


def test_demonstrations_keep_to_their_budget_and_show_what_the_environment_shows() -> None:
    for k in range(30):
        messages = shown_consultation(k, 0, (2, 6)).info["messages"]
        doctor = [m["content"] for m in messages if m["role"] == "assistant"]
        assert len(doctor) <= budget_of((2, 6), case(k)) and doctor[-1].startswith("Diagnosis: ")
        env = Consultation(patient, parse=plain, budget=(2, 6), reminder="")
        speaker = seat(Actor(tiny_tokenizer(), says(*map(str, doctor))), "doctor")
        talk = asyncio.run(env.play(case(k), {"doctor": speaker}))
        shown = [t.text for t in talk.turns if t.author == ENV]
        kept = [m["content"] for m in messages if m["role"] == "user"]
        repeats = "You have asked that before."
        assert len(shown) == len(kept) and all(a == b or repeats in a for a, b in zip(shown, kept))


def test_a_recipe_takes_other_cases_with_a_patient_that_is_a_model(tmp_path: Path) -> None:
    rows = tmp_path / "cases.jsonl"
    rows.write_text('{"prompt": "It hurts.", "case": "Since Monday.", "diagnosis": "d", "recommendation": "r"}\n' * 6)
    run = doctor_recipe(cases=str(rows), patient="temper-tiny", steps=1)
    assert isinstance(run, Run) and not run.roles["patient"].trainable and run.updates[0].roles == ("doctor",)
    with pytest.raises(UserError, match="belong together"):
        doctor_recipe(cases=str(rows))
    rows.write_text('{"prompt": "It hurts.", "diagnosis": "d"}\n')
    with pytest.raises(UserError, match="no 'case'"):
        doctor_recipe(cases=str(rows), patient="temper-tiny")
