"""Why a run went as it did: sentences with evidence and a lever, out of what the run recorded.

    from temper.diagnosis import diagnose
    found = diagnose(rows, run, summary)      # objects of metrics.jsonl, run.json, summary.json
    for f in found.findings: print(f.sentence, f.lever)

A pathology is a small dataclass with a rule (`temper.diagnosis.record.Pathology`); PATHOLOGIES are those that every
report is searched for, causes before what follows from them. Each can be injected: `temper.testing.pathologies`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from temper.diagnosis.answers import AnswerCollapse, Duplicates, EntropyCollapse, LengthBlowUp, Truncation
from temper.diagnosis.figures import cost, coverage, reliability
from temper.diagnosis.machinery import (
    Clipped,
    DeadGradient,
    Dropped,
    FrontierChasing,
    Mismatch,
    NonFinite,
    StaleRows,
    Stragglers,
)
from temper.diagnosis.record import Absent, Finding, Pathology, Record, attempt
from temper.diagnosis.rewards import (
    ConstantReward,
    Divergence,
    LengthReward,
    NotJudged,
    VerifierDisagreement,
    ZeroSignal,
)

PATHOLOGIES: tuple[Pathology, ...] = (
    NonFinite(), NotJudged(), Dropped(), Mismatch(), StaleRows(), AnswerCollapse(), ConstantReward(), Divergence(),
    VerifierDisagreement(), LengthReward(), LengthBlowUp(), EntropyCollapse(), FrontierChasing(), Duplicates(),
    ZeroSignal(), Truncation(), DeadGradient(), Clipped(), Stragglers(),
)  # fmt: skip


@dataclass(frozen=True)
class Diagnosis:
    """findings: alarms, then notes; silent: names that were looked for in vain; unchecked: {name: what was missing}."""

    findings: tuple[Finding, ...]
    silent: tuple[str, ...]
    unchecked: Mapping[str, str]
    reliability: Mapping[str, float]
    coverage: Mapping[str, float]
    cost: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def diagnose(
    rows: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    pathologies: Sequence[Pathology] = PATHOLOGIES,
) -> Diagnosis:
    """What a run's records say. A finding that another one explains is named there instead of on its own."""
    r = Record(rows, run or {}, summary or {})
    said = {p.name: (p, attempt(p, r)) for p in pathologies}
    fired = {name: f for name, (_, f) in said.items() if isinstance(f, Finding)}
    causes = {name: [e for e in said[name][0].explains if e in fired and e != name] for name in fired}
    explained = {e for effects in causes.values() for e in effects}
    findings = [replace(f, also=tuple(causes[name])) for name, f in fired.items() if name not in explained]
    return Diagnosis(
        findings=tuple(sorted(findings, key=lambda f: f.level != "alarm")),
        silent=tuple(name for name, (_, f) in said.items() if f is None),
        unchecked={name: str(f.args[0]) for name, (_, f) in said.items() if isinstance(f, Absent)},
        reliability=reliability(r),
        coverage=coverage(r),
        cost=cost(r),
    )


__all__ = ["PATHOLOGIES", "Diagnosis", "Finding", "Pathology", "Record", "diagnose"]
