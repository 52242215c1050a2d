"""Actors that answer together, and whose state can be made again.

Every change is numbered and kept in a journal until the next snapshot. When a member falls, a new gang takes up the
snapshot, makes the changes of the journal again, and goes on: the same state, bit for bit, on the same kind of machine.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temper.backends.ray_line import Line
from temper.errors import UserError
from temper.supervision import Lost, Supervisor

GRACE = 5.0  # seconds in which a death that made another member fail comes to light


@dataclass
class Gang:
    """`make()` gives the actors; `prepare(gang)` is called when all of a new gang have answered.

    Bodies have about(), sees(folder), apply(op, change), save(folder), renew(op, folder) and beat().

    scratch  where snapshots are kept: a folder that all machines share (UserError when one does not see it)
    journal  changes between two snapshots
    """

    title: str
    make: Callable[[], list[Any]]
    supervisor: Supervisor
    scratch: Path
    journal: int
    prepare: Callable[[Gang], None] = lambda gang: None
    role: str = "learner"
    lines: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.op = 0
        self._snapshot: tuple[int, Path] | None = None
        self._since: list[tuple[int, Any]] = []
        self.hire()

    def hire(self) -> None:
        self.lines = [Line(actor, f"{self.title} {n}") for n, actor in enumerate(self.make())]

    def open(self) -> None:
        """Block until all are ready."""
        while True:
            try:
                return self._begin()
            except Lost as why:
                self._replace(why)

    def _begin(self) -> None:
        for line, about in zip(self.lines, self.once("start", "about")):
            line.about = about
        self.shared(self.scratch, "give one that all machines share: --scratch", self.once)
        self.prepare(self)

    def shared(self, folder: Path, remedy: str, ask: Callable[..., list[Any]] | None = None) -> None:
        """UserError when a member does not see a folder that is there."""
        seen = (ask or self.ask)(f"look for {folder}", "sees", str(folder))
        for line, sees in zip(self.lines, seen):
            if not sees:
                raise UserError(f"{line.name} (on {line.about.get('host')}) does not see {folder}: {remedy}")

    def close(self) -> None:
        for line in self.lines:
            line.end()

    # asking --------------------------------------------------------------------------------------------------------

    def change(self, what: str, change: Any, keep: bool = False) -> list[Any]:
        """Every member's answer to a change of state. keep: with a snapshot after it, however short the journal is."""
        op = self.op + 1
        answers = self.ask(what, "apply", op, change)
        self.op = op
        self._since.append((op, change))
        if keep or len(self._since) >= self.journal:
            self._keep()
        return answers

    def ask(self, what: str, method: str, *args: Any) -> list[Any]:
        """Every member's answer; of a new gang's when one of this is lost. StartAgain when the budget is spent."""
        while True:
            try:
                return self.once(what, method, *args)
            except Lost as why:
                self.renew(why)

    def once(self, what: str, method: str, *args: Any) -> list[Any]:
        """Every member's answer. Lost comes before what others failed with because of it."""
        refs = [line.ask(method, *args) for line in self.lines]
        answers, failed = [], None
        for line, ref in zip(self.lines, refs):
            try:
                answers.append(line.result(ref, self.supervisor.faults, what, GRACE if failed else None))
            except Lost:
                raise
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return answers

    # falling -------------------------------------------------------------------------------------------------------

    def renew(self, why: Lost) -> None:
        """A new gang in the state of this one before the call that was lost."""
        while True:
            self._replace(why)
            try:
                self._begin()
                self._recall()
                for op, change in self._since:
                    self.once(f"make change {op} again", "apply", op, change)
                return
            except Lost as again:
                why = again

    def _recall(self) -> None:
        """Take up the last snapshot. StartAgain when it cannot be read: then nothing else has that state."""
        if self._snapshot is None:
            return
        op, folder = self._snapshot
        try:
            self.once("take up its last state", "renew", op, str(folder))
        except Lost:
            raise
        except Exception as error:
            why = f"its snapshot {folder} cannot be taken up: {type(error).__name__}: {error}"
            raise self.supervisor.again(self.role, self.title, why) from None

    def _replace(self, why: Lost) -> None:
        self.close()
        self.supervisor.fell(self.role, why.who, why.why)
        self.hire()

    def _keep(self) -> None:
        """A snapshot, and an empty journal."""
        old, folder = self._snapshot, self.scratch / f"{self.title.replace(' ', '-')}-{self.op}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.ask("save its state", "save", str(folder))
        except OSError as error:
            raise UserError(f"{self.title} cannot keep a snapshot in {folder} ({error}): give another --scratch")
        self._snapshot, self._since = (self.op, folder), []
        if old is not None and old[1] != folder:
            with contextlib.suppress(OSError):
                shutil.rmtree(old[1])
