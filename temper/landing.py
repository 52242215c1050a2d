"""What is played for training lands on the bus: attempt by attempt, then as a group that went through the stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from temper.bus import Only
from temper.carrier import Batch
from temper.episode import Episode
from temper.play import attempt, staged, together
from temper.request import Request

if TYPE_CHECKING:
    from temper.run import Run


async def landed(run: Run, step: int, request: Request) -> Batch | None:
    """A request, played and judged; None when no attempt survived.

    Attempts and groups that had landed when a checkpoint was written are not played again.
    """
    group: Batch | None = await run.bus.peek(request.id, "batch")
    if group is not None:
        return group
    here = await run.bus.peek(request.id, "episode") or {}
    rows = list(enumerate(zip(run.rows(request), request.overrides())))
    await together(_land(run, request, n, row, overrides) for n, (row, overrides) in rows if row not in here)
    for found in await run.bus.take(f"stages {request.id}", "stages", step, Only(request.id)):
        async with run.floor.at("stages"):
            group = await staged(run, Batch.of(found["episode"].values()))
    if group is None:
        await run.bus.drop([request.id])
    else:
        await run.bus.put("batch", {request.id: group})
        run.news.set()
    return group


async def _land(run: Run, request: Request, n: int, row: str, overrides: Mapping[str, Any]) -> None:
    """One attempt; asked for again where weights that are too old sampled it."""
    for _ in range(run.rounds):
        async with run.floor.at("episodes"):
            episode = await attempt(run, request, n, overrides, run.seed)
        if isinstance(episode, str) or run.recent(episode):
            break
        run.count("dropped/stale", 1)
        episode = "stale"
    if isinstance(episode, Episode):
        tokens = sum(len(t.ids) for t in episode.turns)
        await run.bus.put("episode", {row: episode}, {row: tokens})
    else:
        run.count(f"dropped/{episode}", episode != "stale")
        await run.bus.drop([row])
