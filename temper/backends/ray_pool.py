"""Environments and rewards in actors of their own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from temper.backends.base import ContextFull
from temper.backends.ray_actors import Chair
from temper.backends.ray_crew import Crew, Member
from temper.columns import Column
from temper.episode import Completion, Episode
from temper.errors import UserError
from temper.policy import Seat
from temper.request import Drop, Env, writes_of
from temper.rewards.verdict import Verdict
from temper.rewards.worker import Call
from temper.supervision import IN_PLACE, Lost, within
from temper.tasks.task import Task

CHUNK = 16  # calls that a reward actor gets at once
KEYS = itertools.count()  # of plays


@dataclass
class RayEnv:
    """Plays `env` in actors; its seats sample through the policies here.

    An attempt whose actor falls is played again elsewhere; as long as it asks the same again, it gets the same answers.
    """

    env: Env
    crew: Crew = field(repr=False)

    def __post_init__(self) -> None:
        if hasattr(self.env, "state_dict"):
            raise UserError(
                f"{type(self.env).__name__} has memory, so it plays in one process: leave out --environments"
            )
        self.roles = getattr(self.env, "roles", ("solver",))
        self.samples = getattr(self.env, "samples", True)

    @property
    def writes(self) -> tuple[Column, ...]:
        return writes_of(self.env)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        memory: dict[tuple[str, int], tuple[Any, asyncio.Task[Completion]]] = {}
        try:
            while True:
                member = await self.crew.pick()
                try:
                    return await self.crew.doing(member, 1, self._played(member, task, roles, memory))
                except Lost as why:
                    self.crew.replayed += 1
                    self.crew.fell(member, why)
                    if self.crew.faults.of("environment") != IN_PLACE:
                        raise Drop("environment lost")
        finally:
            for _, asked in memory.values():
                asked.cancel()

    async def _played(
        self, member: Member, task: Task, roles: Mapping[str, Seat],
        memory: dict[tuple[str, int], tuple[Any, asyncio.Task[Completion]]],
    ) -> Episode:  # fmt: skip
        key = f"{next(KEYS)}"
        stream = aiter(member.line.ask("play", key, task, {role: _chair(seat) for role, seat in roles.items()}))
        owed = member.owed[key] = set()
        turns: dict[str, int] = {}
        replies: set[asyncio.Task[None]] = set()
        try:
            while message := await self._heard(member, stream, owed, f"play task {task.id!r}"):
                kind, *rest = message
                if kind == "ask":
                    number, role, ids, overrides = rest
                    turn = turns[role] = turns.get(role, -1) + 1
                    said = _recalled(memory, role, turn, ids, overrides, roles[role])
                    owed.add(said)
                    replies.add(asyncio.ensure_future(self._reply(member, key, number, said)))
                elif kind == "episode":
                    return rest[0]  # type: ignore[no-any-return]
                elif kind == "drop":
                    raise Drop(rest[0])
                elif kind == "full":
                    raise ContextFull(rest[0])
                else:
                    raise UserError(rest[0])
                for done in [r for r in replies if r.done()]:
                    replies.discard(done)
                    done.result()  # an error that is the run's own ends the play
        except Exception as error:
            failed = next((r.exception() for r in replies if r.done() and r.exception()), None)
            raise failed or member.line.told(error) from None
        finally:
            del member.owed[key]
            for reply in replies:
                reply.cancel()
        raise Lost(member.name, "the play broke off")

    async def _heard(self, member: Member, stream: Any, owed: set[asyncio.Task[Any]], what: str) -> tuple[Any, ...]:
        """The next message of a play, () at its end. Lost after `patience` in which no sampler owed it an answer."""
        faults, still = self.crew.faults, 0.0
        coming = asyncio.ensure_future(_message(stream))
        try:
            while not (await asyncio.wait({coming}, timeout=faults.beat))[0]:
                still = still + faults.beat if all(s.done() for s in owed) else 0.0
                if still >= faults.patience:
                    raise Lost(member.name, f"the run has waited {still:g} s for it to {what}")
            return coming.result()
        finally:
            coming.cancel()

    async def _reply(self, member: Member, key: str, number: int, said: asyncio.Task[Completion]) -> None:
        try:
            answer: Completion | Exception = await asyncio.shield(said)
        except ValueError as error:  # the environment's own to handle: a full context, a strange id
            answer = error
        await member.line.call("answer", key, number, answer)

    def close(self) -> None:
        self.crew.close()

    async def aclose(self) -> None:
        self.crew.close()


async def _message(stream: Any) -> tuple[Any, ...]:
    async for ref in stream:
        found: tuple[Any, ...] = await ref
        return found
    return ()


def _recalled(memory: Any, role: str, turn: int, ids: Any, overrides: Any, seat: Seat) -> asyncio.Task[Completion]:
    """The answer to a seat's n-th question; asked again as before, it is the one that was given before."""
    asked = (ids, overrides)
    if (role, turn) not in memory or memory[role, turn][0] != asked:
        memory[role, turn] = asked, asyncio.ensure_future(seat.sample(ids, **overrides))
    return memory[role, turn][1]  # type: ignore[no-any-return]


def _chair(seat: Seat) -> Chair:
    policy: Any = seat.policy
    sampler = policy.sampler
    return Chair(
        getattr(policy, "name", seat.role), policy.model, seat.params, policy.version,
        getattr(sampler, "context", 1 << 30), tuple(getattr(sampler, "end", ())),
    )  # fmt: skip


class RayPool:
    """What `temper.rewards.pool.Pool` is, in actors: a call whose actor falls is asked again, never scored."""

    def __init__(self, crew: Crew):
        self.crew = crew

    async def run(self, calls: Sequence[Call]) -> list[list[Verdict]]:
        size = max(1, min(CHUNK, -(-len(calls) // max(1, self.crew.size))))
        parts = [list(calls[i : i + size]) for i in range(0, len(calls), size)]
        return [answer for part in await asyncio.gather(*map(self._judged, parts)) for answer in part]

    async def _judged(self, calls: list[Call]) -> list[list[Verdict]]:
        while True:
            member = await self.crew.pick()
            what = f"judge {len(calls)} answers"
            work = within(self.crew.faults.patience, member.line.call("run", calls), "the run", member.name, what)
            try:
                return await self.crew.doing(member, len(calls), work)
            except Lost as why:
                self.crew.replayed += 1
                self.crew.fell(member, why)
                if self.crew.faults.of("reward") != IN_PLACE:
                    return [[Verdict(outcome="infrastructure: its reward actor was lost")] * c.rows for c in calls]

    def close(self) -> None:
        self.crew.close()
