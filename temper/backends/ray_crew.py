"""Interchangeable actors of one role: who serves, who is awaited, what happens when one falls."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from temper.backends.ray_line import Line
from temper.supervision import IN_PLACE, SKIP, Exhausted, Lost, Overdue, Pulse, Supervisor, within

T = TypeVar("T")
JOINING, SERVING, DRAINING, GONE = "joining", "serving", "draining", "gone"


@dataclass(eq=False)
class Member:
    """One actor.

    load  what it has to do, in the units that its crew counts (tokens, plays, calls)
    owed  plays → what others owe them: while there is something, the run does not wait for this member there
    """

    line: Line
    state: str = JOINING
    load: float = 0.0
    owed: dict[str, set[asyncio.Task[Any]]] = field(default_factory=dict)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    awaited: bool = False  # somebody waits until it is ready
    pulse: Pulse | None = None
    ping: asyncio.Task[Any] | None = None

    @property
    def name(self) -> str:
        return self.line.name

    @property
    def awaits(self) -> int:
        """Plays that cannot go on before somebody else has answered."""
        return sum(any(not task.done() for task in tasks) for tasks in self.owed.values())


class Crew:
    """`size` actors made by `make(name)`, kept alive as the supervisor says.

    Members join (and, for samplers, get the current weights) before they serve; they leave after what they have begun.
    """

    def __init__(self, role: str, title: str, make: Callable[[], Any], size: int, supervisor: Supervisor):
        self.role, self.title, self.make, self.supervisor = role, title, make, supervisor
        self.faults = supervisor.faults
        self.size = self.planned = size  # now; and at first, for which places are kept
        self.members: list[Member] = []
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._broken: BaseException | None = None
        self.replayed = 0  # calls that were asked again because a member fell
        # what somebody else does about members: before one serves, when one is gone, when none is brought back any more
        self.entered: Callable[[Member], Awaitable[None]] | None = None
        self.left: Callable[[Member], None] = lambda member: None
        self.broke: Callable[[BaseException], None] = lambda error: None

    # coming and going ----------------------------------------------------------------------------------------------

    def hire(self) -> list[Member]:
        """Create what is missing of `size` members, without waiting for them."""
        new: list[Member] = []
        while len(self.present) < self.size:
            new.append(Member(Line(self.make(), f"{self.title} {next(self._numbers)}")))
            self.members.append(new[-1])
        return new

    def open(self) -> dict[str, Any]:
        """Hire and block until all are ready; what the first says about itself."""
        while waiting := [m for m in self.members if m.state == JOINING] or self.hire():
            for member in waiting:
                member.awaited = True
                try:
                    about = member.line.result(member.line.ask("about"), self.faults, "start")
                except Lost as why:
                    self._drop(member)
                    if self.supervisor.fell(self.role, member.name, why.why) == SKIP:
                        self.size -= 1
                    if self.size == 0:
                        raise Exhausted(f"no {self.title} could be started: {why.why}")
                else:
                    self.admit(member, about)
        return self.members[0].line.about

    def admit(self, member: Member, about: dict[str, Any]) -> None:
        """It serves from now on."""
        member.line.about, member.state, member.pulse = about, SERVING, Pulse(self.faults)
        self._tell()

    @property
    def present(self) -> list[Member]:
        """Those who serve, or will."""
        return [m for m in self.members if m.state in (JOINING, SERVING)]

    async def join(self, count: int = 1) -> None:
        """Add members, and wait until they serve."""
        self.size += count
        new = self.hire()
        for member in new:
            member.awaited = True
        await asyncio.gather(*(self._join(m) for m in new))

    def _welcome(self) -> None:
        """Everybody who is missing is hired, and waited for in the background."""
        self.hire()
        for member in self.members:
            if member.state == JOINING and not member.awaited:
                member.awaited = True
                self.spawn(self._join(member))

    def retire(self, member: Member) -> None:
        """It ends what it has begun, gets nothing new, and is not replaced; `dismiss` it then."""
        member.state = DRAINING
        self.size -= 1

    def dismiss(self, member: Member) -> None:
        """A retired member has ended its work."""
        if member.state != GONE:
            self._drop(member)

    async def _join(self, member: Member) -> None:
        try:
            about = await within(self.faults.patience, member.line.call("about"), "the run", member.name, "start")
            member.line.about = about
            if self.entered is not None:
                await self.entered(member)
            if member.state != GONE:
                self.admit(member, about)
        except (Lost, Overdue) as why:
            self.fell(member, why)

    def fell(self, member: Member, why: Exception) -> None:
        """A member is lost: what the supervisor says is done. Called once or several times for the same member."""
        if member.state == GONE:
            return
        leaving = member.state == DRAINING
        self._drop(member)
        said = why.why if isinstance(why, Lost) else str(why)
        if leaving:
            return self.supervisor.note(self.role, member.name, f"{said}, while it was leaving", SKIP)
        try:
            action = self.supervisor.fell(self.role, member.name, said)
            if action == SKIP and self.size == 1:
                raise Exhausted(f"no {self.title} is left: {member.name} was the last ({said})")
        except Exception as error:
            self._break(error)
            raise
        if action == IN_PLACE:
            self._welcome()
        elif action == SKIP:
            self.size -= 1

    def _drop(self, member: Member) -> None:
        member.state = GONE
        member.lost.set()
        if member.ping is not None:
            member.ping.cancel()
        self.members.remove(member)
        member.line.end()
        self.left(member)
        self._tell()

    def close(self) -> None:
        for task in (*self._tasks, *([self._watching] if self._watching else [])):
            if not task.get_loop().is_closed():
                task.cancel()
        for member in list(self.members):
            self._drop(member)

    # work ----------------------------------------------------------------------------------------------------------

    async def pick(self, cost: Callable[[Member], float] = lambda m: 0.0) -> Member:
        """The member that would be done soonest (its load, and what this costs it); waits for one that serves."""
        while True:
            self.begin()
            serving = [m for m in self.members if m.state == SERVING]
            if serving:
                return min(serving, key=lambda m: m.load + cost(m))
            names = ", ".join(m.name for m in self.members) or f"a {self.title}"
            await within(self.faults.patience, self._change(), "the run", names, "serve")

    async def doing(self, member: Member, load: float, work: Awaitable[T]) -> T:
        """The result of `work`, which `member` does; Lost as soon as the member is."""
        member.load += load
        task, lost = asyncio.ensure_future(work), asyncio.ensure_future(member.lost.wait())
        try:
            await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Lost(member.name, "it was given up")
        finally:
            task.cancel()
            lost.cancel()
            member.load -= load
            self._tell()

    # watching ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Heartbeats from now on; those that are missing are hired. Raises what ended that."""
        self.check()
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._watch())
            self._welcome()

    def check(self) -> None:
        """Raise what ended the crew."""
        if self._broken is not None:
            raise self._broken

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.faults.beat)
            for member in [m for m in self.members if m.pulse is not None]:
                if why := self._beat(member):
                    try:
                        self.fell(member, Lost(member.name, why))
                    except Exception:  # kept for whoever waits
                        return

    def _beat(self, member: Member) -> str:
        """Look at the last ping and send the next; why the member is dead, or ""."""
        assert member.pulse is not None
        if member.ping is not None and not member.ping.done():
            member.pulse.silent()
            return member.pulse.dead
        if member.ping is not None and not member.ping.cancelled():
            error = member.ping.exception()
            if isinstance(error, Lost):
                return error.why
            if error is None:
                progress, at_work = member.ping.result()
                member.pulse.answered(progress, waited_for=member.load > member.awaits, at_work=at_work)
        member.ping = asyncio.get_running_loop().create_task(member.line.call("beat"))
        return member.pulse.dead

    def spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        """Nobody is brought back any more: whoever waits is told why."""
        self._broken = self._broken or error
        self.broke(error)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self) -> None:
        await self._changed.wait()
