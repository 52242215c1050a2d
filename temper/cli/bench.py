"""`temper bench`: what a trained sample costs on this machine, beside TRL and beside the arithmetic it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from temper.errors import UserError, unknown


def bench(
    workloads: str = "A,B,C,D,E",
    size: Literal["1m", "5m"] = "1m",
    repeats: int = 5,
    peer: Literal["trl", "none"] = "trl",
    peer_settings: tuple[str, ...] = (),
    growth: bool = False,
    out: str = "bench",
) -> int:
    """Time training steps on random models, one thread, and write a table, a plot and the figures.

    workloads      A (short answers), B (heavy-tailed), C (long prompts), D (four turns), E (large vocabulary: memory)
    size           of the models, in parameters
    repeats        steps that are counted, of each side in turn
    peer           what is measured beside Temper; none: Temper alone
    peer_settings  name=value for the peer's own configuration (default: its defaults)
    growth         instead: seconds against size of everything that must not grow faster than it, and start-up times
    out            a folder for bench.json, bench.md and bench.svg (growth.json, …)
    """
    import os

    os.environ["OMP_NUM_THREADS"] = "1"
    from temper.bench import suite
    from temper.bench.workloads import WORKLOADS

    if growth:
        from temper.bench import growth as curves

        data = curves.measure(print)
        return _written(data, out, "growth", curves.page(data), curves.plot(data))
    names = [n.strip().upper() for n in workloads.split(",") if n.strip()]
    for name in names:
        if name not in WORKLOADS:
            raise unknown("workload", name, WORKLOADS)
    if repeats < 1 or not names:
        raise UserError("give at least one workload, and repeats of at least 1")
    data = suite.measure(names, size, repeats, peer, dict(map(_setting, peer_settings)), print)
    return _written(data, out, "bench", suite.page(data), suite.plot(data))


def _written(data: dict[str, object], out: str, name: str, page: str, plot: str) -> int:
    from temper.bench import suite

    suite.write(data, Path(out), name, page, plot)
    print(", ".join(f"{out}/{name}.{kind}" for kind in ("md", "svg", "json")))
    return 0


def _setting(text: str) -> tuple[str, object]:
    import ast

    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"a peer's setting is name=value, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value
