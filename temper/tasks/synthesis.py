"""Questions made harder step by step, and kept where they are sound: ASearcher's synthesis agent, over a made-up world.

A draft begins as one fact. An action SELECTs an entity that it names and injects a fact in its place, FUZZes a name to
its kind and letter, or BRAINSTORMs what else is connected with a name and merges two such facts; EXIT ends it. A step
counts where its question is supported by its statements, has one answer, and cannot be answered without looking.
What chooses, and what answers without looking, are arguments: rules here, a model elsewhere.
(Gao et al. 2025, arXiv 2508.07976, section on data; in the paper all of it is judged by a model, here it is computed.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from temper.tasks.knowledge import Both, Fact, Form, Name, Of, Vague, Whose, World, ask
from temper.tasks.task import Task

ACTIONS = ("SELECT", "FUZZ", "BRAINSTORM", "EXIT")


@dataclass(frozen=True)
class Draft:
    """A question, its answer, the facts that it rests on, and the actions that made it."""

    form: Form
    answer: str
    facts: tuple[Fact, ...]
    actions: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        return ask(self.form)


Choose = Callable[[Draft, Sequence[str], Random], str]  # one of the actions
Direct = Callable[[Draft], str]  # an answer without looking anything up; empty: none


def at_random(draft: Draft, actions: Sequence[str], rng: Random) -> str:
    return rng.choice(actions)


@dataclass(frozen=True)
class Knows:
    """Answers what follows from a share of the world's facts, and what the question itself names."""

    world: World
    share: float = 0.2
    seed: int = 0

    def __call__(self, draft: Draft) -> str:
        known = [Fact(s, r, v) for (s, r), v in self.world.facts.items() if self._familiar(s)]
        found = self.world.only(known).denote(draft.form)
        named = {n.name for n in names(draft.form)}
        return min(found or (named & {draft.answer})) if len(found) == 1 or draft.answer in named else ""

    def _familiar(self, subject: str) -> bool:
        return Random(f"knows/{self.seed}/{subject}").random() < self.share


def synthesise(
    world: World,
    seed: int = 0,
    *,
    steps: int = 16,
    choose: Choose = at_random,
    direct: Direct | None = None,
) -> list[Task]:
    """A task from every fact whose draft ends sound; info: statements, and the actions that made it.

    steps   most actions on a draft; an action that makes it unsound is undone
    direct  who tries to answer without looking (None: `Knows(world)`)
    """
    direct = direct or Knows(world)
    tasks = []
    for (subject, relation), value in world.facts.items():
        start = Draft(Of(relation, Name(subject)), value, (Fact(subject, relation, value),))
        rng = Random(f"synthesis/{seed}/{subject}/{relation}")
        draft = hardened(world, start, rng, steps, choose)
        if draft.actions and not complaints(world, draft, direct):
            info = {"statements": [str(f) for f in draft.facts], "actions": list(draft.actions)}
            tasks.append(Task(f"synthetic/{draft.question}", draft.question, value, "synthetic", info))
    return tasks


def hardened(world: World, draft: Draft, rng: Random, steps: int, choose: Choose) -> Draft:
    """The draft after EXIT, or after so many actions."""
    for _ in range(steps):
        action = choose(draft, ACTIONS, rng)
        if action == "EXIT":
            break
        options = list(changes(world, draft, action))
        if options:
            changed = rng.choice(options)
            draft = draft if complaints(world, changed) else changed
    return draft


def complaints(world: World, draft: Draft, direct: Direct | None = None) -> list[str]:
    """What is wrong with a draft; empty: nothing. With `direct`, also whether it can be answered without looking."""
    found = []
    if world.only(draft.facts).denote(draft.form) != {draft.answer}:
        found.append("not supported by its statements")
    if world.denote(draft.form) != {draft.answer}:
        found.append("no single answer")
    if direct is not None and direct(draft) == draft.answer:
        found.append("answered without looking")
    return found


# actions --------------------------------------------------------------------------------------------------------------


def changes(world: World, draft: Draft, action: str) -> Iterator[Draft]:
    """Every draft that one action can make of this one."""
    for name in names(draft.form):
        for form, facts in _instead(world, name.name, action):
            merged = tuple(dict.fromkeys((*draft.facts, *facts)))
            yield replace(draft, form=put(draft.form, name, form), facts=merged, actions=(*draft.actions, action))


def _instead(world: World, name: str, action: str) -> Iterator[tuple[Form, tuple[Fact, ...]]]:
    """What may stand in a name's place, and the facts that it takes."""
    kind = world.kind[name]
    if action == "FUZZ":
        yield Vague(kind, name[0]), ()
        return
    told: list[tuple[Form, Fact]] = [(Whose(kind, f.relation, Name(f.value)), f) for f in world.about(name)]
    told += [(Of(f.relation, Name(f.subject)), f) for f in world.naming(name)]
    if action == "SELECT":
        yield from ((form, (fact,)) for form, fact in told)
    if action == "BRAINSTORM":
        for n, (form, fact) in enumerate(told):
            yield from ((Both(form, other), (fact, also)) for other, also in told[n + 1 :])


def names(form: Form) -> list[Name]:
    """Every name that a description holds."""
    match form:
        case Name():
            return [form]
        case Of(_, of):
            return names(of)
        case Whose(_, _, value):
            return names(value)
        case Both(first, second):
            return [*names(first), *names(second)]
        case _:
            return []


def put(form: Form, name: Name, new: Form) -> Form:
    """The description with `new` in place of a name."""
    match form:
        case Name():
            return new if form == name else form
        case Of(relation, of):
            return Of(relation, put(of, name, new))
        case Whose(kind, relation, value):
            return Whose(kind, relation, put(value, name, new))
        case Both(first, second):
            return Both(put(first, name, new), put(second, name, new))
        case _:
            return form
