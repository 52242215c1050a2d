"""The whole program. Everything else is a part that is called from here.

curriculum ─ requests ─▶ play ─ episodes ─▶ on_group stages ─▶ curriculum.observe
                                                 │  (until enough groups carry signal)
                          batch ◀────────────────┘
batch ─▶ on_batch stages ─▶ updates ─▶ publish weights ─▶ report, probes, checkpoint
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from temper.backends.base import ContextFull
from temper.carrier import Batch
from temper.columns import GROUP
from temper.episode import Episode
from temper.errors import UserError
from temper.policy import Seat
from temper.request import Drop, Request
from temper.run import Run

T = TypeVar("T")


async def train(run: Run) -> dict[str, Any]:
    """Run to the end (or on from a checkpoint); returns the summary that is also in summary.json."""
    async with run.opened() as start:
        async for step, batch in collect(run, start):
            for stage in run.on_batch:
                batch = await run.apply(stage, batch)
            metrics = [run.update(update, batch, step) for update in run.updates]
            await run.publish(metrics)
            await run.report(step, batch, metrics)
        return await run.finish()


async def train_all(phases: list[Run]) -> list[dict[str, Any]]:
    """Phases one after another; each starts from the weights that the one before it left, where the recipe says so."""
    return [await train(run) for run in phases]


async def collect(run: Run, start: int) -> AsyncIterator[tuple[int, Batch]]:
    """(step, batch) in order. Batch t was sampled by weights at most `run.ahead` updates old; 0 is the plain loop."""
    step = start
    while step < run.steps:  # a budget may end the run sooner
        while len(run.queue) <= run.ahead and step + len(run.queue) < run.steps:
            with run.timed("rollout"):
                run.queue.append(await gather(run))
        yield step, run.queue.popleft()
        step += 1


async def gather(run: Run) -> Batch:
    """Play requests until `run.groups` of them carry signal; the curriculum observes each, in the order of asking."""
    kept: list[Batch] = []
    held = 0
    for _ in range(run.rounds):
        requests = [run.numbered(r) for r in run.curriculum.next(run.groups - held)]
        if not requests:
            break
        for group in await together(play(run, r) for r in requests):
            if group is None:
                continue
            run.curriculum.observe(group)
            signal = run.signal is None or run.signal(group)
            run.count("groups", 1)
            run.count("groups_without_signal", 0 if signal else 1)
            held += signal
            if signal or run.keep_silent:
                kept.append(group)
        if held >= run.groups:
            break
    if not kept:
        what = f"no group carried signal in {run.rounds} rounds of sampling" if requests else "there are no more tasks"
        raise UserError(f"{what}{run.excuse()}")
    return Batch.concat(kept)


async def play(run: Run, request: Request) -> Batch | None:
    """All attempts at a request, as a batch that went through the on_group stages; None when no attempt survived."""
    group = await attempts(run, request, run.seed)
    if group is None:
        return None
    for stage in run.on_group:
        group = await run.apply(stage, group)
    return group if group.size(GROUP) else None


async def attempts(run: Run, request: Request, seed: int) -> Batch | None:
    """All attempts at a request as a batch; None when every one was dropped."""
    episodes = await together(attempt(run, request, n, o, seed) for n, o in enumerate(request.overrides()))
    alive = [e for e in episodes if isinstance(e, Episode)]
    for reason, n in Counter(e for e in episodes if isinstance(e, str)).items():
        run.count(f"dropped/{reason}", n)
    return Batch.of(alive) if alive else None


async def attempt(run: Run, request: Request, n: int, overrides: Mapping[str, Any], seed: int) -> Episode | str:
    """One play, or the reason why it was dropped."""
    seats = {
        role: Seat(role, policy, run.sampling.but(**overrides), seed, (request.split, request.id, n))
        for role, policy in run.roles.items()
    }
    try:
        with run.reporter.attempts.one():
            episode = await run.ledger.played(run.env.play, request.task, seats)
    except Drop as drop:
        return drop.reason
    except ContextFull:
        return "prompt too long"
    except UserError:
        raise
    except Exception as error:
        what = f"{type(run.env).__name__} failed on task {request.task.id!r}"
        raise UserError(f"{what}: {type(error).__name__}: {error}") from error
    return replace(episode, request=request.id, split=request.split)


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Their results in order; when one fails, the others are cancelled and over before its error goes on."""
    tasks = [asyncio.ensure_future(c) for c in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
