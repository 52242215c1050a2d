"""`temper bench`: what a trained sample costs on this machine, beside TRL and beside the arithmetic it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from temper.errors import UserError, unknown


def bench(
    workloads: str = "A,B,C,D,E",
    sizes: str = "1m",
    repeats: int = 5,
    peer: Literal["trl", "none"] = "trl",
    peer_settings: tuple[str, ...] = (),
    growth: bool = False,
    guesses: bool = False,
    out: str = "bench",
) -> int:
    """Time training steps on random models, one thread, and write a table, a plot and the figures.

    workloads      A (short answers), B (heavy-tailed), C (long prompts), D (four turns), E (large vocabulary: memory)
    sizes          of the models, in parameters: 1m, 5m, or both with a comma
    repeats        steps that are counted, of each side in turn
    peer           what is measured beside Temper; none: Temper alone
    peer_settings  name=value of the peer's own configuration: measured beside the peer with its defaults
    growth         instead: seconds against size of everything that must not grow faster than it, and start-up times
    guesses        instead: passes and CPU seconds of sampling with guesses of the next tokens, beside sampling without
    out            a folder for bench.json, bench.md and bench.svg (growth.json, …)
    """
    import os

    os.environ["OMP_NUM_THREADS"] = "1"
    from temper.bench import suite
    from temper.bench.workloads import SIZES, WORKLOADS

    if growth:
        from temper.bench import growth as curves

        data = curves.measure(print)
        return _written(data, out, "growth", curves.page(data), curves.plot(data))
    if guesses:
        from temper.bench import guesses as drafts

        data = drafts.measure(print, repeats)
        return _written(data, out, "guesses", drafts.page(data))
    names, of = ([n.strip() for n in text.split(",") if n.strip()] for text in (workloads.upper(), sizes))
    for what, given, known in (("workload", names, WORKLOADS), ("size", of, SIZES)):
        for name in given:
            if name not in known:
                raise unknown(what, name, known)
    if repeats < 1 or not names or not of:
        raise UserError("give at least one workload, and repeats of at least 1")
    data = suite.measure(names, of, repeats, peer, dict(map(_setting, peer_settings)), print)
    return _written(data, out, "bench", suite.page(data), suite.plot(data))


def _written(data: dict[str, object], out: str, name: str, page: str, plot: str = "") -> int:
    from temper.bench import suite

    suite.write(data, Path(out), name, page, plot)
    print(", ".join(f"{out}/{name}.{kind}" for kind in ("md", *(["svg"] if plot else []), "json")))
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
