"""The checks themselves: each kind of lie is caught, with the sentence that belongs to it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, ENTROPY, LOGP, REWARD, TEMPERATURE, TOKEN, TRAJECTORY, Column
from temper.envs.single import SingleTurn
from temper.episode import Completion, Episode, Recorder
from temper.method import Method
from temper.objective import Term
from temper.parts.advantages import Advantage
from temper.parts.curricula import Shuffled
from temper.parts.losses import Reinforce
from temper.policy import Policy
from temper.tasks.task import Task
from temper.testing import ToyReward, check_curriculum, check_env, check_method, check_stage, check_term, toy_tasks

# stages ---------------------------------------------------------------------------------------------------------------


class Undeclared(ToyReward):
    writes = ()


class Overdeclared(ToyReward):
    writes = (REWARD, ADVANTAGE)


class Peeking(ToyReward):
    async def __call__(self, b: Batch) -> Batch:
        assert b[TEMPERATURE] is not None
        return await super().__call__(b)


class Unread(ToyReward):
    reads = (TEMPERATURE,)


class InPlace(ToyReward):
    reads = (ADVANTAGE,)

    async def __call__(self, b: Batch) -> Batch:
        b[ADVANTAGE].mul_(2)
        return await super().__call__(b)


class Counting(ToyReward):
    """Scores by how often it was called; `kept` is what it says of its memory."""

    def __init__(self, kept: Callable[[int], dict[str, Any]] = lambda calls: {"calls": calls}):
        super().__init__()
        self.calls, self.kept = 0, kept

    async def __call__(self, b: Batch) -> Batch:
        self.calls += 1
        return b.put(REWARD, torch.arange(b.size(TRAJECTORY)) * float(self.calls))

    def state_dict(self) -> dict[str, Any]:
        return self.kept(self.calls)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.calls = saved.get("calls", self.calls)


class Forgetful(Counting):
    def __init__(self) -> None:
        super().__init__(lambda calls: {})


class Pickled(Counting):
    def __init__(self) -> None:
        super().__init__(lambda calls: {"calls": calls, "task": Task("t", "?")})


@pytest.mark.parametrize(
    "stage, complaint",
    [(Undeclared, "without saying so in `writes`"), (Overdeclared, "does not write it"),
     (Peeking, "without saying so in `reads`"), (Unread, "does not read it"), (InPlace, "in place"),
     (Forgetful, "go on as before"), (Pickled, "plain data")],
)  # fmt: skip
def test_a_stage_that_lies_is_caught(stage: Callable[[], Any], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_stage(stage())


def test_an_honest_stage_passes() -> None:
    assert REWARD in check_stage(ToyReward()) and REWARD in check_stage(Counting())


# terms ----------------------------------------------------------------------------------------------------------------


class LocalMean:
    """Normalises by what it happens to see."""

    reads = (LOGP, ADVANTAGE)

    def __call__(self, b: Batch) -> Any:
        return -b[ADVANTAGE] * b[LOGP] / b.size(TOKEN)


class NotRead:
    reads = (LOGP, ADVANTAGE, ENTROPY)

    def __call__(self, b: Batch) -> Any:
        return -b[ADVANTAGE] * b[LOGP]


class Averaged:
    reads = (LOGP, ADVANTAGE)

    def __call__(self, b: Batch) -> Any:
        return (-b[ADVANTAGE] * b[LOGP]).mean()


class LiveMetric:
    reads = (LOGP, ADVANTAGE)

    def __call__(self, b: Batch) -> Any:
        return -b[ADVANTAGE] * b[LOGP], {"logp": b[LOGP]}


class Logarithm:
    """Not a number where the advantage is negative."""

    reads = (LOGP, ADVANTAGE)

    def __call__(self, b: Batch) -> Any:
        return b[ADVANTAGE].log() * b[LOGP]


class NoFactor:
    """Says that nothing is learned without an advantage, and learns."""

    reads = (LOGP, ADVANTAGE)
    factors = (ADVANTAGE,)

    def __init__(self, offset: float):
        self.offset = offset

    def __call__(self, b: Batch) -> Any:
        logp = b[LOGP]
        return (self.offset - b[ADVANTAGE]) * logp + 0.1 * (logp - logp.detach())


@pytest.mark.parametrize(
    "loss, complaint",
    [(LocalMean(), "cut into micro-batches"), (NotRead(), "does not read it"), (Averaged(), "has values of shape"),
     (LiveMetric(), "carries a gradient"), (Logarithm(), "not finite"),
     (NoFactor(1.0), "has a value where it is 0"), (NoFactor(0.0), "has a gradient where it is 0")],
)  # fmt: skip
def test_a_term_that_lies_is_caught(loss: Any, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_term(Term("it", loss))


# curricula and environments -------------------------------------------------------------------------------------------


class Dice(Shuffled):
    """Draws from a generator that nobody saves."""

    def next(self, n: int) -> Any:
        return random.sample(super().next(6), n)


class Prying(Shuffled):
    def observe(self, group: Batch) -> None:
        assert group[REWARD] is not None


class Greedy(Shuffled):
    def next(self, n: int) -> Any:
        return super().next(n + 1)


@pytest.mark.parametrize("kind, complaint", [(Dice, "go on as before"), (Prying, "in `reads`"), (Greedy, "gave 4")])
def test_a_curriculum_that_lies_is_caught(kind: Any, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_curriculum(kind(toy_tasks(), 2))


class Invented(SingleTurn):
    """Makes up what the model said."""

    async def play(self, task: Task, roles: Any) -> Episode:
        record = Recorder(task)
        prompt = record.add((1, 2))
        record.judge([prompt, record.add((3,), prompt, author="solver")])
        return record.episode()


class Secretive(SingleTurn):
    """Judges, and does not say so."""

    async def play(self, task: Task, roles: Any) -> Episode:
        record = Recorder(task)
        prompt = record.add((1, 2))
        record.judge([prompt, record.sampled(Completion((3,), (-1.0,)), prompt)], reward=1.0)
        return record.episode()


class Moody(SingleTurn):
    async def play(self, task: Task, roles: Any) -> Episode:
        self.system = f"It is {random.random()}."
        return await super().play(task, roles)


class Nameless(SingleTurn):
    roles = ("solver", "judge")  # type: ignore[assignment]

    async def play(self, task: Task, roles: Any) -> Episode:
        record = Recorder(task)
        record.judge([record.add((1,))], role="umpire")
        return record.episode()


@pytest.mark.parametrize(
    "kind, complaint",
    [(Invented, "without log-probs"), (Secretive, "`writes`"), (Moody, "same seeds"), (Nameless, "umpire")],
)
def test_an_environment_that_lies_is_caught(kind: Any, complaint: str, exact_model: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_env(kind(), tmp_path, model=exact_model)


# whole runs -----------------------------------------------------------------------------------------------------------

PLAIN = Term("policy", Reinforce())
NOISE = Column("noise", TOKEN, "floating", "of this file")


class Noise:
    """Random numbers of nobody's seed."""

    reads = ()
    writes = (NOISE,)

    async def __call__(self, b: Batch) -> Batch:
        return b.put(NOISE, torch.rand(b.size(TOKEN), generator=torch.Generator().manual_seed(random.getrandbits(60))))


class Noisy(Reinforce):
    reads = (LOGP, ADVANTAGE, NOISE)

    def __call__(self, b: Batch) -> Any:
        return super().__call__(b) * b[NOISE]


def with_noise(policy: Policy) -> Method:
    return Method(on_group=[Advantage()], on_batch=[Noise()], terms=[Term("policy", Noisy())])


def with_local_mean(policy: Policy) -> Method:
    return Method(on_group=[Advantage()], terms=[Term("policy", LocalMean())])


def with_undeclared(policy: Policy) -> Method:
    return Method(on_group=[Advantage(), Peeking()], terms=[PLAIN])


def with_nothing_to_learn(policy: Policy) -> Method:
    return Method(on_group=[Advantage(scale=lambda b, r: torch.full_like(r, torch.inf))], terms=[PLAIN])


@pytest.mark.parametrize(
    "make, complaint",
    [(with_noise, "second run of the same seed"), (with_local_mean, "cut into micro-batches"),
     (with_undeclared, "without saying so"), (with_nothing_to_learn, "nothing was learned")],
)  # fmt: skip
def test_a_method_that_lies_is_caught(make: Any, complaint: str, exact_model: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_method(make, tmp_path, model=exact_model)


def test_a_judge_that_forgets_is_caught_at_the_resumed_step(exact_model: str, tmp_path: Path) -> None:
    def make(policy: Policy) -> Method:
        return Method(on_group=[Forgetful(), Advantage()], terms=[PLAIN])

    with pytest.raises(AssertionError, match="step 3 of the resumed run"):
        check_method(make, tmp_path, model=exact_model)
