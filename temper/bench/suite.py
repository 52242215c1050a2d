"""The suite: every workload, Temper and a peer step by step in turn, and what sampling needs at least."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from temper.bench import memory, roofline
from temper.bench.stepper import Loop, Stepper
from temper.bench.workloads import WORKLOADS, Workload, make_model, small

WARM_UP = 2  # steps that are not counted
PACKAGES = ("torch", "transformers", "trl")
Told = Callable[[str], None]


def measure(
    names: Sequence[str], size: str, repeats: int, peer: str, settings: dict[str, Any], tell: Told, tiny: bool = False
) -> dict[str, Any]:
    """All results with machine, versions and date. tiny: workloads of a second, for tests."""
    rows = []
    for name in names:
        workload = small(WORKLOADS[name]) if tiny else WORKLOADS[name]
        with tempfile.TemporaryDirectory() as folder, _quiet():
            model = make_model(Path(folder) / "model", workload, size)
            row = (
                _memory(workload, model, peer, tiny)
                if name == "E"
                else _speed(workload, model, repeats, peer, settings)
            )
        rows.append({"workload": name, "text": workload.text, "target": workload.target, **row})
        tell(line(rows[-1]))
    return {**where(), "size": size, "peer": peer, "settings": settings, "repeats": repeats, "workloads": rows}


def where() -> dict[str, Any]:
    """Date, versions and machine of a measurement."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {p: metadata.version(p) for p in PACKAGES if _installed(p)} | {"python": platform.python_version()},
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "threads": 1},
    }


def spelled(data: dict[str, Any]) -> str:
    """`where` in a line."""
    versions = ", ".join(f"{k} {v}" for k, v in data["versions"].items())
    return f"{data['date']}, {data['machine']['processor']}, {data['machine']['cores']} cores, one thread; {versions}."


def _speed(workload: Workload, model: str, repeats: int, peer: str, settings: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds of a trained sample on both sides, their ratio step by step, and sampling over its bare products."""
    from temper.bench import ours

    told: dict[str, dict[str, Any]] = {"temper": {}, peer: {}}
    sides: dict[str, Loop] = {"temper": ours.loop(workload, model, told["temper"])}
    if peer == "trl":
        from temper.bench import peer_trl

        sides["trl"] = peer_trl.loop(workload, model, told["trl"], **settings)
    steppers = {name: Stepper(loop) for name, loop in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for n in range(WARM_UP + repeats):
        for name, stepper in steppers.items():
            step = stepper.step()
            if n >= WARM_UP:
                seconds[name].append(step.cpu / workload.samples)
    for stepper in steppers.values():
        stepper.close()
    found: dict[str, Any] = {"unit": "CPU seconds a sample", "seconds": seconds}
    if peer in seconds:
        found |= _ratio([theirs / mine for mine, theirs in zip(seconds["temper"], seconds[peer])])
    if workload.turns == 1:
        found["sampling"] = roofline.sampling(model, workload, repeats)
    return found


def _memory(workload: Workload, model: str, peer: str, tiny: bool) -> dict[str, Any]:
    sides = ["temper", *([peer] if peer != "none" else [])]
    mib = {side: [memory.peak(side, model, workload, tiny)] for side in sides}
    found: dict[str, Any] = {"unit": "MiB a step", "mib": mib}
    return found | (_ratio([mib[peer][0] / mib["temper"][0]]) if peer in mib else {})


def _ratio(values: Sequence[float]) -> dict[str, float]:
    return {"ratio": statistics.median(values), "low": min(values), "high": max(values)}


def line(row: dict[str, Any]) -> str:
    """One workload for the terminal."""
    mine = statistics.median((row.get("seconds") or row.get("mib"))["temper"])
    amount = f"{mine:8.0f} MiB" if "mib" in row else f"{1e3 * mine:8.2f} ms "
    against = f"{row['ratio']:5.2f}× [{row['low']:.2f}, {row['high']:.2f}]" if "ratio" in row else "no peer"
    verdict = "" if "ratio" not in row else "reached" if row["ratio"] >= row["target"] else "not reached"
    least = f"   sampling {row['sampling']['ratio']:.2f}× its bare products" if "sampling" in row else ""
    return f"{row['workload']}  {row['text']:<38} {amount}  {against:<22} target {row['target']:.2f}× {verdict}{least}"


def page(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    settings = ", ".join(f"{k}={v}" for k, v in data["settings"].items()) or "defaults"
    lines = [
        f"Models of {data['size']} parameters, {spelled(data)}",
        f"Medians of {data['repeats']} steps in turn, in one process; smallest and largest ratio. Peer: {data['peer']} "
        f"({settings}).",
        "",
        "| workload | Temper | peer | times cheaper | target | sampling over bare products |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_page_row(r, data["peer"]) for r in data["workloads"]),
        "",
    ]
    return "\n".join(lines)


def _page_row(r: dict[str, Any], peer: str) -> str:
    values = r.get("seconds") or r["mib"]
    scale, unit, digits = (1.0, "MiB", 0) if "mib" in r else (1e3, "ms", 2)
    each = [
        f"{scale * statistics.median(values[s]):.{digits}f} {unit}" if s in values else "" for s in ("temper", peer)
    ]
    ratio = f"{r['ratio']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" if "ratio" in r else ""
    least = f"{r['sampling']['ratio']:.2f}" if "sampling" in r else ""
    return "| " + " | ".join([f"{r['workload']}: {r['text']}", *each, ratio, f"{r['target']:.2f}", least]) + " |"


def plot(data: dict[str, Any]) -> str:
    """Times cheaper than the peer as bars, with the targets as ticks: SVG."""
    rows = [r for r in data["workloads"] if "ratio" in r]
    most = max([*(r["high"] for r in rows), *(r["target"] for r in rows), 1.0]) * 1.1
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {40 * len(rows) + 40}" font-family="sans-serif">']
    out.append("<style>text{fill:#444;font-size:13px}@media(prefers-color-scheme:dark){text{fill:#ccc}}</style>")
    for n, r in enumerate(rows):
        y, x = 40 * n + 10, lambda v: 270 + 430 * v / most
        out += [
            f'<text x="260" y="{y + 17}" text-anchor="end">{r["workload"]}: {r["text"]}</text>',
            f'<rect x="270" y="{y}" width="{x(r["ratio"]) - 270:.1f}" height="24" rx="3" fill="#3b7dd8"/>',
            f'<line x1="{x(r["low"]):.1f}" x2="{x(r["high"]):.1f}" y1="{y + 12}" y2="{y + 12}" stroke="#123" />',
            f'<line x1="{x(r["target"]):.1f}" x2="{x(r["target"]):.1f}" y1="{y - 3}" y2="{y + 27}" stroke="#d8503b" />',
            f'<text x="276" y="{y + 17}" style="fill:#fff">{r["ratio"]:.2f}×</text>',
        ]
    foot = f"times cheaper than {data['peer']} (bar: median, line: smallest to largest, red: target)"
    return "\n".join([*out, f'<text x="270" y="{40 * len(rows) + 28}">{foot}</text>', "</svg>", ""])


def write(data: dict[str, Any], folder: Path, name: str, page: str, plot: str) -> None:
    """NAME.json, NAME.md and NAME.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    (folder / f"{name}.md").write_text(page)
    (folder / f"{name}.svg").write_text(plot)


def _installed(package: str) -> bool:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return bool(metadata.version(package))
    return False


def _processor() -> str:
    with contextlib.suppress(OSError):
        for row in Path("/proc/cpuinfo").read_text().splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    return platform.machine()


@contextlib.contextmanager
def _quiet() -> Any:
    """Both sides print progress; the table is what counts."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
