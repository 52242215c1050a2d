"""The suite: every workload, Temper and a peer a step each in turn; what sampling needs at least; the loop's share."""

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

TUNED = "trl with settings"
WARM_UP = 2  # steps that are not counted
PACKAGES = ("torch", "transformers", "trl")
Told = Callable[[str], None]


def measure(
    names: Sequence[str],
    sizes: Sequence[str],
    repeats: int,
    peer: str,
    settings: dict[str, Any],
    tell: Told,
    tiny: bool = False,
) -> dict[str, Any]:
    """All results with machine, versions and date. tiny: workloads of a second, for tests."""
    rows = []
    for name, size in ((n, s) for s in sizes for n in names):
        workload = small(WORKLOADS[name]) if tiny else WORKLOADS[name]
        with tempfile.TemporaryDirectory() as folder, _quiet():
            model = make_model(Path(folder) / "model", workload, size)
            row = (
                _memory(workload, model, peer, tiny)
                if name == "E"
                else _speed(workload, model, repeats, peer, settings)
            )
        rows.append({"workload": name, "size": size, "text": workload.text, "target": workload.target, **row})
        tell(line(rows[-1]))
    return {**where(), "peer": peer, "settings": settings, "repeats": repeats, "workloads": rows}


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
    """CPU seconds of a trained sample on each side, their ratio step by step, sampling over its bare products, and the
    loop's share. The peer with `settings` of its own is a side beside the peer with its defaults."""
    from temper.bench import ours, overhead

    sides: dict[str, Loop] = {"temper": ours.loop(workload, model, {})}
    if peer == "trl":
        from temper.bench import peer_trl

        sides["trl"] = peer_trl.loop(workload, model)
        if settings:
            sides[TUNED] = peer_trl.loop(workload, model, **settings)
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
    against = {s: _ratio([b / a for a, b in zip(seconds["temper"], seconds[s])]) for s in sides if s != "temper"}
    found |= against.pop(peer, {})
    found |= {"tuned": against[TUNED]} if against else {}
    if workload.turns == 1:
        found["sampling"] = roofline.sampling(model, workload, repeats)
    return {**found, "loop": overhead.share(workload, model, repeats)}


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
    least += f", loop {row['loop']['ratio']:.1%}" if "loop" in row else ""
    what = f"{row['workload']} {row['size']}  {row['text']:<38}"
    return f"{what} {amount}  {against:<22} target {row['target']:.2f}× {verdict}{least}"


def page(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [spelled(data), f"Medians of {data['repeats']} steps in turn, in one process; smallest and largest ratio."]
    for size in dict.fromkeys(r["size"] for r in data["workloads"]):
        rows = [r for r in data["workloads"] if r["size"] == size]
        tuned = any("tuned" in r for r in rows)
        heads = ["workload", "Temper", data["peer"], "times cheaper", "target", *(["tuned peer"] if tuned else []),
                 "sampling over bare products", "loop"]  # fmt: skip
        lines += ["", f"Models of {size} parameters:", "", _cells(heads), _cells(["---"] * len(heads))]
        lines += [_cells(_page_row(r, data["peer"], tuned)) for r in rows]
    if data["settings"]:
        lines += ["", f"Tuned peer: {', '.join(f'{k}={v}' for k, v in data['settings'].items())}."]
    return "\n".join([*lines, ""])


def _cells(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def _page_row(r: dict[str, Any], peer: str, tuned: bool) -> list[str]:
    values = r.get("seconds") or r["mib"]
    scale, unit, digits = (1.0, "MiB", 0) if "mib" in r else (1e3, "ms", 2)
    each = [
        f"{scale * statistics.median(values[s]):.{digits}f} {unit}" if s in values else "" for s in ("temper", peer)
    ]
    shown = [_between(r) if "ratio" in r else "", f"{r['target']:.2f}"]
    shown += [_between(r["tuned"]) if "tuned" in r else ""] if tuned else []
    least = _between(r["sampling"]) if "sampling" in r else ""
    return [f"{r['workload']}: {r['text']}", *each, *shown, least, f"{r['loop']['ratio']:.1%}" if "loop" in r else ""]


def _between(x: dict[str, Any]) -> str:
    return f"{x['ratio']:.2f} [{x['low']:.2f}, {x['high']:.2f}]"


def plot(data: dict[str, Any]) -> str:
    """Times cheaper than the peer as bars, with the targets as ticks: SVG."""
    rows = [r for r in data["workloads"] if "ratio" in r]
    most = max([*(r["high"] for r in rows), *(r["target"] for r in rows), 1.0]) * 1.05
    height = 34 * len(rows) + 50
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" font-family="sans-serif">']
    out.append("<style>text{fill:#444;font-size:13px}.r{stroke:#123;stroke-width:1.5}"
               "@media(prefers-color-scheme:dark){text{fill:#ccc}.r{stroke:#eee}}</style>")  # fmt: skip
    for n, r in enumerate(rows):
        y, x = 34 * n + 10, lambda v: 310 + 380 * v / most
        out += [
            f'<text x="300" y="{y + 16}" text-anchor="end">{r["workload"]}: {r["text"]}, {r["size"]}</text>',
            f'<rect x="310" y="{y}" width="{x(r["ratio"]) - 310:.1f}" height="22" rx="3" fill="#3b7dd8"/>',
            f'<line x1="{x(r["low"]):.1f}" x2="{x(r["high"]):.1f}" y1="{y + 11}" y2="{y + 11}" class="r"/>',
            f'<line x1="{x(r["target"]):.1f}" x2="{x(r["target"]):.1f}" y1="{y - 3}" y2="{y + 25}" stroke="#d8503b" '
            'stroke-width="2"/>',
            f'<text x="316" y="{y + 16}" style="fill:#fff">{r["ratio"]:.2f}×</text>',
        ]
    foot = f"times cheaper than {data['peer']} (bar: median, line: smallest to largest, red: target)"
    return "\n".join([*out, f'<text x="310" y="{34 * len(rows) + 32}">{foot}</text>', "</svg>", ""])


def write(data: dict[str, Any], folder: Path, name: str, page: str, plot: str) -> None:
    """NAME.json, NAME.md, and NAME.svg where there is a plot."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    (folder / f"{name}.md").write_text(page)
    if plot:
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
