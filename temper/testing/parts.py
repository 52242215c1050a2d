"""Checks of single parts: do they touch what they declare, and nothing else; do they come back from a checkpoint?"""

from __future__ import annotations

import asyncio
import copy
import io
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from temper.backends.local import cut
from temper.carrier import Batch
from temper.columns import CORE, ENTROPY, GROUP, HIDDEN, LOGP, TOKEN, TRAJECTORY, Column, floating
from temper.objective import Term
from temper.request import Curriculum
from temper.stage import Stage
from temper.testing.toys import WIDTH, toy_batch, toy_group

Trace = set[tuple[str, str]]


# stages ---------------------------------------------------------------------------------------------------------------


def check_stage(stage: Stage, batch: Batch | None = None) -> Batch:
    """Run `stage` once and say what it misdeclares; returns its batch.

    batch  what it is run on (None: a toy batch with the columns that it says it reads)

    Checked: it reads only what it declares (`reads`, `uses`), all of `reads`, and writes `writes`, exactly; it leaves
    its input alone; a second one that gets its state does the same next.
    """
    name = title(stage)
    assert isinstance(stage, Stage), f"{name} is no stage: it needs `reads`, `writes` and `async def __call__`"
    b = toy_batch((*stage.reads, *getattr(stage, "uses", ()))) if batch is None else batch
    fresh = copy.deepcopy(stage) if hasattr(stage, "state_dict") else None
    before = {c.name: _copy(b[c]) for c in b.columns}
    trace: Trace = set()
    out = asyncio.run(stage(b.traced(trace)))
    check_touched(stage, b, out, trace)
    for column in b.columns:
        assert same(b[column], before[column.name]), f"{name} changes {column.name} in place: it must `put` a new one"
    if fresh is not None:
        check_memory(fresh, lambda s: list(asyncio.run(s(b))._columns.values()))
    return Batch(out.structure, out._columns)


def check_touched(stage: Any, b: Batch, out: Batch, trace: Trace, exact: bool = True) -> None:
    """Reads and writes of one call are the declared ones. exact: every declared read happened."""
    name, given = title(stage), {c.name for c in b.columns}
    reads = {n for kind, n in trace if kind == "read"} & given  # a column of its own making needs no declaration
    check_reads(name, reads, stage.reads, getattr(stage, "uses", ()), exact)
    wrote, declared = _written(b, out, trace), {c.name for c in stage.writes}
    assert wrote <= declared, f"{name} writes {_names(wrote - declared)} without saying so in `writes`"
    assert declared <= wrote, f"{name} declares {_names(declared - wrote)} in `writes`, and does not write it"


def check_reads(
    name: str, reads: set[str], declared: Iterable[Column], uses: Iterable[Column] = (), exact: bool = True
) -> None:
    required, allowed = {c.name for c in declared}, {c.name for c in uses}
    extra = reads - required - allowed
    assert not extra, f"{name} reads {_names(extra)} without saying so in `reads`"
    unread = required - reads
    assert not (exact and unread), f"{name} declares {_names(unread)} in `reads`, and does not read it"


def _written(b: Batch, out: Batch, trace: Trace) -> set[str]:
    """By identity where the rows are the same; else what the trace saw, or everything when the batch was built anew."""
    if out.structure is b.structure:
        return {n for n, (_, v) in out._columns.items() if n not in b._columns or b._columns[n][1] is not v}
    put = {n for kind, n in trace if kind == "write"}
    return put if out._trace is not None else put | {c.name for c in out.columns if c not in b}


# terms ----------------------------------------------------------------------------------------------------------------


def check_term(term: Term, batch: Batch | None = None) -> None:
    """Evaluate `term` once, whole and cut up, and say what is wrong with it.

    batch  with the columns that it reads, but for the live ones (None: a toy batch)

    Checked: its loss reads what it declares; values and metrics have a row for each row of its level; value and
    gradient are finite where the term applies, and the same for any cut of the batch (1e-12 in float64); both are 0
    where one of the columns is that it calls its `factors`.
    """
    name = f"term {term.name!r}"
    b = toy_batch(term.reads) if batch is None else batch
    for module in getattr(term.loss, "modules", ()):
        module.build(WIDTH)
        module.double()
    leaves, live = _live(b)
    _check_values(name, term, live)
    weights = Column(f"weight:{term.name}", term.level, floating)
    live = live.put(weights, term.weights(b).double())
    whole = _gradient(term, weights, [live], leaves)
    level = GROUP if term.level == GROUP else TRAJECTORY
    split = _gradient(term, weights, list(cut(live, 1, level)), leaves)
    for mine, other in zip(whole, split):
        gap = float((mine - other).abs().max())
        assert gap < 1e-12, f"{name} depends on how the batch is cut into micro-batches (by {gap:.1e})"
    for column in getattr(term.loss, "factors", ()):
        _check_factor(name, term, live, column, leaves)


def _check_factor(name: str, term: Term, live: Batch, column: Column, leaves: list[Tensor]) -> None:
    """Every second row of `column` is 0, and those rows of the term teach nothing."""
    off = torch.arange(live.size(column.level)) % 2 == 0
    some = live.put(column, live[column].masked_fill(off, 0.0))
    values, _ = term.values(some)
    mute = values[(some.at(column, term.level) == 0) & (term.live(some) > 0)]
    assert not bool((mute != 0).any()), f"{name} calls {column.name} a factor, and has a value where it is 0"
    grads = torch.autograd.grad(mute.sum(), leaves, allow_unused=True) if mute.requires_grad else []
    taught = any(bool((g != 0).any()) for g in grads if g is not None)
    assert not taught, f"{name} calls {column.name} a factor, and has a gradient where it is 0"


def _check_values(name: str, term: Term, live: Batch) -> None:
    trace: Trace = set()
    values, metrics = term.values(live.traced(trace))
    reads = {n for kind, n in trace if kind == "read"}
    reads -= {term.where.name} if term.where is not None else set()
    check_reads(name, reads, getattr(term.loss, "reads", ()), getattr(term.loss, "uses", ()))
    n = live.size(term.level)
    assert values.shape == (n,), f"{name} has values of shape {tuple(values.shape)} for {n} {term.level.name} rows"
    for key, rows in metrics.items():
        assert rows.shape == (n,), f"{name}: metric {key!r} has shape {tuple(rows.shape)} for {n} rows"
        assert not rows.requires_grad, f"{name}: metric {key!r} carries a gradient: detach it"
    kept = values[term.live(live) > 0]
    assert bool(kept.isfinite().all()), f"{name} is not finite on rows that it applies to"


def _live(b: Batch) -> tuple[list[Tensor], Batch]:
    """`b` with live columns that take gradients."""
    g, n = torch.Generator().manual_seed(1), b.size(TOKEN)
    leaves = []
    for column, shape in ((LOGP, (n,)), (ENTROPY, (n,)), (HIDDEN, (n, WIDTH))):
        x = torch.rand(shape, generator=g, dtype=torch.float64) + 0.05
        leaves.append((-x if column == LOGP else x).requires_grad_())
        b = b.put(column, leaves[-1])
    return leaves, b


def _gradient(term: Term, weights: Column, pieces: list[Batch], leaves: list[Tensor]) -> list[Tensor]:
    """[value, gradient by each live column] of Σ weights · values over the pieces."""
    total = torch.zeros((), dtype=torch.float64)
    for piece in pieces:
        values, _ = term.values(piece)
        w = piece[weights]
        total = total + (w * values.where(w > 0, torch.zeros_like(values))).sum()
    grads = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else [None] * len(leaves)
    out = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(grads, leaves)]
    assert all(bool(g.isfinite().all()) for g in out), f"term {term.name!r} has a gradient that is not finite"
    return [total.detach(), *out]


# curricula, and whatever else remembers --------------------------------------------------------------------------


def check_curriculum(curriculum: Curriculum) -> None:
    """Ask for work three times, playing it in between, and say what is wrong.

    Checked: it gives something at first, and never more than was asked for; every request has attempts and a task; it
    reads only what it declares of the groups that it observes; one that gets its state asks for the same next.
    """
    name = title(curriculum)
    assert _round(curriculum), f"{name}: next(3) gave nothing to play"
    if not hasattr(curriculum, "state_dict"):
        assert _plan(copy.deepcopy(curriculum)) == _plan(curriculum), f"{name} draws from a global random state"
        return
    check_memory(curriculum, _plan)


def _plan(curriculum: Curriculum) -> list[Any]:
    """What it asks for in two rounds."""
    return [(r.task.id, r.attempts, dict(r.params), len(r.also)) for _ in range(2) for r in _round(curriculum)]


def _round(curriculum: Curriculum) -> list[Any]:
    requests = curriculum.next(3)
    name = title(curriculum)
    assert len(requests) <= 3, f"{name}: next(3) gave {len(requests)} requests"
    known = {c.name for c in (*CORE, *getattr(curriculum, "reads", ()))}
    for request in requests:
        assert request.attempts >= 1, f"{name} asks for {request.attempts} attempts at {request.task.id!r}"
        trace: Trace = set()
        curriculum.observe(toy_group(request, getattr(curriculum, "reads", ())).traced(trace))
        extra = {n for _, n in trace} - known
        assert not extra, f"{name} reads {_names(extra)} without saying so in `reads`"
    return requests


def check_memory(part: Any, use: Callable[[Any], Any]) -> None:
    """`part` has memory: a copy that gets its state from disk goes on exactly as it does. `use` calls it once."""
    name, other = title(part), copy.deepcopy(part)
    use(part)
    other.load_state_dict(through_disk(part.state_dict(), name))
    assert same(part.state_dict(), other.state_dict()), f"{name}: state_dict of a restored one differs"
    assert same(use(part), use(other)), f"{name} does not go on as before from its state_dict"


def through_disk(state: Any, name: str = "a part") -> Any:
    """As a checkpoint keeps it: plain data and tensors, nothing that needs code to be loaded."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    try:
        return torch.load(file, weights_only=True)
    except Exception as error:
        raise AssertionError(f"state_dict of {name} holds more than plain data and tensors: {error}")


def same(x: Any, y: Any) -> bool:
    """Equal to the last bit, NaN where NaN, through lists, tuples and mappings."""
    if isinstance(x, Tensor):
        if not isinstance(y, Tensor) or x.dtype != y.dtype or x.shape != y.shape:
            return False
        return torch.equal(x, y) or bool(((x == y) | ((x != x) & (y != y))).all())
    if isinstance(x, dict):
        return isinstance(y, dict) and x.keys() == y.keys() and all(same(x[k], y[k]) for k in x)
    if isinstance(x, (list, tuple)):
        return type(x) is type(y) and len(x) == len(y) and all(same(a, b) for a, b in zip(x, y))
    return bool(x == y) or (x != x and y != y)


def title(part: Any) -> str:
    return getattr(part, "__name__", None) or type(part).__name__


def _copy(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) else list(x)


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
