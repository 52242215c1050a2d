"""Apriel-Reasoner: the table of its penalty, and domains whose finished rollouts keep to their shares."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from dataclasses import replace

import pytest

from temper.carrier import Batch
from temper.columns import REWARD
from temper.episode import Episode
from temper.methods.objectives.apriel_reasoner import SparingPenalty, apriel_reasoner
from temper.parts.domains import AdaptiveDomains
from temper.parts.shaping import SHAPED
from temper.tasks.task import Task
from tests.core.hand import TASK_A, chain


def attempts(rows: list[tuple[int, float | None, str]]) -> Batch:
    """(tokens, reward, finish), every answer with a text."""
    made: list[Episode] = []
    for tokens, r, finish in rows:
        e = chain(TASK_A, "1", tokens, r)
        made.append(replace(e, turns=(e.turns[0], replace(e.turns[1], finish=finish))))
    return Batch.of(made)


def shaped(rows: list[tuple[int, float | None, str]], **how: float) -> list[float]:
    return asyncio.run(SparingPenalty(limit=20, buffer=10, **how)(attempts(rows)))[SHAPED].tolist()


def test_right_answers_pay_by_the_solve_rate() -> None:
    all_right = shaped([(15, 1.0, "stop"), (5, 1.0, "stop")])
    assert all_right == pytest.approx([1 - 0.5, 1.0])
    half = shaped([(15, 1.0, "stop"), (5, 0.0, "stop")])
    assert half == pytest.approx([1 - 0.5 * 0.5, -0.5])
    assert shaped([(15, 1.0, "stop"), (5, 0.0, "stop")], gamma=2.0)[0] == pytest.approx(1 - 0.5 * 0.25)


def test_wrong_and_unfinished_ones_pay_whatever_the_solve_rate() -> None:
    none = shaped([(15, 0.0, "stop"), (20, 0.0, "length")])
    assert none == pytest.approx([-0.5 - 0.5, -1.0 - 1.0])
    assert shaped([(15, 0.0, "stop")], failed=0.2) == pytest.approx([-0.5 - 0.1])
    assert shaped([(20, 0.0, "length")], failed=0.2) == pytest.approx([-2.0])  # always in full


def test_unjudged_answers_stay_so_and_are_no_part_of_the_rate() -> None:
    got = shaped([(15, 1.0, "stop"), (15, None, "stop")])
    assert got[0] == pytest.approx(0.5) and got[1] != got[1]


def test_short_answers_pay_nothing() -> None:
    assert shaped([(10, 1.0, "stop"), (10, 0.0, "stop")]) == pytest.approx([1.0, -0.5])


TASKS = [Task(f"{d}/{k}", "?", source=d) for d in ("fast", "slow") for k in range(40)]


def finished(corrected: bool) -> dict[str, float]:
    """Shares of what has finished after 4000 rollouts on 16 workers, "slow" taking five times as long."""
    curriculum = AdaptiveDomains(TASKS, 1, 0, {"fast": 0.5, "slow": 0.5}, after=50 if corrected else 10**9)
    done: Counter[str] = Counter()
    running: list[tuple[float, int, str]] = []
    clock, number = 0.0, 0
    stop = 2000.0
    while clock < stop:
        while len(running) < 16:
            domain = curriculum.next(1)[0].task.source
            number += 1
            heapq.heappush(running, (clock + (5.0 if domain == "slow" else 1.0), number, domain))
        clock, _, domain = heapq.heappop(running)
        if clock < stop and (domain == "fast" or number % 3):  # every third slow rollout fails and never lands
            done[domain] += 1
            curriculum.finished[domain] += 1
    total = sum(done.values())
    return {d: n / total for d, n in done.items()}


def test_the_mix_of_what_has_finished_is_pulled_to_its_targets() -> None:
    """A third of the slow rollouts never lands: odds of 2/3, of which the correction takes half off (in logarithms)."""
    assert finished(False)["slow"] == pytest.approx(2 / 5, abs=0.015)
    assert finished(True)["slow"] == pytest.approx((2 / 3) ** 0.5 / (1 + (2 / 3) ** 0.5), abs=0.015)


def test_domains_that_nobody_names_share_what_is_left() -> None:
    tasks = [Task(f"{d}/1", "?", source=d) for d in ("a", "b", "c")]
    assert AdaptiveDomains(tasks, targets={"a": 0.5}).share == {"a": 0.5, "b": 0.25, "c": 0.25}
    made = AdaptiveDomains(tasks, 2, targets={"a": 0.5}, after=0)
    assert made.odds() == {"a": 5.0, "b": 2.5, "c": 2.5}  # nothing has finished anywhere: only proportions count
    made.finished = {"a": 90, "b": 10, "c": 0}
    assert made.odds() == pytest.approx({"a": 0.5 * 50 / 90, "b": 0.25 * 2.5, "c": 2.5})


def test_stages() -> None:
    made = apriel_reasoner(None, targets={"a": 1.0})
    assert made.on_group[0].reads == (REWARD,) and made.curriculum is not None
    assert isinstance(made.curriculum([Task("a/1", "?", source="a")], 2, 0), AdaptiveDomains)
