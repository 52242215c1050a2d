"""What a run shows on the terminal: a header, one live line, and a table of before and after."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from temper.diagnosis import render

if TYPE_CHECKING:
    from temper.run import Run

BARS = "▁▂▃▄▅▆▇█"


class Line:
    """The live line. On a terminal it is redrawn in place; in a log, about twenty lines are printed."""

    def __init__(self, name: str, steps: int):
        self.name, self.steps = name, steps
        self.live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.rewards: list[float] = []
        self.passed: float | None = None
        self.start = 0
        self.spent: Callable[[], float] | None = None  # share of the budget
        self.silent = 0  # steps in a row in which every group's attempts scored the same
        self.began = time.perf_counter()

    def begin(self, run: Run, start: int) -> None:
        self.start, self.steps = start, run.steps
        self.spent = (lambda: run.ledger.share(run.budget)) if run.budget else None
        units = run.units()
        size = f"{units['groups per step']} groups"
        if units.get("attempts per group"):
            size += f" × {units['attempts per group']} attempts"
        models = ", ".join(f"{n} = {p.model}" for n, p in run.policies.items())
        more = f", resumed at step {start}" if start else ""
        length = f"{run.steps} steps of {size}"
        if run.budget:
            length = f"steps of {size} until {amounts(run.budget)}"
        say(f"{bold(run.name)}  {models}  {length}, seed {run.seed}{more}")
        self.began = time.perf_counter()

    def note(self, text: str) -> None:
        if self.live:
            self._draw(f"{self.name}: {text} …")

    def evaluated(self, found: Mapping[str, float]) -> None:
        values = [v for k, v in found.items() if k.endswith("/pass@1") and k.count("/") == 1]
        if values:
            self.passed = values[0]

    def step(self, record: Mapping[str, Any]) -> None:
        step = record["step"]
        text = self._text(step, record)
        if self.live:
            self._draw(text)
        elif step == 1 or step == self.steps or step % (10 if self.spent else max(1, self.steps // 20)) == 0:
            say(text)

        self._explain(record)

    def _explain(self, record: Mapping[str, Any]) -> None:
        """Once: why nothing is learned, when that is so for three steps in a row."""
        self.silent = self.silent + 1 if record.get("frac_reward_zero_std") == 1.0 else 0
        if self.silent == 3:
            same = "0" if not record.get("reward") else "the same"
            say(
                f"{self._clear()}note: for three steps every answer to a task scored {same}, so nothing can be"
                " learned: try easier (or harder) tasks, more attempts, or a reward with degrees"
            )

    def _clear(self) -> str:
        return "\r\x1b[2K" if self.live else ""

    def _text(self, step: int, record: Mapping[str, Any]) -> str:
        parts = [f"step {step}" if self.spent else f"step {step:>{len(str(self.steps))}}/{self.steps}"]
        if record.get("reward") is not None:
            self.rewards.append(record["reward"])
            parts.append(f"reward {record['reward']:.2f} {spark(self.rewards)}")
        elif record.get("loss") is not None:
            parts.append(f"loss {record['loss']:.3f}")
        if record.get("frac_not_judged"):
            parts.append(f"not judged {record['frac_not_judged']:.0%}")
        if self.passed is not None:
            parts.append(f"pass@1 {self.passed:.2f}")
        if record.get("frac_reward_zero_std") is not None:
            parts.append(f"zero-signal {record['frac_reward_zero_std']:.0%}")
        parts.append(f"length {record['completions/mean_length']:.0f}")
        parts.append(f"{record['perf/tokens_per_s']:,.0f} tok/s")
        if self.spent:
            return "  ".join([*parts, f"{self.spent():.0%} of the budget"])
        left = (time.perf_counter() - self.began) / max(1, step - self.start) * (self.steps - step)
        return "  ".join([*parts, f"{clock(left)} left"])

    def _draw(self, text: str) -> None:
        width = shutil.get_terminal_size().columns
        sys.stdout.write("\r\x1b[2K" + text[: width - 1])
        sys.stdout.flush()

    def finish(self, summary: Mapping[str, Any]) -> None:
        sys.stdout.write(self._clear())
        for line in closing(summary):
            say(line)


def amounts(budget: Mapping[str, float]) -> str:
    """A budget in words."""
    return " or ".join(f"{n:,.0f} {axis.replace('_', ' ')}" for axis, n in budget.items())


def closing(summary: Mapping[str, Any]) -> list[str]:
    """The end of a run: table before/after, two examples, where the report is."""
    out = [""]
    if "difference" in summary:
        out += [*scores_table(summary), *not_judged(summary), "", *examples(summary.get("examples", []))]
    out.append(f"{summary['steps']} steps, {summary['tokens']:,.0f} sampled tokens, {clock(summary['seconds'])}")
    out += render.short((summary.get("diagnosis") or {}).get("findings", ()))
    if "report" in summary:
        out += [f"report    {summary['report']}", f"model     {summary['out']}/checkpoints/latest/model"]
    return out


def scores_table(summary: Mapping[str, Any]) -> list[str]:
    """pass@1 per task before and after, with the paired 95 % interval of the difference."""
    before, after, change = summary["before"], summary["after"], summary["difference"]
    rows = [["task", "", "before", "after", "change", "95 % interval"]]
    for name, b in before["tasks"].items():
        kind = "trained" if b["trained"] else "held out"
        rows.append([name, kind, *_scores(b, after["tasks"][name], change["tasks"][name])])
    rows.append(["mean pass@1", "", *_scores(before, after, change)])
    return table(rows)


def not_judged(summary: Mapping[str, Any]) -> list[str]:
    """A line when some answers have no reward: they are no pass, which says nothing about them."""
    before, after = (summary[when].get("not_judged", 0.0) for when in ("before", "after"))
    if not before + after:
        return []
    why = reasons(summary["after"]) or reasons(summary["before"])
    return [f"without a reward, and so no pass: {before:.1%} of the answers before, {after:.1%} after{why}"]


def reasons(scores: Mapping[str, Any]) -> str:
    """ " (the most frequent reason)"; "" when no reward failed."""
    why = next(iter(scores.get("failures") or ()), "")
    return f" ({shorten(why, 100)})" if why else ""


def _scores(b: Mapping[str, Any], a: Mapping[str, Any], d: Mapping[str, Any]) -> list[str]:
    low, high = d["interval"]
    return [f"{b['pass@1']:.3f}", f"{a['pass@1']:.3f}", f"{d['pass@1']:+.3f}", f"[{low:+.3f}, {high:+.3f}]"]


def examples(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Two answers, before and after."""
    out = []
    for e in found:
        prompt = e["task"]["prompt"]
        prompt = prompt if isinstance(prompt, str) else prompt[-1].get("content", "")
        out.append(
            f"{bold(e['task']['source'])}  {shorten(prompt, 160)}   (answer: {shorten(str(e['task']['answer']), 60)})"
        )
        for when in ("before", "after"):
            mark = "✓" if (e[when]["reward"] or 0) >= 0.99 else "✗"
            out.append(f"  {when:<7}{mark} {shorten(e[when]['text'], 160)}")
    return [*out, ""] if out else out


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned lines; the first is the header, the last is set apart."""
    text = aligned(rows)
    rule = "─" * len(text[0])
    return [bold(text[0]), rule, *text[1:-1], rule, bold(text[-1])]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, their first two columns to the left."""
    width = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]
    return ["  ".join(v.ljust(w) if c < 2 else v.rjust(w) for c, (v, w) in enumerate(zip(r, width))) for r in rows]


def spark(values: Sequence[float], width: int = 12) -> str:
    """The last values as a line of bars, scaled to what has been seen."""
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((v - low) * scale)] for v in values[-width:])


def shorten(text: str, n: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= n else f"{text[: n // 2 - 1]} … {text[-n // 2 + 2 :]}"


def clock(seconds: float) -> str:
    s = int(seconds + 0.5)
    return f"{s // 3600}:{s % 3600 // 60:02d}:{s % 60:02d}" if s >= 3600 else f"{s // 60}:{s % 60:02d}"


def bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def say(text: str) -> None:
    print(text, flush=True)
