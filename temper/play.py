"""How a request is played: every attempt at it, as one batch that went through the on_group stages."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from temper.backends.base import ContextFull
from temper.carrier import Batch
from temper.columns import GROUP
from temper.episode import Episode
from temper.errors import UserError
from temper.fleet import visiting
from temper.policy import Seat
from temper.request import Drop, Request

if TYPE_CHECKING:
    from temper.run import Run

T = TypeVar("T")


async def play(run: Run, request: Request) -> Batch | None:
    """All attempts at a request, as a batch that went through the on_group stages; None when no attempt survived."""
    group = await attempts(run, request, run.seed)
    return None if group is None else await staged(run, group)


async def staged(run: Run, group: Batch) -> Batch | None:
    """The group after the on_group stages; None when they left nothing of it."""
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
    """One play, or the reason why it was dropped; played again where it was torn (`temper.fleet`)."""
    for _ in range(run.rounds):
        with visiting() as visit:
            try:
                played = await _played(run, request, n, overrides, seed)
            except Exception:
                if not visit.torn:
                    raise
        if not visit.torn:
            return played
    return "infrastructure: its samplers were lost"


async def _played(run: Run, request: Request, n: int, overrides: Mapping[str, Any], seed: int) -> Episode | str:
    seats = {
        role: Seat(role, policy, run.sampling.but(**overrides), seed, (request.split, request.id, n))
        for role, policy in run.roles.items()
    }
    try:
        with run.reporter.attempts.one():
            async with timed(run, request, seats):
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


@contextlib.asynccontextmanager
async def timed(run: Run, request: Request, seats: Mapping[str, Seat]) -> AsyncIterator[None]:
    """The run knows what this play waits for. Drop where its environment takes longer than it may for one move."""
    limit, task = asyncio.timeout(None), f"task {request.task.id!r}"
    asked, over = 0, False

    def think(change: int) -> None:
        nonlocal asked
        asked += change
        if run.env_timeout and not over:
            run.waits.limit(limit, None if asked else run.env_timeout)

    def told(seat: Seat, sample: Any) -> Any:
        what = f"{task} waits for a sample of {seat.policy.name!r}"

        async def sampled(*args: Any, **options: Any) -> Any:
            think(+1)
            try:
                with run.waits.on(what):
                    return await sample(*args, **options)
            finally:
                think(-1)

        return sampled

    for seat in seats.values():
        seat.sample = told(seat, seat.sample)  # type: ignore[method-assign]
    try:
        with run.waits.on(f"{request.split} waits for {type(run.env).__name__} to play {task}"):
            async with limit:
                think(0)
                yield
    except TimeoutError:
        if limit.expired():
            raise Drop("infrastructure: environment timeout") from None
        raise
    finally:
        over = True
        run.waits.limit(limit, None)


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
