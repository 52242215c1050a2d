"""The whole program. Everything else is a part that is called from here.

curriculum ─ requests ─▶ play ─ episodes ─▶ on_group stages ─▶ curriculum.observe
                                                 │  (until enough groups carry signal)
                          batch ◀── bus ◀────────┘
batch ─▶ on_batch stages ─▶ updates ─▶ publish weights ─▶ report, probes, checkpoint
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from temper.carrier import Batch
from temper.errors import UserError
from temper.landing import landed
from temper.play import attempt, attempts, play, together  # noqa: F401 (how a request is played)
from temper.run import Ask, Run


async def train(run: Run) -> dict[str, Any]:
    """Run to the end (or on from a checkpoint); returns the summary that is also in summary.json."""
    async with run.opened() as start, aclosing(collect(run, start)) as steps:
        async for step, batch in steps:
            for stage in run.on_batch:
                batch = await run.apply(stage, batch)
            metrics = [await run.trained(update, batch, step) for update in run.updates]
            await run.publish(metrics)
            await run.report(step, batch, metrics)
        return await run.finish()


async def train_all(phases: list[Run]) -> list[dict[str, Any]]:
    """Phases one after another; each starts from the weights that the one before it left, where the recipe says so."""
    return [await train(run) for run in phases]


async def collect(run: Run, start: int) -> AsyncGenerator[tuple[int, Batch], None]:
    """(step, batch) in order. Batch t was sampled by weights at most `run.ahead` updates old; 0 is the plain loop.

    Samplers that have weights of their own go on while a step is trained; one that shares the learner's plays before.
    """
    step, fresh = start, start
    going: dict[int, asyncio.Task[None]] = {}
    try:
        while step < run.steps:  # a budget may end the run sooner
            with run.timed("rollout"):
                while fresh <= min(step + run.ahead, run.steps - 1):
                    going[fresh] = asyncio.ensure_future(gather(run, fresh))
                    if not run.apart:
                        await going[fresh]
                    fresh += 1
                batch = await run.take(step, going.pop(step))
            yield step, batch
            step += 1
    finally:
        for task in going.values():
            task.cancel()
        await asyncio.gather(*going.values(), return_exceptions=True)


async def gather(run: Run, step: int) -> None:
    """Fill the bus for a step: play requests until `run.groups` of them carry signal.

    The curriculum observes each, in the order of asking.
    """
    run.serves(step)
    ask = run.asks.setdefault(step, Ask())  # a resumed run goes on with what it had asked for
    while not ask.sealed and ask.held < run.groups and ask.rounds < run.rounds:
        ask.requests = ask.requests or await run.ask(step, run.groups - ask.held)
        if not ask.requests:
            break
        silent = []
        for request, group in zip(ask.requests, await together(landed(run, step, r) for r in ask.requests)):
            if group is None:
                continue
            run.curriculum.observe(group)
            signal = run.signal is None or run.signal(group)
            run.count("groups", 1)
            run.count("groups_without_signal", 0 if signal else 1)
            ask.held += signal
            ask.kept += signal or run.keep_silent
            silent += [] if signal or run.keep_silent else [request.id]
        ask.rounds, ask.requests = ask.rounds + 1, []
        await run.bus.drop(silent)
    if not ask.kept:
        some = ask.rounds == run.rounds
        what = f"no group carried signal in {run.rounds} rounds of sampling" if some else "there are no more tasks"
        raise UserError(f"{what}{run.excuse()}")
    ask.sealed = True
    await run.bus.seal(step)
