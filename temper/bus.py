"""The data bus: rows and columns between those who play, judge and train.

    partition   one step of training; what is in it is cleared together
    row         one attempt; it belongs to a group, and a group is served whole or not at all
    field       a column: "episode" for every row, "batch" once for all rows of a group
    consumer    who takes: "stages" takes groups whose rows all have their episode, "train" those that are a batch

                     open          put episode          put batch
    group 7:t1   row 7:t1/0 ──▶      ready      ┐
                 row 7:t1/1 ──▶      ready      ┴─ stages ──▶ ready ── train ──▶ clear
    group 8:t9   row 8:t9/0 ──▶   (in flight)

Methods take and return plain data, so the same class serves behind an actor or a socket; values are not looked at.
Everything is exactly once. A change may be sent again under its operation's name: it is made once, and answered alike
(so that all processes of one replica may ask, and get the same rows). A value that is there already is kept. A group
that one consumer was given is never given to it again.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from temper.errors import UserError, unknown

Share = list[list[str]]  # groups for each replica


class BusFull(UserError):
    """There is no room for so many groups: what was opened before must be cleared first."""


@dataclass(frozen=True)
class Ready:
    """A group that a consumer may be given: its size in tokens, as far as was told, and its place in the step among
    those that the consumer was not given (ready or not)."""

    group: str
    size: int
    place: int = 0


class Choice(Protocol):
    """Which of the ready groups a consumer is given now, as one share a replica; [] to wait for more."""

    def __call__(self, ready: Sequence[Ready], sealed: bool) -> Share: ...


@dataclass(frozen=True)
class Groups:
    """The next `n` groups in the order of opening (0: all of a sealed partition); fewer only at its end."""

    n: int = 0

    def __call__(self, ready: Sequence[Ready], sealed: bool) -> Share:
        if not ready or (not sealed and (self.n == 0 or len(ready) < self.n)):
            return []
        return [[r.group for r in ready[: self.n or None]]]


@dataclass(frozen=True)
class InOrder:
    """The next `n` groups in the order of opening, once none before them is missing."""

    n: int

    def __call__(self, ready: Sequence[Ready], sealed: bool) -> Share:
        chosen = [r for place, r in enumerate(ready[: self.n]) if r.place == place]
        return [[r.group for r in chosen]] if len(chosen) == self.n else []


@dataclass(frozen=True)
class Only:
    """One group, once it is ready."""

    group: str

    def __call__(self, ready: Sequence[Ready], sealed: bool) -> Share:
        return [[self.group]] if any(r.group == self.group for r in ready) else []


@dataclass(frozen=True)
class Tokens:
    """Whole groups in order, up to `budget` tokens (a longer one goes alone), once they fill it."""

    budget: int

    def __call__(self, ready: Sequence[Ready], sealed: bool) -> Share:
        taken: list[str] = []
        total = 0
        for r in ready:
            if taken and total + r.size > self.budget:
                return [taken]
            taken.append(r.group)
            total += r.size
        return [taken] if taken and (sealed or total >= self.budget) else []


@dataclass(frozen=True)
class Balanced:
    """`n` groups (0: all of a sealed partition) dealt to `replicas`: the longest first, each to who has least."""

    n: int
    replicas: int

    def __call__(self, ready: Sequence[Ready], sealed: bool) -> Share:
        [chosen] = Groups(self.n)(ready, sealed) or [[]]
        size, place = {r.group: r.size for r in ready}, {g: i for i, g in enumerate(chosen)}
        shares: Share = [[] for _ in range(self.replicas)]
        load = [0] * self.replicas
        for group in sorted(chosen, key=lambda g: (-size[g], place[g])):
            least = load.index(min(load))
            shares[least].append(group)
            load[least] += size[group]
        return [sorted(s, key=place.__getitem__) for s in shares] if chosen else []


class Line:
    """The bus as it is called: every answer is awaited, whether the bus is here or elsewhere."""

    def __init__(self, bus: Any):
        self.bus = bus

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.bus, name)

        async def call(*args: Any, **options: Any) -> Any:
            answer = method(*args, **options)
            return await answer if inspect.isawaitable(answer) else answer

        return call


@dataclass
class _Group:
    """rows, which values are there ("row field" or "field" -> value), and who has taken it."""

    partition: int
    rows: list[str]
    values: dict[str, dict[str, Any]] = field(default_factory=dict)  # field -> {row, or the group itself: value}
    had: list[str] = field(default_factory=list)  # "field key" of values that were there, also once they are let go
    taken: list[str] = field(default_factory=list)
    size: int = 0

    def has(self, name: str, group: str) -> bool:
        return f"{name} {group}" in self.had or all(f"{name} {row}" in self.had for row in self.rows)


class Bus:
    """The bus in one process.

    consumers  name -> the fields that it takes; a value is kept until all who take its field have it
    capacity   groups that may be open at once (0: any number)
    """

    def __init__(self, consumers: Mapping[str, Sequence[str]], capacity: int = 0):
        self.consumers = {name: tuple(fields) for name, fields in consumers.items()}
        self.capacity = capacity
        self._groups: dict[str, _Group] = {}
        self._of: dict[str, str] = {}  # row -> group
        self._sealed: set[int] = set()
        self._done: dict[str, tuple[int, Any]] = {}  # operation -> (partition, its answer)

    # producers -----------------------------------------------------------------------------------------------------

    def open(self, op: str, partition: int, groups: Mapping[str, Sequence[str]], capacity: int | None = None) -> None:
        """Rows that will come, by group. BusFull beyond the capacity; UserError for a name that is in use.

        capacity  as it is now (None: that of the bus)
        """
        if op in self._done:
            return
        room = self.capacity if capacity is None else capacity
        if room and len(self._groups) + len(groups) > room:
            raise BusFull(
                f"the bus holds {len(self._groups)} groups and has room for {room}: "
                f"{len(groups)} more fit once a step is trained and cleared"
            )
        if partition in self._sealed:
            raise UserError(f"step {partition} was sealed: nothing can be added to it")
        for group, rows in groups.items():
            if group in self._groups or any(r in self._of for r in rows):
                raise UserError(f"group {group} is on the bus already")
            self._groups[group] = _Group(partition, list(rows))
            self._of.update(dict.fromkeys(rows, group))
        self._did(op, partition)

    def put(self, name: str, values: Mapping[str, Any], sizes: Mapping[str, int] | None = None) -> int:
        """Values of a field by row, or by group for all of its rows; how many of them were not there before.

        What has been dropped or cleared is ignored: its answer came too late. sizes: tokens, by row or group.
        """
        new = 0
        for key, value in values.items():
            group = self._groups.get(self._of.get(key, key))
            if group is None or f"{name} {key}" in group.had:
                continue
            group.had.append(f"{name} {key}")
            group.values.setdefault(name, {})[key] = value
            group.size += (sizes or {}).get(key, 0)
            new += 1
        return new

    def drop(self, keys: Iterable[str]) -> None:
        """Rows that will not come, or whole groups: nobody waits for them any more. A group without rows is gone."""
        for key in list(keys):
            owner = self._of.get(key, key)
            group = self._groups.get(owner)
            if group is None:
                continue
            gone = group.rows if key == owner else [key]
            group.rows = [r for r in group.rows if r not in gone]
            for row in gone:
                self._of.pop(row, None)
                for values in group.values.values():
                    values.pop(row, None)
            if not group.rows:
                del self._groups[owner]

    def seal(self, partition: int) -> None:
        """No more rows will be opened for this step."""
        self._sealed.add(partition)

    def clear(self, partition: int) -> None:
        """The step is over: its rows leave, and their room is free."""
        self.drop([g for g, group in self._groups.items() if group.partition == partition])
        self._sealed.discard(partition)
        self._done = {op: done for op, done in self._done.items() if done[0] != partition}

    # consumers -----------------------------------------------------------------------------------------------------

    def ready(self, consumer: str, partition: int) -> list[str]:
        """Groups that `take` may give to the consumer, in the order of opening."""
        return [r.group for r in self._ready(consumer, partition)]

    def take(self, op: str, consumer: str, partition: int, choice: Choice, replica: int = 0) -> list[dict[str, Any]]:
        """What the choice gives of the ready groups, marked as taken by the consumer; [] when it waits for more.

        Each is {"group", "rows", "size"} with the consumer's fields: the group's value, or {row: value}.
        The operation's answer holds for every replica: each gets its own share of the same choice.
        """
        if op not in self._done:
            shares = choice(self._ready(consumer, partition), partition in self._sealed)
            if not shares:
                return []
            given = [g for share in shares for g in share]
            self._give(given, consumer)
            answer = [[self._row(g, consumer) for g in share] for share in shares]
            self._did(op, partition, answer)
            for group in given:
                self._let_go(self._groups[group])
        answers: list[list[dict[str, Any]]] = self._done[op][1]
        if not 0 <= replica < len(answers):
            raise UserError(f"replica {replica} asked for its share of {op!r}, which was dealt to {len(answers)}")
        return answers[replica]

    def peek(self, group: str, name: str) -> Any:
        """A value without taking it: the group's, or {row: value} of the rows that have one; None where none is."""
        if group not in self._groups:
            return None
        g = self._groups[group]
        values = g.values.get(name, {})
        return values.get(group, {row: values[row] for row in g.rows if row in values} or None)

    def describe(self) -> dict[str, Any]:
        """{"groups", "rows", "partitions": {step: groups}}: what is on the bus."""
        steps = [g.partition for g in self._groups.values()]
        return {
            "groups": len(steps),
            "rows": len(self._of),
            "partitions": {s: steps.count(s) for s in sorted({*steps})},
        }

    # state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that is on the bus; values as they were put."""
        groups = {name: {f: getattr(g, f) for f in ("partition", "rows", "values", "had", "taken", "size")}
                  for name, g in self._groups.items()}  # fmt: skip
        return {"groups": groups, "sealed": sorted(self._sealed), "done": dict(self._done)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self._groups = {name: _Group(**g) for name, g in saved["groups"].items()}
        self._of = {row: name for name, g in self._groups.items() for row in g.rows}
        self._sealed, self._done = set(saved["sealed"]), {op: (d[0], d[1]) for op, d in saved["done"].items()}

    def _fields(self, consumer: str) -> tuple[str, ...]:
        if consumer not in self.consumers:
            raise unknown("consumer", consumer, self.consumers)
        return self.consumers[consumer]

    def _ready(self, consumer: str, partition: int) -> list[Ready]:
        fields = self._fields(consumer)
        left = [(n, g) for n, g in self._groups.items() if g.partition == partition and consumer not in g.taken]
        return [
            Ready(name, g.size, place) for place, (name, g) in enumerate(left) if all(g.has(f, name) for f in fields)
        ]

    def _give(self, groups: Sequence[str], consumer: str) -> None:
        for n, group in enumerate(groups):
            if group not in self._groups or consumer in self._groups[group].taken or group in groups[:n]:
                raise UserError(f"group {group} was taken by {consumer!r} already, or is not on the bus")
        for group in groups:
            self._groups[group].taken.append(consumer)

    def _row(self, name: str, consumer: str) -> dict[str, Any]:
        g = self._groups[name]
        fields = {f: self.peek(name, f) for f in self._fields(consumer)}
        return {"group": name, "rows": list(g.rows), "size": g.size, **fields}

    def _let_go(self, g: _Group) -> None:
        """Values that every consumer of their field has taken."""
        for name in list(g.values):
            if all(c in g.taken for c, fields in self.consumers.items() if name in fields):
                del g.values[name]

    def _did(self, op: str, partition: int, answer: Any = None) -> None:
        self._done[op] = (partition, answer)
