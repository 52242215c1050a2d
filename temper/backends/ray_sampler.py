"""One policy served by samplers in actors: a fleet whose replicas are watched, and replaced when they fall.

A request carries its seed, so it draws the same tokens wherever it is answered, and when it is asked again because its
sampler fell. What may differ is rounding: logits depend in their last bits on what else is computed with them (with
`max_rows=1` not even that). New weights are put into the object store once; a sampler that joins gets the current ones
before it serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from temper.backends.base import Ack, Gone, SamplingParams, Weights, check_prompt
from temper.backends.ray_crew import Crew, Member
from temper.backends.ray_pack import Pushed
from temper.episode import Completion
from temper.fleet import Fleet, Replica, Staged
from temper.supervision import Lost, Overdue, within
from temper.sync import Sync


class RayReplica:
    """The Sampler protocol over one actor. Gone when it falls; its crew knows first."""

    apart = True
    streams = True  # `sample` takes `heard`

    def __init__(self, member: Member, crew: Crew):
        self.member, self.crew = member, crew
        about = member.line.about
        self.context, self.end, self.vocabulary = about["context"], about["end"], about["vocabulary"]
        self.op = 0
        self.tokens = 0  # sampled so far

    async def sample(
        self, ids: tuple[int, ...], params: SamplingParams, heard: Callable[[int], None] | None = None
    ) -> Completion:
        """Continue `ids`; ContextFull when they fill the context, ValueError for ids that the model does not have.

        heard  is called with every token as it is drawn, but not with the one that ends the answer
        """
        check_prompt(ids, params, self.context, self.vocabulary)
        work = self._heard(ids, params, heard) if heard else self.member.line.call("sample", ids, params)
        try:
            done: Completion = await self.crew.doing(self.member, params.max_tokens, work)
        except Lost as why:
            raise self._gone(why)
        self.tokens += len(done.ids)
        return done

    async def _heard(self, ids: tuple[int, ...], params: SamplingParams, heard: Callable[[int], None]) -> Completion:
        line = self.member.line
        try:
            async for ref in line.ask("stream", ids, params):
                item = await ref
                if isinstance(item, Completion):
                    return item
                heard(item)
        except Exception as error:
            raise line.told(error) from None
        raise Lost(line.name, "its answer broke off")

    async def load(self, weights: Weights, version: int) -> Ack:
        """Serve these weights from the next sample on. The operation is numbered: a late one is known, and not done."""
        pushed = Pushed.of(weights)
        self.op += 1
        what = f"acknowledge version {version} of the weights (operation {self.op})"
        faults, line = self.crew.faults, self.member.line
        ask = line.call("load", self.op, version, pushed.ref)
        try:
            served = await within(faults.patience, self.crew.doing(self.member, 0, ask), "the run", line.name, what)
        except (Lost, Overdue) as why:
            raise self._gone(why)
        return Ack(*served)

    async def abort(self) -> None:
        """End every sample at once; each returns what it has."""
        try:
            await within(
                self.crew.faults.patience, self.member.line.call("abort"), "the run", self.member.name, "abort"
            )
        except (Lost, Overdue) as why:
            raise self._gone(why)

    def _gone(self, why: Exception) -> Gone:
        self.crew.fell(self.member, why)
        self.crew.check()  # it may have been one time too many
        return Gone(str(why))


class RaySampler(Fleet):
    """A fleet of sampler actors; `crew` brings lost ones back."""

    supervised = True
    streams = True

    def __init__(self, crew: Crew, name: str, about: Mapping[str, Any], sync: Sync | None = None, slots: int = 0):
        super().__init__([], name, sync, slots)
        self.crew = crew
        self.context, self.end, self.vocabulary = about["context"], about["end"], about["vocabulary"]
        self._of: dict[Member, Replica] = {}
        crew.entered, crew.left, crew.broke = self._enter, self._left, self._fail
        for member in crew.members:
            self._serve(member)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"samplers on Ray have no {name!r}")

    def forget(self) -> None:
        """Drop what samplers keep for later, so that a resumed run computes what this one does."""
        for member in self.crew.members:
            member.line.ask("forget")

    def _stage(self, weights: Weights, version: int) -> Staged:
        """In the object store, put there once for all replicas."""
        pushed = Pushed.of(weights)
        return Staged(pushed, version, pushed.fingerprint)

    def _serve(self, member: Member) -> None:
        replica = self._of[member] = Replica(RayReplica(member, self.crew), self._made)
        self._made += 1
        self.replicas.append(replica)

    async def _enter(self, member: Member) -> None:
        """A new member: with the newest weights before it serves anything."""
        self._of[member] = await self.join(RayReplica(member, self.crew))

    def _left(self, member: Member) -> None:
        if (replica := self._of.pop(member, None)) is not None:
            self._lose(replica)

    async def sample(self, ids: tuple[int, ...], params: SamplingParams, **options: Any) -> Completion:
        self.crew.begin()
        return await super().sample(ids, params, **options)

    async def load(self, weights: Weights, version: int) -> Ack:
        self.crew.begin()
        return await super().load(weights, version)

    async def grow(self, count: int = 1) -> None:
        """More samplers, which serve once they have the newest weights."""
        await self.crew.join(count)

    async def shrink(self, number: int) -> None:
        """One sampler less, after it has ended what it has begun; UserError for the last."""
        member = next((m for m, r in self._of.items() if r.number == number), None)
        await self.leave(number)
        if member is not None:
            self.crew.dismiss(member)

    def _retire(self, number: int) -> Replica:
        replica = super()._retire(number)
        self.crew.retire(next(m for m, r in self._of.items() if r is replica))
        return replica

    def close(self) -> None:
        self.crew.close()
