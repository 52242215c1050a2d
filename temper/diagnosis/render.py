"""A diagnosis as text: for the terminal, and the tables of the docs (`python -m temper.diagnosis.render`)."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from temper.diagnosis import PATHOLOGIES, Diagnosis, Finding
from temper.diagnosis.figures import COSTS
from temper.diagnosis.record import figure, share

MARKS = {"alarm": "!", "note": "·"}
UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def lines(found: Diagnosis, width: int = 100) -> list[str]:
    """What `temper explain` prints."""
    out: list[str] = []
    for f in found.findings:
        out += [
            f"{MARKS[f.level]} {f.name}",
            *_wrapped(said(f), width),
            *_wrapped(f.lever, width),
            "",
        ]
    if not found.findings:
        out += ["nothing out of the ordinary", ""]
    out.append(f"looked for in vain: {', '.join(found.silent) or 'nothing'}")
    if found.unchecked:
        missing = ", ".join(f"{name} ({what})" for name, what in found.unchecked.items())
        out.append(f"could not be looked for, for want of what is in brackets: {missing}")
    out += ["", *figures(found)]
    return [line for text in out for line in (_wrapped(text, width, "") if len(text) > width else [text])]


def said(f: Finding) -> str:
    """The sentence with what it rests on, and what else follows."""
    more = f" It explains: {', '.join(f.also)}." if f.also else ""
    return f"{f.sentence} ({f.samples}; limit {figure(f.limit)}, here {figure(f.value)}.){more}"


def short(findings: Iterable[Mapping[str, Any]], most: int = 3) -> list[str]:
    """A few lines for the end of a run."""
    kept = list(findings)
    out = [f"{MARKS[f['level']]} {f['sentence']}" for f in kept[:most]]
    return [*out, f"  and {len(kept) - most} more: temper explain"] if len(kept) > most else out


def figures(found: Diagnosis) -> list[str]:
    """Reliability, coverage and cost in a line each."""
    r, c, k = found.reliability, found.coverage, found.cost
    trust = [f"{r['answers']:,.0f} answers"]
    trust += [f"{share(r['judged'])} judged"] if "judged" in r else []
    if "verifier_compared" in r:
        trust.append(
            f"a second checker differs on {share(r['verifier_disagreement'])} of {r['verifier_compared']:,.0f}"
        )
    trust += [f"pass@1 to ±{r['half_interval']:.3f}"] if "half_interval" in r else []
    trust += [f"{share(r['format_failures'])} of the evaluated did not end"] if "format_failures" in r else []
    reach = []
    if "seen" in c:
        pool = f" of {c['pool']:,.0f} ({share(c['seen'] / c['pool'])})" if c.get("pool") else ""
        reach.append(f"{c['seen']:,.0f} tasks seen{pool}")
    reach += [f"{c['solved']:,.0f} solved at least once, {c['never_solved']:,.0f} never"] if "solved" in c else []
    reach += [f"{share(c['distinct'])} of the attempts distinct"] if "distinct" in c else []
    reach += [f"pass@{c['k']:.0f} {c['pass_k']:.2f}"] if "pass_k" in c else []
    paid = [f"{amount(k[name])} {name.replace('_', ' ')}" for name in COSTS if name in k]
    paid += [f"{k['tokens_per_pass']:,.0f} tokens for an answer that passes"] if "tokens_per_pass" in k else []
    time = [f"{stage} {seconds:,.1f} s" for stage, seconds in sorted(k["seconds"].items(), key=lambda x: -x[1])]
    time += [f"no model at work {k['idle']:,.1f} s"] if "idle" in k else []
    time += [f"waiting for stragglers {k['tail']:,.1f} s"] if "tail" in k else []
    named = {"reliability": trust, "coverage": reach, "cost": paid, "time": time}
    return [f"{name:<13}{', '.join(parts)}" for name, parts in named.items() if parts]


def amount(x: float) -> str:
    size, letter = next((u for u in UNITS if abs(x) >= u[0]), (1.0, ""))
    return f"{x / size:.3g}{letter}"


def table() -> str:
    """The pathologies as a Markdown table: name, what it is, when it fires, lever."""
    rows = ["| Pathology | What it is | When it fires, and why there | What to do |", "| --- | --- | --- | --- |"]
    for p in PATHOLOGIES:
        doc = inspect.cleandoc(type(p).__doc__ or "")
        what, _, why = doc.partition("\n\n")
        rows.append(f"| {p.name} | {_flat(what)} | {_flat(why)} | {p.lever} |")
    return "\n".join(rows)


def confusion(fired: Mapping[str, Mapping[str, Iterable[str]]]) -> str:
    """Injection → what was found, as a Markdown table."""
    rows = ["| Injected | Found | which explains |", "| --- | --- | --- |"]
    for name, found in fired.items():
        also = ", ".join(dict.fromkeys(e for effects in found.values() for e in effects))
        rows.append(f"| {name} | {', '.join(found) or '–'} | {also or '–'} |")
    return "\n".join(rows)


def _wrapped(text: str, width: int, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent="  ")


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|r|", "of r in size")


if __name__ == "__main__":
    print(table())
