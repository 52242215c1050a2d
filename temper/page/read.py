"""Read a run directory into the plain data that the report page shows.

Everything here forgives: what is missing is left out, what is unreadable is left out and named in `notes`. Everything
here is bounded by `Limits`, because a page is opened by a person: curves are averaged down to so many points, and so
many snapshots, groups, attempts and tokens of the recorded episodes are kept. What was cut is said on the page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

from temper.diagnosis import diagnose

Json = dict[str, Any]

_TURN_FIELDS = {"parent", "author", "version", "tokens", "ids", "sampled", "finish"}
_WHOLE_FILE = 32 << 20  # bytes: larger episode files are read at evenly spaced lines only


@dataclass(frozen=True)
class Limits:
    """How much of a run one page carries."""

    snapshots: int = 6
    """Recorded steps: the first, the last, and evenly spaced ones between."""
    groups: int = 16
    """Groups per recorded step, taken in turn from each split and source."""
    attempts: int = 64
    """Trajectories per group."""
    tokens: int = 200_000
    """Tokens of all recorded steps together; a step gets an equal share, and at least one group."""
    turn: int = 4_000
    """Tokens of one turn; of a longer one its beginning and end are kept."""
    points: int = 1_500
    """Points per curve; longer curves are averaged over neighbouring steps."""
    histograms: int = 200
    """Steps per distribution."""
    text: int = 40_000
    """Characters of one example answer."""
    noted: int = 600
    """Characters of one text that an environment noted about a trajectory, and of one token."""


@dataclass
class Notes:
    """What could not be read, in sentences, for the reader of the page."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Keep `line`, once."""
        if line not in self.lines:
            self.lines.append(line)


def read_run(run_dir: Path, limits: Limits | None = None) -> Json:
    """Everything the page shows of the run in `run_dir`, as JSON-ready data without NaN or infinities."""
    limits = limits or Limits()
    notes = Notes()
    rows, run, summary = objects(run_dir, notes)
    steps, curves, histograms = _columns(rows, limits)
    return {
        "name": run_dir.resolve().name,
        "run": clean(run),
        "summary": clean(_shorten_examples(summary, limits.text)),
        "finished": "after" in summary,
        "steps": steps,
        "curves": curves,
        "histograms": histograms,
        "episodes": list(_snapshots(run_dir / "episodes", limits, notes)),
        "diagnosis": clean(diagnose(rows, run, summary).to_json()),
        "notes": notes.lines,
    }


def objects(run_dir: Path, notes: Notes) -> tuple[list[Json], Json, Json]:
    """The records of metrics.jsonl, and the objects of run.json and summary.json; what is missing is empty."""
    run = _object(run_dir / "run.json", notes)
    summary = _object(run_dir / "summary.json", notes, expected=False)
    return _metrics(run_dir / "metrics.jsonl", notes), run, summary


# ---------------------------------------------------------------------------------------------------- plain values


def clean(value: Any) -> Any:
    """The same value with non-finite numbers as None and floats to six significant digits."""
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, int) and abs(value) < 1 << 63 else None


def _evenly(n: int, keep: int) -> list[int]:
    """`keep` indices out of `n`, evenly spaced, first and last included."""
    if n <= keep:
        return list(range(n))
    if keep <= 1:
        return [n - 1][:keep]
    return sorted({round(i * (n - 1) / (keep - 1)) for i in range(keep)})


# ------------------------------------------------------------------------------------------------------------ files


def _object(path: Path, notes: Notes, expected: bool = True) -> Json:
    """The JSON object in `path`; empty, with a note, when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        if expected:
            notes.add(f"{path.name} is missing.")
        return {}
    except (OSError, ValueError) as error:
        notes.add(f"{path.name} could not be read ({type(error).__name__}).")
        return {}
    if not isinstance(value, dict):
        notes.add(f"{path.name} holds no JSON object.")
        return {}
    return value


def _parse(lines: Iterable[bytes], name: str, notes: Notes) -> Iterator[Json]:
    """The JSON objects among `lines`; the rest are counted in a note."""
    broken = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            yield value
        else:
            broken += 1
    if broken:
        notes.add(f"{name}: {broken} unreadable line{'s' if broken > 1 else ''} left out.")


# ---------------------------------------------------------------------------------------------------------- metrics


def _metrics(path: Path, notes: Notes) -> list[Json]:
    """The records of `metrics.jsonl` by step; a step written again after a resume counts once, the later record."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        notes.add(f"{path.name} is missing.")
        return []
    by_step = {row["step"]: row for row in _parse(lines, path.name, notes) if _number(row.get("step")) is not None}
    return [by_step[step] for step in sorted(by_step)]


def _flat(row: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a record; a nested object's keys are joined with slashes, a histogram is one leaf."""
    for key, value in row.items():
        if isinstance(value, dict) and not ("edges" in value and "counts" in value):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _columns(rows: list[Json], limits: Limits) -> tuple[list[float], Json, Json]:
    """Steps; curves as {key: {"x": steps, "y": values}}; histograms as {key: [{"step", "edges", "counts"}]}."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    histograms: dict[str, list[tuple[float, Json]]] = {}
    for row in rows:
        step = row["step"]
        for key, value in _flat(row):
            if isinstance(value, dict):
                if _is_histogram(value):
                    histograms.setdefault(key, []).append((step, value))
            elif key != "step" and (number := _number(value)) is not None:
                xs, ys = curves.setdefault(key, ([], []))
                xs.append(step)
                ys.append(number)
    thinned = {key: _thin(xs, ys, limits.points) for key, (xs, ys) in curves.items()}
    kept = {key: [items[i] for i in _evenly(len(items), limits.histograms)] for key, items in histograms.items()}
    read = {key: [_histogram(step, value) for step, value in items] for key, items in kept.items()}
    return [row["step"] for row in rows], thinned, read


def _thin(xs: list[float], ys: list[float], points: int) -> Json:
    """At most `points` points: means over equal runs of neighbours."""
    if len(xs) > points:
        cuts = [i * len(xs) // points for i in range(points + 1)]
        spans = list(pairwise(cuts))
        xs, ys = ([float(f"{sum(v[a:b]) / (b - a):.6g}") for a, b in spans] for v in (xs, ys))
    return {"x": xs, "y": ys}


def _is_histogram(value: Json) -> bool:
    """Whether it has one more edge than counts, and the edges are numbers."""
    edges, counts = value.get("edges"), value.get("counts")
    if not isinstance(edges, list) or not isinstance(counts, list) or len(edges) != len(counts) + 1 or not counts:
        return False
    return all(isinstance(e, (int, float)) and -math.inf < e < math.inf for e in edges)


def _histogram(step: float, value: Json) -> Json:
    counts = [_number(c) or 0 for c in value["counts"]]
    return {"step": step, "edges": [_number(e) for e in value["edges"]], "counts": counts}


# --------------------------------------------------------------------------------------------------------- episodes


def _snapshots(folder: Path, limits: Limits, notes: Notes) -> Iterator[Json]:
    """The recorded steps that the page carries, each with its groups and how many there were."""
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    chosen = [files[i] for i in _evenly(len(files), limits.snapshots)]
    for path in chosen:
        candidates, total = _groups(path, limits, notes)
        budget = limits.tokens // len(chosen)
        groups: list[Json] = []
        for group in _varied(candidates, limits.groups):
            if groups and budget <= 0:
                break
            shown, used = _group(group, limits)
            groups.append(shown)
            budget -= used
        if groups:
            step = groups[0]["step"]
            yield {"step": step, "groups": groups, "total": total, "files": len(files)}


def _groups(path: Path, limits: Limits, notes: Notes) -> tuple[list[Json], int]:
    """Groups of one episodes file, with their number; a large file is read at evenly spaced lines."""
    try:
        with path.open("rb") as file:
            starts = [0]
            for line in file:
                starts.append(starts[-1] + len(line))
            total = len(starts) - 1
            few = starts[-1] > _WHOLE_FILE
            wanted = _evenly(total, 2 * limits.groups) if few else range(total)
            lines = _lines_at(file, [(starts[i], starts[i + 1]) for i in wanted])
            groups = [_shaped(group, path) for group in _parse(lines, f"episodes/{path.name}", notes)]
            return groups, total if few else len(groups)
    except OSError as error:
        notes.add(f"episodes/{path.name} could not be read ({type(error).__name__}).")
        return [], 0


def _lines_at(file: Any, spans: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """The bytes of each span."""
    for start, end in spans:
        file.seek(start)
        yield file.read(end - start)


def _shaped(group: Json, path: Path) -> Json:
    """The group with every field that the page relies on, of the right kind."""
    digits = "".join(c for c in path.stem if c.isdigit())
    task = group.get("task")
    return {
        "step": group["step"] if _number(group.get("step")) is not None else int(digits or 0),
        "split": str(group.get("split") or "train"),
        "task": task if isinstance(task, dict) else {"prompt": task},
        "turns": _dicts(group.get("turns")),
        "trajectories": _dicts(group.get("trajectories")),
    }


def _dicts(value: Any) -> list[Json]:
    """The value as a list of objects; what is no object becomes an empty one, so that indices stay right."""
    return [item if isinstance(item, dict) else {} for item in value] if isinstance(value, list) else []


def _varied(groups: list[Json], keep: int) -> list[Json]:
    """At most `keep` groups, taken in turn from each split and source; in the order of the file."""
    if len(groups) <= keep:
        return groups
    order = range(len(groups))
    splits = [_in_turn(_piles(split, lambda i: str(groups[i]["task"].get("source"))))
              for split in _piles(order, lambda i: groups[i]["split"])]  # fmt: skip
    return [groups[i] for i in sorted(_in_turn(splits)[:keep])]


def _piles(items: Iterable[int], key: Callable[[int], str]) -> list[list[int]]:
    """Items with equal keys together, in order of appearance."""
    piles: dict[str, list[int]] = {}
    for item in items:
        piles.setdefault(key(item), []).append(item)
    return list(piles.values())


def _in_turn(piles: list[list[int]]) -> list[int]:
    """The first of each pile, then the second of each, and so on."""
    return [item for layer in zip_longest(*piles) for item in layer if item is not None]


def _group(group: Json, limits: Limits) -> tuple[Json, int]:
    """The group as shown, and how many tokens that takes."""
    trajectories = [_trajectory(t, len(group["turns"]), limits.noted) for t in group["trajectories"]]
    kept = trajectories[: limits.attempts]
    needed = _with_ancestors({turn for t in kept for turn in t["turns"]}, group["turns"])
    if not trajectories:
        needed = set(range(len(group["turns"])))
    turns = [_turn(turn, limits.turn if i in needed else 0, limits.noted) for i, turn in enumerate(group["turns"])]
    shown = {**group, "task": clean(group["task"]), "turns": turns, "trajectories": kept, "attempts": len(trajectories)}
    return shown, sum(len(turn["tokens"]) for turn in turns)


def _with_ancestors(turns: set[int], all_turns: list[Json]) -> set[int]:
    """The turns and everything that was in their context."""
    seen: set[int] = set()
    todo = list(turns)
    while todo:
        i = todo.pop()
        if i not in seen:
            seen.add(i)
            parent = all_turns[i].get("parent", -1)
            if isinstance(parent, int) and 0 <= parent < len(all_turns):
                todo.append(parent)
    return seen


def _trajectory(trajectory: Json, turns: int, noted: int) -> Json:
    """A judged attempt; turn numbers that do not exist are dropped."""
    listed = trajectory.get("turns")
    valid = [i for i in listed if isinstance(i, int) and 0 <= i < turns] if isinstance(listed, list) else []
    rewards, info = trajectory.get("rewards"), trajectory.get("info")
    return {
        **{key: clean(value) for key, value in trajectory.items()},
        "turns": valid,
        "rewards": clean(rewards) if isinstance(rewards, dict) else {},
        "reward": _number(trajectory.get("reward")),
        "advantage": _number(trajectory.get("advantage")),
        "info": _shorten(clean(info), noted) if isinstance(info, dict) else {},
    }


def _turn(turn: Json, limit: int, piece: int) -> Json:
    """A turn with its tokens and aligned columns: any list as long as the tokens is a column, whatever its name."""
    pieces = turn.get("tokens")
    tokens = [_shorten(p if isinstance(p, str) else str(p), piece) for p in pieces] if isinstance(pieces, list) else []
    length = len(tokens)
    cut = _cut(length, limit)
    shown: Json = {key: clean(turn.get(key)) for key in ("parent", "author", "version", "finish")}
    shown |= {"sampled": bool(turn.get("sampled")), "length": length, "tokens": cut(tokens), "columns": {}}
    if (reward := _number(turn.get("reward"))) is not None:
        shown["reward"] = reward
    ids = turn.get("ids")
    if isinstance(ids, list) and len(ids) == length:
        shown["ids"] = cut([i if isinstance(i, int) else None for i in ids])
    if length > len(shown["tokens"]):
        shown["gap"] = len(shown["tokens"]) // 2
    for key, value in turn.items():
        aligned = key not in _TURN_FIELDS and isinstance(value, list) and 0 < length == len(value)
        if aligned and (column := _column(cut(value))) is not None:
            shown["columns"][key] = column
    return shown


def _cut(length: int, limit: int) -> Callable[[list[Any]], list[Any]]:
    """A function that keeps the beginning and the end of a list as long as the turn, `limit` items at most."""
    if length <= limit:
        return lambda values: values
    head = limit // 2
    tail = length - (limit - head)
    return lambda values: values[:head] + values[tail:]


def _column(values: list[Any]) -> list[Any] | float | None:
    """Numbers to four decimals, None where not finite; one number when all are the same; None when there are none."""
    try:
        rounded = [None if v is None or v - v != 0 else round(v, 4) for v in values]
    except TypeError:
        return None
    distinct = set(rounded)
    if len(distinct) == 1:
        return distinct.pop()
    return rounded


# --------------------------------------------------------------------------------------------------------- examples


def _shorten_examples(summary: Json, limit: int) -> Json:
    """The summary with example answers of bounded length."""
    examples = summary.get("examples")
    if not isinstance(examples, list):
        return {key: value for key, value in summary.items() if key != "examples"}
    return {**summary, "examples": [_shorten(example, limit) for example in examples[:12]]}


def _shorten(value: Any, limit: int) -> Any:
    """The value with every string inside it cut to `limit` characters."""
    if isinstance(value, str) and len(value) > limit:
        return f"{value[:limit]}… ({len(value) - limit:,} more characters)"
    if isinstance(value, dict):
        return {key: _shorten(item, limit) for key, item in value.items()}
    if isinstance(value, list):
        return [_shorten(item, limit) for item in value]
    return value
