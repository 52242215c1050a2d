"""Who may fail, what happens then, and who waits for whom. Nothing here knows what the parts run on.

    role         what plays it                       when it dies
    sampler      serves a policy                   in place: its requests are asked again elsewhere, with the same seeds
    environment  plays attempts                    in place: the attempt is played again, what was sampled is remembered
    reward       judges                            in place: its calls are asked again, never scored 0
    learner      trains a policy                   in place: its last state, then the optimiser steps since
    bus          holds rows between stages         in place: its last state, then the calls since
    driver       everything that is not an actor   resumed from the last checkpoint, by whoever started it

A role may instead be "again" (the run starts again from its last checkpoint) or "skip" (go on without it).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from temper.errors import UserError

T = TypeVar("T")
IN_PLACE, AGAIN, SKIP = "in place", "again", "skip"
DONE = {IN_PLACE: "restarted", AGAIN: "the run starts again", SKIP: "left out"}
ROLES = ("sampler", "environment", "reward", "learner", "bus")
CANNOT_SKIP = ("learner", "bus")


class Lost(Exception):
    """The other side of a call is gone: its process died, or it cannot be reached."""

    def __init__(self, who: str, why: str):
        super().__init__(f"{who} is lost: {why}")
        self.who, self.why = who, why


class Overdue(UserError):
    """A wait was longer than its deadline; the text names who waited for whom."""

    def __init__(self, who: str, seconds: float, whom: str, what: str):
        super().__init__(f"{who} has waited {seconds:g} s for {whom} to {what}")
        self.whom, self.what = whom, what


class Exhausted(UserError):
    """There were more failures than the budget of restarts allows."""


class StartAgain(UserError):
    """The run must start again from its last checkpoint."""


async def within(seconds: float, wait: Awaitable[T], who: str, whom: str, what: str) -> T:
    """The result of `wait`; Overdue when it takes longer than `seconds`."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await wait
    except TimeoutError:
        if limit.expired():
            raise Overdue(who, seconds, whom, what) from None
        raise


@dataclass(frozen=True)
class Faults:
    """What is done about failures.

    roles     role -> "in place", "again" or "skip", where it is not "in place"
    restarts  in place, of one role, within `window` seconds; one more starts the run again
    again     how often the run may start again without a new checkpoint in between
    beat      seconds between heartbeats; silence: without an answer after which a process is taken for dead
    patience  seconds that one wait may take: a process to start, weights to arrive, a part that makes no progress
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    restarts: int = 3
    window: float = 600.0
    again: int = 3
    beat: float = 2.0
    silence: float = 60.0
    patience: float = 600.0

    def __post_init__(self) -> None:
        for role, action in self.roles.items():
            if role not in ROLES or action not in (IN_PLACE, AGAIN, SKIP):
                raise UserError(
                    f"no such fault policy: {role} = {action!r}; roles: {', '.join(ROLES)}; "
                    f"what is done: {IN_PLACE!r}, {AGAIN!r}, {SKIP!r}"
                )
            if action == SKIP and role in CANNOT_SKIP:
                raise UserError(f"a run cannot go on without its {role}: {IN_PLACE!r} or {AGAIN!r}")
        for name in ("beat", "silence", "patience", "window"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")

    def of(self, role: str) -> str:
        return self.roles.get(role, IN_PLACE)


class Supervisor:
    """Decides about each failure and remembers it: `events`, in a file too once `path` is set."""

    def __init__(self, faults: Faults | None = None, clock: Callable[[], float] = time.monotonic):
        self.faults, self.clock = faults or Faults(), clock
        self.events: list[dict[str, Any]] = []
        self.say: Callable[[str], None] = lambda text: print(text, flush=True)
        self.path: Path | None = None
        self._restarts: dict[str, deque[float]] = {}

    def fell(self, role: str, who: str, why: str) -> str:
        """What to do about `who`: IN_PLACE or SKIP; StartAgain where the policy, or the spent budget, says so."""
        action = self.faults.of(role)
        recent = self._restarts.setdefault(role, deque())
        now = self.clock()
        while recent and recent[0] < now - self.faults.window:
            recent.popleft()
        if action == IN_PLACE and len(recent) >= self.faults.restarts:
            action = AGAIN
        if action == AGAIN:
            times = f"; {len(recent)} restarts in {self.faults.window:g} s before" if recent else ""
            raise self.again(role, who, why, times)
        self.note(role, who, why, action)
        if action == IN_PLACE:
            recent.append(now)
        return action

    def again(self, role: str, who: str, why: str, more: str = "") -> StartAgain:
        """What to raise where nothing but a new start of the run helps; it is remembered."""
        self.note(role, who, why, AGAIN)
        return StartAgain(f"{who} is lost ({why}){more}")

    def note(self, role: str, who: str, why: str, action: str) -> None:
        self.say(f"{who} is lost ({why}): {DONE[action]}")
        event = {"time": round(time.time(), 3), "role": role, "who": who, "why": why, "action": action}
        self.events.append(event)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as f:
                f.write(json.dumps(event) + "\n")

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """(role, action) -> how often."""
        return Counter((e["role"], e["action"]) for e in self.events)


@dataclass
class Pulse:
    """Heartbeats of one process, counted in beats: a driver that was busy itself misses nothing.

    missed  without an answer; still: without progress, while the run waits for it; idle: and with nothing to do
    """

    faults: Faults
    missed: int = 0
    still: int = 0
    idle: int = 0
    progress: Any = None

    def answered(self, progress: Any, waited_for: bool, at_work: bool = True) -> None:
        """progress: any value that changes while the process gets on with its work."""
        self.missed = 0
        still = waited_for and progress == self.progress
        self.still = self.still + 1 if still else 0
        self.idle = self.idle + 1 if still and not at_work else 0
        self.progress = progress

    def silent(self) -> None:
        self.missed += 1

    @property
    def dead(self) -> str:
        """Why it is taken for dead; "" when it is not."""
        if self.missed * self.faults.beat >= self.faults.silence:
            return f"no heartbeat for {self.missed * self.faults.beat:g} s"
        if self.idle * self.faults.beat >= self.faults.silence:
            return (
                f"it has had nothing to do for {self.idle * self.faults.beat:g} s, while the run waited for its answer"
            )
        if self.still * self.faults.beat >= self.faults.patience:
            return f"no progress for {self.still * self.faults.beat:g} s, while the run waited for its answer"
        return ""


def started_again(
    run: Callable[[bool], T], faults: Faults, checkpoint: Callable[[], str], say: Callable[[str], None]
) -> T:
    """`run(resume)` until it ends by itself: after StartAgain it is called again, with resume=True.

    checkpoint  names the last one ("" where there is none)
    Exhausted when it failed `faults.again` times without a new checkpoint.
    """
    seen, failures, resume = checkpoint(), 0, False
    while True:
        try:
            return run(resume)
        except StartAgain as error:
            last = checkpoint()
            failures = 1 if last != seen else failures + 1
            seen, resume = last, True
            if failures > faults.again:
                kept = f"the last checkpoint is {last}" if last else "there is no checkpoint"
                raise Exhausted(f"{error}; gave up after {faults.again} new starts without a new checkpoint; {kept}")
            say(f"{error}: starting again from {last or 'the beginning'}")
