"""Pathologies of what the policy says: always the same, too long, cut off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from temper.diagnosis.record import Absent, Finding, Record, share, span


@dataclass(frozen=True)
class AnswerCollapse:
    """One answer to different tasks.

    Limit 0.4 above the share that the most frequent right answer has: with yes-or-no tasks half of the answers are
    alike and right, so what counts is the excess.
    """

    limit: float = 0.4
    name: ClassVar[str] = "answer collapse"
    explains: ClassVar[tuple[str, ...]] = (
        "duplicate samples", "entropy collapse", "zero-signal groups", "constant reward",
    )  # fmt: skip
    lever: ClassVar[str] = (
        "That answer is rewarded too often, or was all that was rewarded: balance the tasks (`--data`), mend the reward"
        " (`--reward`), go back to an earlier checkpoint with a lower `--lr`, keep near the start (`--beta`) or keep"
        " entropy up (`temper.recipes.kl_cov`)."
    )

    def __call__(self, r: Record) -> Finding | None:
        top, expected = r.last("answers/top_share"), r.last("answers/expected_share")
        excess = top.mean - expected.mean
        if excess < self.limit:
            return None
        n = r.answers(top.steps)
        said = (
            f"In {span(top.steps)} {share(top.mean)} of all answers were one and the same, whatever the task; the most"
            f" frequent right answer would be {share(expected.mean)}."
        )
        return Finding(self.name, "alarm", said, self.lever, excess, self.limit, top.steps, n, "answers/top_share")


@dataclass(frozen=True)
class EntropyCollapse:
    """The policy has stopped to explore before the tasks were learned.

    Limit: a tenth of the entropy of the first steps, while the reward of the last quarter is not above that of the
    quarter before (95 %) and not near the highest seen. Entropy that falls because tasks are solved is
    learning: runs that work well fall to a quarter.
    """

    limit: float = 0.1
    name: ClassVar[str] = "entropy collapse"
    explains: ClassVar[tuple[str, ...]] = ("duplicate samples", "zero-signal groups")
    lever: ClassVar[str] = (
        "A lower `--lr`, a higher upper clip bound (`temper.recipes.dapo`), a penalty where entropy is lost"
        " (`temper.recipes.kl_cov`, `temper.recipes.clip_cov`), or a bonus on it (`temper.parts.losses.EntropyBonus`)."
    )

    def __call__(self, r: Record) -> Finding | None:
        start, q = r.first("entropy"), r.quarters("entropy")
        if len({round(w.mean, 9) for w in r.quarters("reward")}) == 1:
            raise Absent("a reward that can rise")  # that of a zero-sum game is always the same
        left = q[3].mean / max(start.mean, 1e-9)
        if left > self.limit or _solved(r) or r.improved("reward", q[2], q[3]):
            return None
        n = r.answers(q[3].steps)
        said = (
            f"Entropy fell from {start.mean:.3g} to {q[3].mean:.3g} nats a token ({share(left)}), and the reward no"
            f" longer rises in {span(q[3].steps)}."
        )
        return Finding(self.name, "alarm", said, self.lever, left, self.limit, q[3].steps, n, "entropy")


@dataclass(frozen=True)
class Duplicates:
    """Attempts at a task that are the same, id for id: they are paid for and compared with themselves.

    Limit 0.5 where the entropy of a whole answer is above 6 nats (400 equally likely answers), so that attempts should
    differ: then the sampler repeats itself. Else 0.9: a sure policy repeats itself rightly (runs that work well reach
    0.83 at 1 nat), but nine of ten is waste.
    """

    limit: float = 0.5
    sure: float = 0.9
    nats: float = 6.0
    name: ClassVar[str] = "duplicate samples"
    explains: ClassVar[tuple[str, ...]] = ("zero-signal groups",)
    lever: ClassVar[str] = (
        "The policy is far from sure, so attempts should differ: look for a random seed that all attempts share (a"
        " sampler's, or an environment that overrides `seed`)."
    )
    certain: ClassVar[str] = (
        "The policy is sure of its answers: raise `--temperature`, ask fewer `--attempts`, or take harder tasks"
        " (`--data`)."
    )

    def __call__(self, r: Record) -> Finding | None:
        same = r.last("frac_duplicates")
        nats = r.last("entropy").mean * r.last("completions/mean_length").mean
        limit = self.limit if nats > self.nats else self.sure
        if same.mean < limit:
            return None
        n = r.answers(same.steps)
        lever, level = (self.lever, "alarm") if nats > self.nats else (self.certain, "note")
        said = (
            f"In {span(same.steps)} {share(same.mean)} of the attempts repeated an earlier one at the same task word"
            f" for word; an answer has about {nats:.1f} nats of entropy."
        )
        return Finding(self.name, level, said, lever, same.mean, limit, same.steps, n, "frac_duplicates")


@dataclass(frozen=True)
class LengthBlowUp:
    """Answers get longer and longer, and no better.

    Limit: 1.8 times the length of the quarter in which answers were shortest, with a reward that has not risen since
    (95 %). Answers that grow with the reward (reasoning that begins to help) stay silent.
    """

    limit: float = 1.8
    name: ClassVar[str] = "length blow-up"
    explains: ClassVar[tuple[str, ...]] = ("truncation",)
    lever: ClassVar[str] = (
        "A price on length near the limit (`temper.parts.shaping.Overlong`), no division by each answer's own length"
        " (`temper.recipes.dr_grpo`), or every token equal (`temper.objective.token_mean`); see whether the reward"
        " looks at length."
    )

    def __call__(self, r: Record) -> Finding | None:
        q = r.quarters("completions/mean_length")
        shortest = min(q[:3], key=lambda w: w.mean)
        times = q[3].mean / max(shortest.mean, 1e-9)
        if times < self.limit or r.improved("reward", shortest, q[3]):
            return None
        n = r.answers(q[3].steps)
        said = (
            f"Answers grew from {shortest.mean:.0f} tokens in {span(shortest.steps)} to {q[3].mean:.0f} in"
            f" {span(q[3].steps)} ({times:.1f} times), and the reward did not rise."
        )
        chart = "completions/mean_length"
        return Finding(self.name, "alarm", said, self.lever, times, self.limit, q[3].steps, n, chart)


@dataclass(frozen=True)
class Truncation:
    """Answers cut off at the length limit: they are judged without their end.

    Limit 0.2: of five attempts one has no chance, so the group's comparison is about length as much as about content.
    """

    limit: float = 0.2
    name: ClassVar[str] = "truncation"
    explains: ClassVar[tuple[str, ...]] = ()
    lever: ClassVar[str] = (
        "Allow longer answers (`--max-tokens`), leave cut ones out of the loss (`temper.parts.gates.NotTruncated`), or"
        " price length before the limit (`temper.parts.shaping.Overlong`)."
    )

    def __call__(self, r: Record) -> Finding | None:
        cut = r.last("completions/clipped_ratio")
        if cut.mean < self.limit:
            return None
        n = r.answers(cut.steps)
        said = f"In {span(cut.steps)} {share(cut.mean)} of the answers were cut off at the length limit."
        chart = "completions/clipped_ratio"
        return Finding(self.name, "alarm", said, self.lever, cut.mean, self.limit, cut.steps, n, chart)


def _solved(r: Record) -> bool:
    """Whether the mean reward of the last window is near the highest reward that the run has seen."""
    top = max((v for _, v in r.points("reward_max")), default=None)
    if top is None:
        top = max((v for _, v in r.points("reward")), default=0.0)
    return bool(r.points("reward")) and r.last("reward").mean >= 0.8 * top > 0
