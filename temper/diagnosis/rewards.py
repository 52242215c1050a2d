"""Pathologies of rewards: nothing to learn from, nothing that can be trusted, or the wrong thing rewarded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from temper.diagnosis.record import Absent, Finding, Record, Window, figure, share, span


@dataclass(frozen=True)
class ConstantReward:
    """Every answer of the last window scored the same, over all tasks: no method can learn from that.

    Limit: a range of exactly 0. One different answer among hundreds is a signal; none in three steps or more is none.
    """

    name: ClassVar[str] = "constant reward"
    explains: ClassVar[tuple[str, ...]] = ("zero-signal groups", "dead gradient")
    lever: ClassVar[str] = (
        "Read a recorded answer beside its task. If it should have scored, the reward function is wrong (`--reward`, or"
        " its `--timeout`); if not, begin with easier tasks (`--data`), more `--attempts`, a reward with degrees, or"
        " demonstrations (`temper.recipes.sft`)."
    )

    def __call__(self, r: Record) -> Finding | None:
        low, high = _range(r)
        width = high.most - low.least
        if width > 0:
            return None
        steps, n = low.steps, r.answers(low.steps)
        said = f"All {n} of {span(steps)} scored {figure(low.least)}: nothing can be learned from them."
        return Finding(self.name, "alarm", said, self.lever, width, 0.0, steps, n, "reward")


@dataclass(frozen=True)
class ZeroSignal:
    """Groups whose attempts all score the same have no advantage: they cost tokens and teach nothing.

    Limit 0.8: one group in five carries the gradient. Runs that work well end at 0.4 to 0.6, because tasks are solved.
    """

    limit: float = 0.8
    name: ClassVar[str] = "zero-signal groups"
    explains: ClassVar[tuple[str, ...]] = ("dead gradient",)
    solved: ClassVar[str] = (
        "Nearly all of them are at the run's highest reward: take harder tasks (`--data`, or a curriculum that grows,"
        " `temper.parts.curricula.Growing`), or ask on until attempts differ (`temper.parts.signals.RewardVaries`, as"
        " `temper.recipes.dapo` does)."
    )
    lever: ClassVar[str] = (
        "Most of them are below the run's highest reward: more `--attempts`, easier tasks (`--data`), a reward with"
        " degrees, or ask on until attempts differ (`temper.parts.signals.RewardVaries`; `temper.recipes.dapo`)."
    )

    def __call__(self, r: Record) -> Finding | None:
        silent = r.last("frac_reward_zero_std")
        if (r.run.get("units") or {}).get("attempts per group") == 1 or _learns(r, silent):
            raise Absent("groups of several attempts")
        if played := r.points("frac_groups_without_signal"):
            asked = Window(played[-r.width :])
            silent = asked if asked.mean > silent.mean else silent
        if silent.mean < self.limit:
            return None
        done = _at_the_top(r)
        n = r.answers(silent.steps)
        said = f"In {span(silent.steps)} all attempts scored the same in {share(silent.mean)} of the groups."
        lever = self.solved if done else self.lever
        level = "note" if done else "alarm"
        return Finding(self.name, level, said, lever, silent.mean, self.limit, silent.steps, n, "frac_reward_zero_std")


@dataclass(frozen=True)
class NotJudged:
    """Answers without a reward because judging failed: it timed out, crashed, raised, or returned no number.

    Limit 0.05: a rare failure is normal for judges that run code, and leaves the answer out; one in twenty is a defect,
    and seldom hits good and bad answers alike.
    """

    limit: float = 0.05
    name: ClassVar[str] = "unparsable reward"
    explains: ClassVar[tuple[str, ...]] = ()
    lever: ClassVar[str] = (
        "The transcripts name the reason of each: mend the reward function for these answers (return a number, or None"
        " where it does not apply), or give it more time (`--timeout`)."
    )

    def __call__(self, r: Record) -> Finding | None:
        why = {k.rpartition("/")[2]: r.points(k) for k in r.keys("rewards/outcome/")}
        last = r.last("rewards/outcome/ok" if "ok" in why else "frac_not_judged")
        rows = [x for x in r.trained if last.steps[0] <= x["step"] <= last.steps[1]]
        if why:
            failed = {k: sum(v for s, v in p if s >= last.steps[0]) for k, p in why.items()}
            failed = {k: v / len(rows) for k, v in failed.items() if k not in ("ok", "not_applicable") and v}
        else:
            failed = {"unknown": last.mean}
        total = sum(failed.values())
        if total < self.limit:
            return None
        reasons = ", ".join(f"{k} {share(v)}" for k, v in sorted(failed.items(), key=lambda x: -x[1])[:3])
        n = r.answers(last.steps)
        said = f"In {span(last.steps)} {share(total)} of the judgements failed ({reasons})."
        return Finding(self.name, "alarm", said, self.lever, total, self.limit, last.steps, n, "frac_not_judged")


@dataclass(frozen=True)
class LengthReward:
    """Within a task, the longer (or shorter) answer is the better one: length is what is being learned.

    Limit |r| = 0.5 for the near end of the 95 % interval over steps, of the correlation inside groups: a quarter of the
    reward's variance. Where mistakes merely ramble, or answers stop too soon, it stays below 0.35.
    """

    limit: float = 0.5
    name: ClassVar[str] = "length-correlated reward"
    explains: ClassVar[tuple[str, ...]] = ()
    lever: ClassVar[str] = (
        "See whether the reward looks at length by accident (a format part, a substring that long answers hit). A price"
        " or a bound on length: `temper.parts.shaping.Overlong`; equal weight for every token, not every answer:"
        " `temper.objective.token_mean`."
    )

    def __call__(self, r: Record) -> Finding | None:
        c = r.last("length_reward_corr")
        if abs(c.surely) < self.limit:
            return None
        n = r.answers(c.steps)
        who = "longer" if c.mean > 0 else "shorter"
        said = (
            f"In {span(c.steps)} the {who} of two answers to a task scored more: length and reward correlate with"
            f" {c.mean:+.2f} inside groups."
        )
        return Finding(
            self.name, "alarm", said, self.lever, abs(c.surely), self.limit, c.steps, n, "length_reward_corr"
        )


@dataclass(frozen=True)
class VerifierDisagreement:
    """A second checker judges a sample of the answers otherwise than the reward does.

    Limit 0.05 for the lower end of the 95 % (Wilson) interval: noise of a few per cent costs speed, more of it is
    learned as if it were the task.
    """

    limit: float = 0.05
    name: ClassVar[str] = "verifier disagreement"
    explains: ClassVar[tuple[str, ...]] = ()
    lever: ClassVar[str] = (
        "Look at answers that one of the two passes: mend the looser checker, or train on the stricter (`--reward`;"
        " the second one is `--second-reward`, `temper.parts.second_opinion.SecondOpinion`)."
    )

    def __call__(self, r: Record) -> Finding | None:
        apart, compared = r.points("verifier/disagreement"), r.points("verifier/compared")
        if not compared:
            raise Absent("verifier/disagreement")
        many = dict(compared)
        n = sum(many.values())
        rate = sum(v * many.get(s, 0.0) for s, v in apart) / n
        if _wilson(rate, n) < self.limit:
            return None
        loose = [v for _, v in r.points("verifier/only_reward")]
        steps = (compared[0][0], compared[-1][0])
        said = f"A second checker judged {share(rate)} of {n:,.0f} answers otherwise" + (
            f"; {share(sum(loose) / len(loose))} passed only by the reward that is trained on." if loose else "."
        )
        samples = f"{n:,.0f} answers"
        return Finding(self.name, "alarm", said, self.lever, rate, self.limit, steps, samples, "verifier/disagreement")


@dataclass(frozen=True)
class Divergence:
    """The reward in training rises while held-out tasks get worse: what is rewarded is no longer what is wanted.

    Limit 0: the 95 % interval of the difference before/after lies below it (summary.json). Without one, pass@1 of the
    last evaluation is 0.1 below the best before it, which 64 tasks with 4 attempts do not do by chance.
    """

    drop: float = 0.1
    name: ClassVar[str] = "reward–evaluation divergence"
    explains: ClassVar[tuple[str, ...]] = ()
    lever: ClassVar[str] = (
        "Read answers with a high reward: the judge is gamed, or training tasks differ from held-out ones (`--data`,"
        " `--eval-data`). Stop at the best evaluation (`--eval-every`, `--save-every`); stay near the start (`--beta`);"
        " let a second checker watch (`--second-reward`)."
    )

    def __call__(self, r: Record) -> Finding | None:
        q = r.quarters("reward")
        tested = r.points("eval/pass@1", r.rows)
        interval = (r.summary.get("difference") or {}).get("interval")
        if len(tested) < 2 and not interval:
            raise Absent("eval/pass@1")
        if not r.improved("reward", q[0], q[3]):
            return None
        lost = -interval[1] if interval else 0.0
        fallen = max(v for _, v in tested[:-1]) - tested[-1][1] if len(tested) > 1 else 0.0
        if lost <= 0 and (fallen < self.drop or interval):
            return None
        how = f"{fallen:.2f} from its best."
        if interval:
            how = f"{-r.summary['difference']['pass@1']:.2f} (95 % interval {lost:.2f} to {-interval[0]:.2f})."
        said = (
            f"The reward in training rose from {q[0].mean:.2f} to {q[3].mean:.2f} while held-out pass@1 fell by {how}"
        )
        steps = (q[0].steps[0], q[3].steps[1])
        samples = f"{len(tested)} evaluations"
        value, limit = (lost, 0.0) if lost > 0 else (fallen, self.drop)
        return Finding(self.name, "alarm", said, self.lever, value, limit, steps, samples, "eval/pass@1")


def _range(r: Record) -> tuple[Window, Window]:
    """Lowest and highest reward of each step in the last window; of old records from the histogram."""
    if r.points("reward_min"):
        return r.last("reward_min"), r.last("reward_max")
    found = []
    for row in r.trained:
        h = row.get("hist/reward") or {}
        filled = [i for i, n in enumerate(h.get("counts") or ()) if n]
        if filled and row.get("reward") is not None:
            one = len(filled) == 1 and row.get("reward_std") == 0
            edges = (row["reward"],) * 2 if one else (h["edges"][filled[0]], h["edges"][filled[-1] + 1])
            found.append((row["step"], *edges))
    if len(found) < 3:
        raise Absent("reward_min")
    found = found[-r.width :]
    return Window([(s, a) for s, a, _ in found]), Window([(s, b) for s, _, b in found])


def _learns(r: Record, silent: Window) -> bool:
    """Whether there is a gradient without any signal in groups: then the method does not compare attempts."""
    norm = r.points("grad_norm")[-r.width :]
    return silent.least > 0.99 and bool(norm) and Window(norm).median > 1e-6


def _at_the_top(r: Record) -> bool:
    """Whether groups without spread score (nearly) the highest reward that the run has seen."""
    level, top = r.points("zero_std_reward"), r.points("reward_max")
    return bool(level and top) and Window(level[-r.width :]).mean >= 0.8 * max(v for _, v in top) > 0


def _wilson(p: float, n: float, z: float = 1.96) -> float:
    """Lower end of the 95 % interval of a share."""
    return (p + z * z / (2 * n) - z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n)
