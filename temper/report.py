"""The run directory: what a run writes while it lives, and the line it shows.

run.json  metrics.jsonl  episodes/step_000010.jsonl  checkpoints/  summary.json  report.html
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import temper
from temper import console, transcripts
from temper.carrier import Batch
from temper.columns import FINISH, GROUP, INFO, REWARD, ROLE, TASK, TOKEN, TRAJECTORY
from temper.diagnosis import diagnose
from temper.diagnosis import measure as extra
from temper.errors import UserError
from temper.parts.advantages import highest, lowest
from temper.parts.noted import means
from temper.replay import record as recorded
from temper.request import plays
from temper.trackers import Tracker, tracker

if TYPE_CHECKING:
    from temper.run import Run

PACKAGES = ("torch", "transformers", "numpy", "reasoning-gym", "peft", "datasets")

REMEMBERED = 1000  # records kept in memory


class Reporter:
    """Writes the run directory and shows progress. `out` None: nothing is written."""

    def __init__(self, run: Run):
        self.run = run
        self.tokens = 0.0  # sampled, over the whole run
        self.seconds = 0.0  # of steps, over the whole run
        self.spent: Counter[str] = Counter()  # wall seconds by stage, each moment once, over the whole run
        self.offset = 0  # bytes of metrics.jsonl that belong to finished, checkpointed steps
        self.history: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)  # the last records
        self.trackers: list[Tracker] = []
        self.line = console.Line(run.name, run.steps)
        self.seen, self.attempts = extra.Seen(), extra.Attempts()

    @property
    def folder(self) -> Path:
        return Path(self.run.out) if self.run.out is not None else Path(os.devnull)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Claim the directory. UserError when another run holds it, or has been there and --resume was not said."""
        if self.run.out is None:
            yield
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise UserError(f"cannot write to {self.folder} ({error.strerror}): choose another --out")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"another run is writing to {self.folder}: wait for it, or choose another --out")
            begun = (self.folder / "metrics.jsonl").exists() or self.checkpoints.exists()
            if begun and not self.run.resume:
                raise UserError(
                    f"{self.folder} holds a run already: continue it with --resume, or choose another --out"
                )
            described = describe(self.run)
            if not self.run.resume:  # a resumed run is described once its checkpoint fits
                self._write_json("run.json", described)
            self.trackers = [tracker(name)(self.folder, described) for name in self.run.trackers]
            try:
                yield
            finally:
                for each in self.trackers:
                    each.close()

    async def begin(self, start: int) -> None:
        """Forget what a killed run wrote after its last checkpoint, and measure the start."""
        if self.run.out is not None and self.run.resume:
            self._write_json("run.json", describe(self.run))
        if self.run.out is not None and (self.folder / "metrics.jsonl").exists():
            self.history = self._kept()
        self.line.begin(self.run, start)
        if hasattr(box := getattr(self.run.env, "toolbox", None), "timed"):
            box.timed = self.run.timed
        self.run.clock.take()
        if start == 0 and (found := await self._probe(0)):
            self.history.append({"step": 0, **found, **self._spent(evaluated=True)})
            self._append("metrics.jsonl", json.dumps(clean(self.history[-1])))
        self._record(start + 1)
        self._forget()

    def _forget(self) -> None:
        """What an evaluation counted and timed is not the next step's."""
        self.run.seconds, self.run.counts = {}, {}
        self.attempts.take()
        self.clock = time.perf_counter()

    def _kept(self) -> deque[dict[str, Any]]:
        """Records up to the checkpoint; what was written after it is cut off."""
        path = self.folder / "metrics.jsonl"
        with path.open("r+b") as f:
            f.truncate(min(self.offset, path.stat().st_size))
        try:
            with path.open(encoding="utf-8") as f:
                return deque(map(json.loads, f), maxlen=REMEMBERED)
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): move it away, and --resume")

    async def step(self, step: int, batch: Batch, metrics: list[dict[str, float]]) -> None:
        seconds = time.perf_counter() - self.clock
        self.seconds += seconds
        record = {"step": step, **measure(batch), **self.seen.add(batch), **_merge(self.run, metrics)}
        record |= extra.staleness(batch, {r: p.version - bool(metrics) for r, p in self._trained()})
        self.tokens += batch.size(TOKEN)
        record["num_tokens"] = self.tokens
        record |= {k: v for k, v in self.run.counts.items() if k.startswith("dropped/")}
        if self.run.counts.get("groups"):
            record["frac_groups_without_signal"] = self.run.counts["groups_without_signal"] / self.run.counts["groups"]
        record |= {f"timing_s/{k}": round(v, 4) for k, v in self.run.seconds.items()} | {
            "timing_s/step": round(seconds, 4)
        }
        record |= self.run.ledger.step({**self.run.seconds, "step": seconds})
        record |= self._spent()
        record["perf/tokens_per_s"] = batch.size(TOKEN) / max(1e-9, seconds)
        record |= self.attempts.take()
        self.run.seconds = {}
        if found := await self._probe(step):
            record |= found | self._spent(evaluated=True)
            if "evaluation" in self.run.seconds:
                record["timing_s/evaluation"] = round(self.run.seconds["evaluation"], 4)
        self.history.append(record)
        self._append("metrics.jsonl", json.dumps(clean(record)))
        for each in self.trackers:
            each.log(step, record)
        every = self.run.transcripts_every
        if self.run.out is not None and every and (step == 1 or step % every == 0 or step == self.run.steps):
            self._write(f"episodes/step_{step:06d}.jsonl", transcripts.lines(batch, step, self._tokenizer()))
        self._record(step + 1, batch)
        self.line.step(record)
        self._forget()

    async def finish(self) -> dict[str, Any]:
        """Final evaluation (when the last step did not make it), summary, page, table."""
        summary: dict[str, Any] = {"name": self.run.name, "seed": self.run.seed, "steps": self.run.steps}
        for probe in self.run.probes:
            if hasattr(probe, "comparison"):
                summary = {**probe.comparison(), **summary}
        summary |= {"seconds": round(self.seconds, 2), "tokens": self.tokens, "ledger": self.run.ledger.summary()}
        summary["spent"] = {stage: round(seconds, 3) for stage, seconds in self.spent.items()}
        summary |= {"budget": dict(self.run.budget)} if self.run.budget else {}
        found = diagnose(clean(self._records()), {"resolved": self._resolved()}, clean(summary))
        summary["diagnosis"] = found.to_json()
        if self.run.out is not None:
            self._write_json("summary.json", summary)
            from temper.page import write_report

            summary["report"] = str(write_report(self.folder))
            summary["out"] = str(self.folder)
        self.line.finish(summary)
        return summary

    def _record(self, next_step: int, batch: Batch | None = None) -> None:
        """For `temper replay`: the step that is over, and what the next one starts from."""
        if batch is not None and recorded.wanted(self.run, next_step - 1):
            recorded.save_batch(self.run, next_step - 1, batch)
        if next_step <= self.run.steps and recorded.wanted(self.run, next_step):
            recorded.save_before(self.run, next_step)

    def _records(self) -> list[dict[str, Any]]:
        """Those of the whole run; where nothing is written, the last ones."""
        path = self.folder / "metrics.jsonl"
        if self.run.out is None or not path.exists():
            return list(self.history)
        with path.open(encoding="utf-8") as f:
            return [json.loads(line) for line in f]

    def _resolved(self) -> dict[str, Any]:
        """What diagnosis reads of the resolved run: how many tasks the curriculum has."""
        tasks: Any = getattr(self.run.curriculum, "tasks", None)
        return {"curriculum": {"tasks": {"length": len(tasks)}}} if hasattr(tasks, "__len__") else {}

    def _spent(self, evaluated: bool = False) -> dict[str, float]:
        """Wall seconds since the last call, each moment once; of probes all of it is evaluation."""
        taken = self.run.clock.take()
        taken = {"evaluation": sum(taken.values())} if evaluated else taken
        self.spent.update(taken)
        return {f"timing_s/spent/{stage}": round(seconds, 4) for stage, seconds in taken.items()}

    async def _probe(self, step: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for probe in self.run.probes:
            if self.run.steps and plays(probe, step, self.run.steps):
                self.line.note("evaluating")
            with self.run.ledger.apart():
                found |= await probe(self.run, step) or {}
        self.line.evaluated(found)
        return found

    def _trained(self) -> list[tuple[str, Any]]:
        return [(role, policy) for role, policy in self.run.roles.items() if policy.trainable]

    def _tokenizer(self) -> Any:
        return next(iter(self.run.policies.values())).tokenizer

    # state and files -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        path = self.folder / "metrics.jsonl"
        offset = path.stat().st_size if self.run.out is not None and path.exists() else 0
        saved = {"tokens": self.tokens, "seconds": self.seconds, "offset": offset, "spent": dict(self.spent)}
        return {**saved, "seen": self.seen.state_dict()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.tokens, self.seconds, self.offset = saved["tokens"], saved["seconds"], saved["offset"]
        self.spent = Counter(saved.get("spent", {}))
        if "seen" in saved:
            self.seen.load_state_dict(saved["seen"])

    def _append(self, name: str, line: str) -> None:
        if self.run.out is not None:
            with self._disk(name), (self.folder / name).open("a") as f:
                f.write(line + "\n")

    def _write(self, name: str, lines: list[str]) -> None:
        path = self.folder / name
        with self._disk(name):
            path.parent.mkdir(exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8", errors="backslashreplace")
            os.replace(partial, path)

    def _write_json(self, name: str, value: Any) -> None:
        self._write(name, [json.dumps(clean(value), indent=1, ensure_ascii=False)])

    @contextlib.contextmanager
    def _disk(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write {self.folder / name} ({error.strerror}): free some space and --resume")


def measure(batch: Batch) -> dict[str, Any]:
    """What a batch looks like: rewards, zero-signal share, lengths (TRL's names)."""
    length = batch.count(TOKEN, TRAJECTORY)
    finish = [batch[FINISH][turns[-1]] for turns in batch.structure.paths if turns]
    record: dict[str, Any] = {
        "completions/mean_length": float(length.mean()),
        "completions/min_length": float(length.min()),
        "completions/max_length": float(length.max()),
        "completions/clipped_ratio": sum(f == "length" for f in finish) / max(1, len(finish)),
        "hist/length": extra.histogram(length.tolist()),
        "trajectories": float(len(length)),
    }
    record |= extra.answers(batch) | _noted(batch)
    if REWARD not in batch:
        return record
    r = batch[REWARD]
    centre = batch.spread(batch.mean(r, TRAJECTORY, GROUP), GROUP, TRAJECTORY)
    spread = r - centre.clamp(lowest(batch, r), highest(batch, r))  # equal rewards cancel exactly, whatever they are
    std = batch.mean(spread * spread, TRAJECTORY, GROUP).sqrt()
    record |= extra.rewards(batch, r, spread, std)
    std = std[~std.isnan()]
    judged = r[~r.isnan()]
    record |= {
        "reward": float(judged.mean()) if len(judged) else None,
        "reward_std": float(std.mean()) if len(std) else None,
        "frac_reward_zero_std": float((std == 0).float().mean()) if len(std) else None,
        "frac_not_judged": float(r.isnan().float().mean()),
        "hist/reward": extra.histogram(judged.tolist()),
    }
    for column in batch.columns:
        if column.name.startswith("reward@"):
            record[f"rewards/{column.name[7:]}/mean"] = _nanmean(batch[column])
    grouping = batch.by([batch[TASK][g].source for g in batch.structure.group.tolist()], TRAJECTORY)
    for source, value in zip(grouping.keys, grouping.mean(r).tolist()):
        record[f"by_source/{source}/reward"] = value
    for source, n in Counter(task.source for task in batch[TASK]).items():
        record[f"by_source/{source}/groups"] = float(n)
    roles = batch.by(ROLE, TRAJECTORY)
    if len(roles.keys) > 1:
        record |= {f"by_role/{k}/reward": v for k, v in zip(roles.keys, roles.mean(r).tolist())}
    return record


def _noted(batch: Batch) -> dict[str, float]:
    """Means of the numbers that the environment noted about its trajectories; a mapping of numbers is counts."""
    infos = batch[INFO]
    counts: Counter[str] = Counter()
    for info in infos:
        for key, value in (info or {}).items():
            if isinstance(value, Mapping):
                counts.update({f"{key}/{k}": n for k, n in value.items() if isinstance(n, (int, float))})
    return {f"env/{key}": v for key, v in (means(infos) | {k: n / len(infos) for k, n in counts.items()}).items()}


def describe(run: Run) -> dict[str, Any]:
    """run.json: the resolved run with versions, code revision and machine."""
    versions = {"temper": temper.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "recipe": run.name,
        "argv": list(run.argv),
        "seed": run.seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "code": revision(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "units": run.units(),
        "resolved": run.describe(),
    }


def revision() -> dict[str, Any]:
    """The git revision of Temper's own checkout, when it is one."""
    folder = Path(temper.__file__).parents[1]
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return {"revision": None}
    out = [subprocess.run(["git", "-C", str(folder), *c], capture_output=True, text=True, check=False)
           for c in (["rev-parse", "HEAD"], ["status", "--porcelain"])]  # fmt: skip
    if out[0].returncode != 0:
        return {"revision": None}
    return {"revision": out[0].stdout.strip(), "dirty": bool(out[1].stdout.strip())}


def free_folder(name: str, model: str, seed: int) -> Path:
    """runs/<name>-<model>-s<seed>, with a number behind it when that is taken."""
    stem = "-".join(filter(None, (name, re.sub(r"[^A-Za-z0-9.-]+", "-", Path(model).name), f"s{seed}")))
    taken = (Path("runs") / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 10_000))
    return next(p for p in taken if not p.exists())


def clean(x: Any) -> Any:
    """JSON has no NaN: null instead."""
    if isinstance(x, float):
        return x if x == x and abs(x) != float("inf") else None
    if isinstance(x, Mapping):
        return {str(k): clean(v) for k, v in x.items()}
    return [clean(v) for v in x] if isinstance(x, (list, tuple)) else x


def _merge(run: Run, metrics: list[dict[str, float]]) -> dict[str, Any]:
    """Metrics of updates (by policy when there are several), stages and curriculum."""
    out: dict[str, Any] = {}
    for update, m in zip(run.updates, metrics):
        prefix = "" if len(run.updates) == 1 else f"{update.policy.name}/"
        out |= {f"{prefix}{k}": v for k, v in m.items()}
    for part in (*run.on_group, *run.on_batch, run.curriculum, *(p.sampler for p in run.policies.values())):
        out |= getattr(part, "metrics", None) or {}
    return out


def _nanmean(x: Any) -> float | None:
    kept = x[~x.isnan()]
    return float(kept.mean()) if len(kept) else None
