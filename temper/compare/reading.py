"""What the intervals of a comparison allow to say, in sentences and in groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from temper.compare.intervals import Spread

Json = Mapping[str, Any]
APART = "cannot be told apart"


def groups(scores: Mapping[str, float], alike: Set[frozenset[str]]) -> dict[str, str]:
    """{arm: letters}: arms that share a letter cannot be told apart, and arms that share none can.

    scores  {arm: pass@1}, the best group gets the letter a; alike: pairs that cannot be told apart
    A letter is a largest set of arms of which no two are told apart (compact letter display, Piepho 2004).
    """
    found = list[frozenset[str]]()

    def grow(inside: frozenset[str], may: set[str], seen: set[str]) -> None:
        if not may and not seen:
            found.append(inside)
        for arm in sorted(may):
            friends = {other for other in scores if frozenset((arm, other)) in alike}
            grow(inside | {arm}, may & friends, seen & friends)
            may, seen = may - {arm}, seen | {arm}

    grow(frozenset(), set(scores), set())
    ranked = sorted(found, key=lambda g: sorted(-scores[a] for a in g))
    names = [chr(97 + n) if n < 26 else f"{chr(97 + n // 26 - 1)}{chr(97 + n % 26)}" for n in range(len(ranked))]
    return {arm: " ".join(n for n, g in zip(names, ranked) if arm in g) for arm in scores}


def notes(arms: Sequence[Json], asked: int, axis: str, most: float, spread: Spread | None) -> list[str]:
    """What a reader must know before the numbers: runs that are missing or ended early, too few seeds, odd spreads."""
    out = []
    for n in range(asked):
        if few := [arm["label"] for arm in arms if len(arm["seeds"]) == n]:
            out.append(f"{', '.join(few)}: {n} of {asked} runs finished; the others are left out.")
    for arm in arms:
        if arm["short"]:
            got = min(arm["spent"][str(s)] for s in arm["short"])
            ended = f"{arm['label']}: {len(arm['short'])} runs ended by their own steps or tasks before the budget"
            out.append(f"{ended} ({got:,.0f} of {most:,.0f} {axis.replace('_', ' ')}): compute is not equal here.")
    if asked == 1:
        out.append("One seed says nothing about others: there are no intervals and no ranking.")
    elif asked < 5:
        out.append(f"{asked} seeds: intervals are wide where the seeds disagree; more seeds tell more than more tasks.")
    for label in sorted(spread.unlike) if spread else ():
        out.append(f"{label}: its runs differ more by seed than the others' do; it is judged by its own seeds alone.")
    return out


def reading(found: Json) -> list[str]:
    """The result in sentences."""
    arms = sorted((a for a in found["arms"] if a["seeds"]), key=lambda a: -a["pass@1"])
    pairs = [p if p["mean"] >= 0 else _turned(p) for p in found["pairs"]]
    if not pairs:
        return ["There is no pair of arms with a finished seed in common."]
    before = arms[0]["before"]
    start = "" if before is None else f" Before training it is {before:.3f}."
    low = f"the lowest {arms[-1]['label']}, {arms[-1]['pass@1']:.3f}"
    out = [f"Highest mean pass@1: {arms[0]['label']}, {arms[0]['pass@1']:.3f}; {low}.{start}"]
    order = [a["label"] for a in arms]
    told = [p for p in pairs if p["verdict"] != APART]
    for label in order:
        lost = sorted((p for p in told if p["arm"] == label), key=lambda p: order.index(p["against"]))
        out += [f"{label} beats {_listed([_beaten(p) for p in lost])}."] if lost else []
    return [*out, *_silence(pairs, told), *_multiplicity(pairs)]


def _silence(pairs: Sequence[Json], told: Sequence[Json]) -> list[str]:
    """What the runs do not say."""
    rest = [p for p in pairs if p["verdict"] == APART]
    known = [p for p in rest if p["low"] is not None]
    if not rest:
        return []
    if told:
        named = "; ".join(f"{p['arm']} and {p['against']}" for p in rest)
        few = f"Between these pairs the runs say nothing: {named}." if len(rest) <= 6 else ""
        out = [few or f"Between the arms of {len(rest)} other pairs the runs say nothing: arms that share a letter."]
    else:
        out = ["No arm can be told apart from another: about their order these runs say nothing."]
    if known:
        could = float(np.median([(p["high"] - p["low"]) / 2 for p in known]))
        most = max(max(abs(p["low"]), abs(p["high"])) for p in known)
        out.append(
            f"That is not to say that they are equal: a difference below about {could:.3f} could not have been shown,"
            f" and one of {most:.3f} is not excluded for every pair."
        )
    return out


def _multiplicity(pairs: Sequence[Json]) -> list[str]:
    known = [p for p in pairs if p["low"] is not None]
    if len(known) < 2:
        return []
    return [
        f"{len(known)} pairs were tested. What beats what is decided by p corrected over all of them (Holm): the chance"
        " that any of it is false is at most 5 %. The intervals are single ones: about one in twenty misses the truth."
    ]


def _beaten(p: Json) -> str:
    return f"{p['against']} by {p['mean']:.3f} [{p['low']:+.3f}, {p['high']:+.3f}]"


def _turned(p: Json) -> Json:
    """The same pair, seen from the other arm."""
    low, high = (None, None) if p["low"] is None else (-p["high"], -p["low"])
    return {**p, "arm": p["against"], "against": p["arm"], "mean": -p["mean"], "low": low, "high": high}


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
