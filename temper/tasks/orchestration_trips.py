"""A bundled cache of made-up travel APIs with workflow templates, small enough for the bundled model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temper import streams
from temper.tasks.orchestration import Step, Template
from temper.tasks.orchestration_cache import ApiCache

CITIES = tuple(a + b for a in ("Ka", "Mi", "Tor", "Su", "Pra", "De") for b in ("lo", "ren", "va", "no", "mi"))
NAMES = ("Anna", "Boris", "Clara", "David", "Erik", "Fiona", "Greta", "Hugo", "Ines", "Jonas")
# function, argument, what it gives
FUNCTIONS = (
    ("home", "name", "city"),
    ("hotel", "city", "hotel"),
    ("room", "hotel", "room"),
    ("book", "room", "code"),
    ("tour", "city", "tour"),
    ("seat", "tour", "seat"),
    ("car", "city", "car"),
    ("key", "car", "key"),
    ("sky", "city", "sky"),
)


def cache(seed: int = 0) -> ApiCache:
    """Every function's response to every value that it can be asked about."""
    values: dict[str, Sequence[str]] = {"name": NAMES, "city": CITIES}
    entries: dict[str, list[dict[str, Any]]] = {}
    for name, argument, gives in FUNCTIONS:
        rng = streams.generator(seed, "trips", name)
        asked = values[argument]
        codes = [f"{gives[0]}{k}" for k in rng.permutation(90)[: len(asked)] + 10]
        found = [str(c) for c in rng.choice(CITIES, len(asked))] if gives == "city" else codes
        entries[name] = [
            {"arguments": {argument: a}, "response": {gives: r}} for a, r in zip(asked, found, strict=True)
        ]
        values.setdefault(gives, found)
    return ApiCache(entries)


def linear(id: str, ask: str, *functions: str) -> Template:
    """Each step takes what the one before it gives."""
    about = {name: (argument, gives) for name, argument, gives in FUNCTIONS}
    steps = [Step(functions[0])]
    for n, name in enumerate(functions[1:]):
        steps.append(Step(name, (n,), {about[name][0]: (n, about[functions[n]][1])}))
    return Template(id, tuple(steps), ask)


def beside(id: str, ask: str, one: Template, other: Template) -> Template:
    """Two workflows that do not depend on each other."""
    n = len(one.steps)
    moved = [
        Step(s.function, tuple(k + n for k in s.after), {a: (k + n, p) for a, (k, p) in s.takes.items()})
        for s in other.steps
    ]
    return Template(id, (*one.steps, *moved), ask)


ROOM = linear("room", "Find a room in {city}.", "hotel", "room")
SEAT = linear("seat", "Find a seat of a tour in {city}.", "tour", "seat")
KEY = linear("key", "Get the key of a car in {city}.", "car", "key")
SKY = Template("sky", (Step("sky"),), "How is the sky in {city}?")
TEMPLATES = (
    ROOM,
    SEAT,
    KEY,
    linear("book", "Book a room in {city}.", "hotel", "room", "book"),
    linear("home-room", "Find a room where {name} lives.", "home", "hotel", "room"),
    linear("home-seat", "Find a seat of a tour where {name} lives.", "home", "tour", "seat"),
    beside("room-sky", "Find a room in {0.city} and say how the sky is in {2.city}.", ROOM, SKY),
    beside("key-sky", "Get the key of a car in {0.city} and say how the sky is in {2.city}.", KEY, SKY),
)
