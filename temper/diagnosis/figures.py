"""Reliability, coverage and cost of a run, as numbers that every report has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from temper.diagnosis.record import Record

COSTS = ("sampled_tokens", "trained_tokens", "scored_tokens", "judge_tokens", "judge_calls", "tool_calls",
         "forward_flops", "backward_flops", "evaluation_tokens", "evaluation_flops")  # fmt: skip


def reliability(r: Record) -> dict[str, float]:
    """How far rewards and scores can be trusted.

    answers  trajectories that were trained on or judged; judged: share of them with a reward
    verifier_disagreement, verifier_compared  of a second checker, where there is one
    evaluated, format_failures, half_interval  answers of the last evaluation, share that did not end by itself, and
                                               half the width of the interval of its pass@1
    """
    n = sum(map(r.size, r.trained))
    out: dict[str, float] = {"answers": float(n)}
    unjudged = r.points("frac_not_judged")
    if unjudged:
        size = {row["step"]: r.size(row) for row in r.trained}
        out["judged"] = 1 - sum(v * size[s] for s, v in unjudged) / max(1, sum(size[s] for s, _ in unjudged))
    compared = dict(r.points("verifier/compared"))
    if total := sum(compared.values()):
        apart = sum(v * compared.get(s, 0.0) for s, v in r.points("verifier/disagreement"))
        out |= {"verifier_disagreement": apart / total, "verifier_compared": total}
    after = r.summary.get("after") or {}
    tasks = list((after.get("tasks") or {}).values())
    if tasks:
        answers = [t.get("tasks", 0) * t.get("attempts", 0) for t in tasks]
        out["evaluated"] = float(sum(answers))
        failed = sum(a * t.get("format_failures", 0.0) for a, t in zip(answers, tasks))
        out["format_failures"] = failed / max(1, sum(answers))
    if interval := after.get("interval"):
        out["half_interval"] = (interval[1] - interval[0]) / 2
    return out


def coverage(r: Record) -> dict[str, float]:
    """Of the tasks: how many were in a batch, how many of these had an attempt that passed, how many there are.

    pool is absent for tasks that are made as they are asked for. distinct: share of attempts that differ from every
    other at their task. pass_k: of the last evaluation, mean over sources of pass@k for the largest k.
    """
    out = {}
    for name in ("seen", "solved"):
        if p := r.points(f"tasks/{name}"):
            out[name] = p[-1][1]
    if "seen" in out and "solved" in out:
        out["never_solved"] = out["seen"] - out["solved"]
    tasks = ((r.run.get("resolved") or {}).get("curriculum") or {}).get("tasks")
    size = tasks.get("length") if isinstance(tasks, Mapping) else len(tasks) if isinstance(tasks, list) else None
    if size:
        out["pool"] = float(size)
    if p := r.points("frac_duplicates"):
        out["distinct"] = 1 - sum(v for _, v in p) / len(p)
    best = [max(t["pass@k"].items(), key=lambda x: int(x[0])) for t in _evaluated(r) if t.get("pass@k")]
    if best:
        out |= {"pass_k": sum(v for _, v in best) / len(best), "k": float(min(int(k) for k, _ in best))}
    return out


def cost(r: Record) -> dict[str, Any]:
    """What was spent: the ledger's totals, wall seconds by stage, and tokens for an answer that passes.

    idle: wall seconds in which no model computed; tail: those in which a rollout waited for its last tenth.
    """
    ledger = r.summary.get("ledger") or {}
    last = r.trained[-1] if r.trained else {}
    totals = {k: ledger.get(k, last.get(f"ledger/total/{k}")) for k in COSTS}
    out: dict[str, Any] = {k: v for k, v in totals.items() if v}
    spent = r.summary.get("spent") or _sums(r, "timing_s/spent/")
    out["seconds"] = {k: round(v, 3) for k, v in spent.items()}
    if (idle := (ledger.get("seconds") or {}).get("idle")) is not None:
        out["idle"] = idle
    waited = dict(r.points("timing_s/rollout"))
    if tail := [v * waited.get(s, 0.0) for s, v in r.points("perf/tail_share")]:
        out["tail"] = round(sum(tail), 3)
    tokens = out.get("sampled_tokens") or sum(v for _, v in r.points("num_tokens")[-1:])
    passed = sum(v * r.size(row) for row in r.trained if (v := row.get("frac_passed")) is not None)
    if tokens and passed:
        out["tokens_per_pass"] = tokens / passed
    return out


def _evaluated(r: Record) -> list[Mapping[str, Any]]:
    return list(((r.summary.get("after") or {}).get("tasks") or {}).values())


def _sums(r: Record, prefix: str) -> dict[str, float]:
    rows = r.rows
    return {k.removeprefix(prefix): sum(row.get(k) or 0.0 for row in rows) for k in r.keys(prefix)}
