"""Twenty questions as a consultation: three illnesses, each with two of three symptoms, and a patient who knows.

Also demonstrations of the form of a consultation, by a doctor who asks at random and may repeat itself.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

from temper import streams
from temper.envs.consultation import UNKNOWN, Reply, budget_of, opened, shown, words
from temper.tasks.task import Task

SYMPTOMS = ("fever", "cough", "rash")
NAMED = (("flu", "rest"), ("pox", "cream"), ("cold", "tea"))
ILLNESSES = dict(zip(combinations(SYMPTOMS, 2), NAMED))  # two symptoms → (diagnosis, recommendation)
OTHERS = ("sleep", "diet")  # what nobody knows
REPORT = "I am ill and have {}."


def case(k: int, seed: int = 0) -> Task:
    """The k-th patient: one of its two symptoms is reported, the others have to be asked for."""
    rng = streams.generator(seed, "case", k)
    pair = list(ILLNESSES)[int(rng.integers(len(ILLNESSES)))]
    told = pair[int(rng.integers(2))]
    diagnosis, recommendation = ILLNESSES[pair]
    info = {"symptoms": list(pair), "told": told, "diagnosis": diagnosis, "recommendation": recommendation}
    info["case"] = f"I have {pair[0]} and {pair[1]}."
    return Task(f"case/{seed}/{k}", REPORT.format(told), diagnosis, source="consultation", info=info)


def patient(task: Task, question: str) -> Reply:
    """Yes or no to a question that names a symptom; anything else is not known."""
    named = [s for s in SYMPTOMS if s in words(question)]
    if len(named) != 1:
        return Reply(UNKNOWN, False)
    return Reply("Yes." if named[0] in task.info["symptoms"] else "No.")


def verdict(pair: tuple[str, str]) -> str:
    diagnosis, recommendation = ILLNESSES[pair]
    return f"Diagnosis: {diagnosis} Recommendation: {recommendation}"


def dressed(action: str, thoughts: bool) -> str:
    """The action in the form that is asked for."""
    return f"<think>Hm.</think><answer>{action}</answer>" if thoughts else action


def shown_consultation(k: int, seed: int, budget: tuple[int, int], thoughts: bool = False) -> Task:
    """A talk whose doctor asks about anything, again too, stops at any time, and then names an illness that the answers
    allow, or one in four times any."""
    task, rng = case(k, seed), streams.generator(seed, "shown", k)
    most = budget_of(budget, task)
    messages: list[dict[str, Any]] = opened(task.messages, most)
    known: dict[str, bool] = {task.info["told"]: True}
    for turn in range(1, most + 1):
        if turn == most or rng.random() < 0.25:
            break
        asked = (*SYMPTOMS, *OTHERS)[int(rng.integers(len(SYMPTOMS) + len(OTHERS)))]
        question = f"{asked.capitalize()}?"
        reply = patient(task, question)
        if reply.known:
            known[asked] = reply.text == "Yes."
        messages += [_doctor(dressed(question, thoughts)), {"role": "user", "content": shown(reply.text, turn, most)}]
    fits: Callable[[tuple[str, str]], bool] = lambda p: all((s in p) == yes for s, yes in known.items())  # noqa: E731
    open_ = [p for p in ILLNESSES if fits(p)] if rng.random() < 0.75 else list(ILLNESSES)
    messages.append(_doctor(dressed(verdict(open_[int(rng.integers(len(open_)))]), thoughts)))
    return Task(f"shown/{k}", "", None, "shown consultation", {"messages": messages})


def _doctor(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}
