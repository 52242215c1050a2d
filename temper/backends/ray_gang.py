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
from temper.supervision import Lost, Supervisor

GRACE = 5.0  # seconds in which a death that made another member fail comes to light


@dataclass
class Gang:
    """`make()` gives the actors; `prepare(gang)` is called when all of a new gang have answered.

    Bodies have about(), apply(op, change), save(folder), renew(op, folder) and beat().

    scratch  where snapshots are kept: a folder that all machines share
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
        self.prepare(self)

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
                if self._snapshot is not None:
                    self.once("take up its last state", "renew", self._snapshot[0], str(self._snapshot[1]))
                for op, change in self._since:
                    self.once(f"make change {op} again", "apply", op, change)
                return
            except Lost as again:
                why = again

    def _replace(self, why: Lost) -> None:
        self.close()
        self.supervisor.fell(self.role, why.who, why.why)
        self.hire()

    def _keep(self) -> None:
        """A snapshot, and an empty journal."""
        old, folder = self._snapshot, self.scratch / f"{self.title.replace(' ', '-')}-{self.op}"
        self.ask("save its state", "save", str(folder))
        self._snapshot, self._since = (self.op, folder), []
        if old is not None and old[1] != folder:
            with contextlib.suppress(OSError):
                shutil.rmtree(old[1])
