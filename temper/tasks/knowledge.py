"""A made-up world: entities, what relates them, a page about each, and questions whose answers can be computed.

Every relation is a function, so a chain of relations has one answer. Descriptions are logical forms: `denote` says
which entities one fits, so "supported" and "unique" are computed, not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from temper.tasks.task import Task

RELATIONS = {  # kind of entity → its relations → kind of what they lead to
    "country": {"capital": "city", "river": "river"},
    "city": {"mayor": "person", "founder": "person"},
}
KINDS = ("country", "city", "person", "river")
FILLERS = ("has a long past", "draws many visitors", "is often misspelt")  # what noisy documents say
_SYLLABLES = ("ka", "lo", "mi", "ren", "tor", "va", "su", "del", "pra", "no")


@dataclass(frozen=True)
class Name:
    """An entity by its name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Of:
    """What `relation` leads to: "the mayor of Kalo"."""

    relation: str
    of: Form

    def __str__(self) -> str:
        return f"the {self.relation} of {self.of}"


@dataclass(frozen=True)
class Whose:
    """The entities of a kind whose `relation` leads to something: "the country whose capital is Kalo"."""

    kind: str
    relation: str
    value: Form

    def __str__(self) -> str:
        return f"the {self.kind} whose {self.relation} is {self.value}"


@dataclass(frozen=True)
class Vague:
    """The entities of a kind whose name begins so: "the city that begins with K"."""

    kind: str
    letter: str

    def __str__(self) -> str:
        return f"the {self.kind} that begins with {self.letter}"


@dataclass(frozen=True)
class Both:
    """What fits both descriptions."""

    first: Form
    second: Form

    def __str__(self) -> str:
        return f"{self.first}, which is also {self.second}"


Form = Name | Of | Whose | Vague | Both


@dataclass(frozen=True)
class Fact:
    subject: str
    relation: str
    value: str

    def __str__(self) -> str:
        return f"The {self.relation} of {self.subject} is {self.value}."


class World:
    """kind: name → kind; facts: (subject, relation) → value. `countries` of them, each with a capital of its own."""

    def __init__(self, countries: int = 100, seed: int = 0):
        rng = Random(f"world/{seed}")
        self.kind: dict[str, str] = {}
        self.facts: dict[tuple[str, str], str] = {}
        for _ in range(countries):
            self._grow(rng, "country")

    def _grow(self, rng: Random, kind: str) -> str:
        name = self._invented(rng)
        self.kind[name] = kind
        for relation, value in RELATIONS.get(kind, {}).items():
            self.facts[name, relation] = self._grow(rng, value)
        return name

    def _invented(self, rng: Random) -> str:
        length = 2
        while True:
            name = "".join(rng.choice(_SYLLABLES) for _ in range(length)).capitalize()
            if name not in self.kind:
                return name
            length = rng.choice((2, 3, 3, 4))

    def denote(self, form: Form) -> set[str]:
        """The entities that a description fits."""
        match form:
            case Name(name):
                return {name} & self.kind.keys()
            case Of(relation, of):
                fits = self.denote(of)
                return {v for (s, r), v in self.facts.items() if r == relation and s in fits}
            case Whose(kind, relation, value):
                fits = self.denote(value)
                return {s for (s, r), v in self.facts.items() if r == relation and v in fits and self.kind[s] == kind}
            case Vague(kind, letter):
                return {n for n, k in self.kind.items() if k == kind and n.startswith(letter)}
            case Both(first, second):
                return self.denote(first) & self.denote(second)

    def only(self, facts: Iterable[Fact]) -> World:
        """The world of somebody who knows these facts, and nobody else than they name."""
        known = World(0)
        known.facts = {(f.subject, f.relation): f.value for f in facts}
        mentioned = {n for (s, _), v in known.facts.items() for n in (s, v)}
        known.kind = {n: k for n, k in self.kind.items() if n in mentioned}
        return known

    def about(self, name: str) -> list[Fact]:
        """What its page says."""
        return [Fact(s, r, v) for (s, r), v in self.facts.items() if s == name]

    def naming(self, name: str) -> list[Fact]:
        """The facts that lead to it."""
        return [Fact(s, r, v) for (s, r), v in self.facts.items() if v == name]

    def pages(self) -> list[dict[str, str]]:
        """A page about every entity that has relations: {"title", "text", "url"}, a line a fact ("mayor: Delva")."""
        subjects = dict.fromkeys(s for s, _ in self.facts)
        lines = {s: "\n".join(f"{f.relation}: {f.value}" for f in self.about(s)) for s in subjects}
        return [{"title": s, "text": text, "url": s.lower()} for s, text in lines.items()]


def ask(form: Form) -> str:
    return f"What is {form}?"


def chains(world: World, hops: Sequence[int] = (1,), seed: int = 0) -> list[Task]:
    """Every chain of so many relations as a task, shuffled; info: its hops, and the facts that it takes."""
    tasks = []
    for subject, form, facts in _chains(world):
        if len(facts) in hops:
            text, answer = ask(form), facts[-1].value
            info = {"hops": len(facts), "statements": [str(f) for f in facts], "subject": subject}
            tasks.append(Task(f"world/{text}", text, answer, f"{len(facts)}-hop", info))
    Random(f"chains/{seed}").shuffle(tasks)
    return tasks


def look_up(world: World, top: int = 1) -> Callable[..., str]:
    """A search engine by rule. Useful documents begin with the fact that a query "mayor of Kalo" asks for; noisy ones,
    and those for a query that asks for nothing, are about Kalo and say nothing."""

    def simulate(asked: Any, rng: np.random.Generator) -> str:
        relation, _, subject = asked.query.partition(" of ")
        found = world.facts.get((subject, relation))
        said = [f"{subject or asked.query} {FILLERS[int(n)]}" for n in rng.integers(len(FILLERS), size=top)]
        if found is not None and not asked.noisy:
            said[0] = f"{relation} of {subject}: {found}"
        return "\n".join(f"Doc {n}: {line}" for n, line in enumerate(said, 1))

    return simulate


def _chains(world: World) -> Iterator[tuple[str, Form, list[Fact]]]:
    """(where it begins, description, the facts in the order of looking them up)."""
    for (subject, relation), value in world.facts.items():
        first = Fact(subject, relation, value)
        yield subject, Of(relation, Name(subject)), [first]
        for then in world.about(value):
            yield subject, Of(then.relation, Of(relation, Name(subject))), [first, then]
