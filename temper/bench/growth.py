"""What grows, and how fast: seconds against size for everything that has to stay linear, and start-up times."""

from __future__ import annotations

import gc
import io
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from temper.bench.suite import spelled, where
from temper.bridge import to_batch, to_episodes
from temper.carrier import Batch
from temper.columns import ADVANTAGE, GROUP, LOGP, REWARD, TOKEN, TRAJECTORY
from temper.episode import Episode, Recorder
from temper.parts.advantages import Advantage
from temper.parts.curricula import Shuffled
from temper.tasks.task import Task

Job = Callable[[], Any]  # what is timed
LINEAR = 1.2  # a fitted exponent above is more than linear (memory and caches cost something, too)
ANSWER, ATTEMPTS = 100, 8  # tokens of an answer, answers of a group
STARTS = {"temper --help": ("-m", "temper", "--help"), "temper list recipes": ("-m", "temper", "list", "recipes")}
STARTS |= {f"import {m}": ("-c", f"import {m}") for m in ("temper", "temper.page", "temper.tasks.task")}


@dataclass(frozen=True)
class Curve:
    """`prepare(n)` makes what is timed for size n; `each` says of what a size counts."""

    name: str
    each: str
    sizes: tuple[int, ...]
    prepare: Callable[[int], Job]


def measure(tell: Callable[[str], None]) -> dict[str, Any]:
    """Every curve, and the start-up times."""
    torch.set_num_threads(1)
    rows = []
    for curve in CURVES:
        rows.append(_measured(curve))
        tell(line(rows[-1]))
    started = {name: min(_started(words) for _ in range(3)) for name, words in STARTS.items()}
    for name, seconds in started.items():
        tell(f"{name:<36} {1e3 * seconds:8.0f} ms")
    return {**where(), "curves": rows, "starts": started}


def _measured(curve: Curve) -> dict[str, Any]:
    sizes, seconds = curve.sizes, list[float]()
    for n in sizes:
        job = curve.prepare(n)
        seconds.append(min(_timed(job) for _ in range(3 if n < sizes[-1] else 1)))
    return {"name": curve.name, "each": curve.each, "sizes": list(sizes), "seconds": seconds,
            "exponent": exponent(sizes, seconds)}  # fmt: skip


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """k of seconds = c · sizeᵏ, by least squares over logarithms, through the upper half of the sizes (3 at least)."""
    kept = max(3, math.ceil(len(sizes) / 2))
    x, y = ([math.log(v) for v in values[-kept:]] for values in (sizes, seconds))
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)


def _timed(job: Job) -> float:
    gc.collect()
    began = time.process_time()
    job()
    return time.process_time() - began


def _started(words: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True, check=True, timeout=60)
    return time.perf_counter() - began


# what is timed --------------------------------------------------------------------------------------------------------


def _curriculum(n: int) -> Job:
    tasks = [Task(str(i), "2+2=?") for i in range(n)]
    group = to_batch(_group(0, tasks[0]))

    def epoch() -> None:
        pulled = Shuffled(tasks, ATTEMPTS)
        for _ in range(n // 10):
            pulled.next(10)
            pulled.observe(group)

    return epoch


def _group(k: int, task: Task | None = None) -> list[Episode]:
    """Eight answers of ANSWER tokens to one task."""
    out = []
    for n in range(ATTEMPTS):
        record = Recorder(task or Task(str(k), "2+2=?"))
        prompt = record.add(range(20))
        record.judge([prompt, record.add(range(n, n + ANSWER), prompt, author="solver")], reward=float(n % 2))
        episode = record.episode()
        out.append(Episode(episode.task, episode.turns, episode.trajectories, str(k)))
    return out


def _episodes(n: int) -> list[Episode]:
    return [e for k in range(n // ATTEMPTS) for e in _group(k)]


def _batch(tokens: int) -> Batch:
    """A batch of so many tokens, by doubling."""
    groups = max(1, tokens // (ANSWER * ATTEMPTS))
    made = Batch.concat([to_batch(_group(k)) for k in range(min(groups, 16))])
    while made.size(GROUP) < groups:
        made = Batch.concat([made, made])
    made = made.select(torch.arange(made.size(GROUP)) < groups, GROUP)
    return made.put(LOGP.of("behaviour"), torch.zeros(made.size(TOKEN)))


def _carrier(tokens: int) -> Job:
    b = _batch(tokens)

    def operations() -> None:
        made = _finished(Advantage()(b))
        up = made.mean(made[ADVANTAGE], TOKEN, TRAJECTORY)
        made.spread(up, TRAJECTORY, TOKEN)
        made.spread(made.sum(made[REWARD], TRAJECTORY, GROUP), GROUP, TOKEN)
        made.select(torch.arange(made.size(TRAJECTORY)) % 2 == 0)
        Batch.concat([made, made])
        made.turns_of(0)

    return operations


def _finished(coroutine: Any) -> Any:
    """The value of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("it waits for something")


def _cut(tokens: int) -> Job:
    from temper.backends.local import cut

    b = _batch(tokens)
    return lambda: [None for _ in cut(b, 16384, TRAJECTORY, flat=True)]


def _to_batch(n: int) -> Job:
    episodes = _episodes(n)
    return lambda: to_batch(episodes)


def _to_episodes(n: int) -> Job:
    b = to_batch(_episodes(n))
    return lambda: to_episodes(b)


def _record(tokens: int) -> Job:
    from temper import transcripts
    from temper.models.tiny import tiny_tokenizer
    from temper.report import measure as record

    b, tokenizer = _batch(tokens), tiny_tokenizer()
    return lambda: (record(b), transcripts.lines(b, 1, tokenizer))


def _metrics_file(folder: Path, steps: int) -> None:
    from temper.report import measure as record

    row = {**record(to_batch(_group(0))), **{f"timing_s/{k}": 0.1 for k in ("rollout", "update", "step")}}
    tail = json.dumps(row)[1:] + "\n"
    with (folder / "metrics.jsonl").open("w") as f:
        f.writelines(f'{{"step": {n}, {tail}' for n in range(1, steps + 1))


def _resume(steps: int) -> Job:
    from temper.report import Reporter

    folder = Path(_scratch.name) / f"resume-{steps}"
    folder.mkdir(exist_ok=True)
    _metrics_file(folder, steps)

    class Run:
        name, out = "growth", folder
        steps: int

    Run.steps = steps
    reporter = Reporter(Run())  # type: ignore[arg-type]
    reporter.offset = (folder / "metrics.jsonl").stat().st_size
    return reporter._kept


def _page_of_steps(steps: int) -> Job:
    folder = Path(_scratch.name) / f"steps-{steps}"
    folder.mkdir(exist_ok=True)
    _metrics_file(folder, steps)
    return lambda: _report(folder)


def _page_of_episodes(n: int) -> Job:
    from temper import transcripts
    from temper.models.tiny import tiny_tokenizer

    folder = Path(_scratch.name) / f"episodes-{n}"
    (folder / "episodes").mkdir(parents=True, exist_ok=True)
    _metrics_file(folder, 10)
    rows = transcripts.lines(to_batch(_group(0)), 1, tiny_tokenizer())
    for step in range(1, 11):
        text = "\n".join(row.replace('"step": 1,', f'"step": {step},', 1) for row in rows * max(1, n // 10 // ATTEMPTS))
        (folder / "episodes" / f"step_{step:06d}.jsonl").write_text(text + "\n")
    return lambda: _report(folder)


def _report(folder: Path) -> None:
    from temper.page import write_report

    with redirect_stdout(io.StringIO()):
        write_report(folder)


_scratch = tempfile.TemporaryDirectory(prefix="temper-growth-")

CURVES = (
    Curve("curriculum: an epoch drawn and observed", "tasks", (1_000, 10_000, 100_000, 1_000_000), _curriculum),
    Curve("carrier: credit, sums, select, concat", "tokens", (10_000, 100_000, 1_000_000, 10_000_000), _carrier),
    Curve("micro-batches of 16,384 tokens", "tokens", (10_000, 100_000, 1_000_000, 10_000_000), _cut),
    Curve("episodes to a batch", "episodes", (80, 800, 8_000, 80_000), _to_batch),
    Curve("a batch to episodes", "episodes", (80, 800, 8_000, 80_000), _to_episodes),
    Curve("a step's record and transcript", "tokens", (10_000, 100_000, 1_000_000), _record),
    Curve("metrics read by a resumed run", "steps", (100, 1_000, 10_000, 100_000), _resume),
    Curve("report.html from metrics", "steps", (100, 1_000, 10_000, 100_000), _page_of_steps),
    Curve("report.html from transcripts", "episodes", (80, 800, 8_000, 80_000), _page_of_episodes),
)


# what is shown --------------------------------------------------------------------------------------------------------


def line(row: dict[str, Any]) -> str:
    """One curve for the terminal."""
    last, seconds = row["sizes"][-1], row["seconds"][-1]
    verdict = "" if row["exponent"] <= LINEAR else "   MORE THAN LINEAR"
    return f"{row['name']:<40} {last:>10,} {row['each']:<9} {seconds:8.3f} s   size^{row['exponent']:.2f}{verdict}"


def page(data: dict[str, Any]) -> str:
    """Curves and start-up times as Markdown tables."""
    return "\n".join(
        [
            spelled(data),
            "",
            "| what | sizes | CPU seconds | at the largest, each | exponent |",
            "| --- | --- | --- | --- | --- |",
            *(_page_row(r) for r in data["curves"]),
            "",
            "| start | seconds |",
            "| --- | --- |",
            *(f"| `{name}` | {seconds:.2f} |" for name, seconds in data["starts"].items()),
            "",
        ]
    )


def _page_row(r: dict[str, Any]) -> str:
    sizes = ", ".join(f"{n:,}" for n in r["sizes"])
    seconds = ", ".join(f"{s:.3g}" for s in r["seconds"])
    each = 1e6 * r["seconds"][-1] / r["sizes"][-1]
    return f"| {r['name']} | {sizes} {r['each']} | {seconds} | {each:.3g} µs | {r['exponent']:.2f} |"


def plot(data: dict[str, Any]) -> str:
    """Seconds against size, both logarithmic, with a line of slope 1 behind: SVG."""
    curves = data["curves"]
    sizes, seconds = ([v for c in curves for v in c[k]] for k in ("sizes", "seconds"))
    left, right = (math.log10(f(sizes)) for f in (min, max))
    low, high = math.log10(max(min(seconds), 1e-6)), math.log10(max(seconds))

    def at(n: float, s: float) -> str:
        x = 60 + 420 * (math.log10(n) - left) / (right - left)
        return f"{x:.1f},{300 - 280 * (math.log10(max(s, 1e-6)) - low) / (high - low):.1f}"

    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 340" font-family="sans-serif">']
    out.append("<style>text{fill:#444;font-size:12px}@media(prefers-color-scheme:dark){text{fill:#ccc}}</style>")
    for n in range(math.ceil(left), math.floor(right) + 1):
        x = at(10**n, 10**low).split(",")[0]
        out.append(f'<text x="{x}" y="320" text-anchor="middle">10{_raised(n)}</text>')
    for n in range(math.ceil(low), math.floor(high) + 1):
        y = at(10**left, 10**n).split(",")[1]
        out.append(f'<text x="52" y="{y}" text-anchor="end">{f"{10.0**n:g}"} s</text>')
        out.append(f'<line x1="60" x2="480" y1="{y}" y2="{y}" stroke="#8884"/>')
    for k, c in enumerate(curves):
        colour = f"hsl({k * 360 // len(curves)},65%,50%)"
        points = " ".join(at(n, s) for n, s in zip(c["sizes"], c["seconds"]))
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.append(
            f'<text x="500" y="{30 + 24 * k}" style="fill:{colour}">{c["name"]}, size^{c["exponent"]:.2f}</text>'
        )
    return "\n".join(
        [*out, '<text x="270" y="336" text-anchor="middle">tasks, tokens, episodes, steps</text></svg>', ""]
    )


def _raised(n: int) -> str:
    return str(n).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
