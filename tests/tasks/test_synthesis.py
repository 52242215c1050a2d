"""Questions over a made-up world: what they denote, how they are made harder, and which are kept."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from temper.tasks.knowledge import Both, Fact, Form, Name, Of, Vague, Whose, World, ask
from temper.tasks.synthesis import Draft, Knows, changes, complaints, hardened, names, put, synthesise


@pytest.fixture
def world() -> World:
    made = World(0)
    made.kind = {"Kalo": "country", "Mira": "city", "Suva": "city", "Deva": "country", "Ann": "person", "Cid": "person"}
    made.facts = {
        ("Kalo", "capital"): "Mira",
        ("Deva", "capital"): "Suva",
        ("Mira", "mayor"): "Ann",
        ("Suva", "mayor"): "Cid",
    }
    return made


MAYOR = Draft(Of("mayor", Name("Mira")), "Ann", (Fact("Mira", "mayor", "Ann"),))


@pytest.mark.parametrize(
    "form, fits",
    [
        (Name("Mira"), {"Mira"}),
        (Name("Nobody"), set()),
        (Of("mayor", Of("capital", Name("Kalo"))), {"Ann"}),
        (Whose("country", "capital", Name("Suva")), {"Deva"}),
        (Whose("person", "capital", Name("Suva")), set()),
        (Vague("city", "M"), {"Mira"}),
        (Of("mayor", Vague("city", "")), {"Ann", "Cid"}),
        (Both(Vague("city", ""), Of("capital", Name("Deva"))), {"Suva"}),
    ],
)
def test_what_a_description_fits(world: World, form: Form, fits: set[str]) -> None:
    assert world.denote(form) == fits


def test_questions_read_as_text() -> None:
    form = Of("mayor", Both(Whose("city", "mayor", Name("Ann")), Vague("city", "M")))
    assert ask(form) == "What is the mayor of the city whose mayor is Ann, which is also the city that begins with M?"


def test_actions_by_hand(world: World) -> None:
    found = {d.form for d in changes(world, MAYOR, "SELECT")}
    assert found == {
        Of("mayor", Whose("city", "mayor", Name("Ann"))),
        Of("mayor", Of("capital", Name("Kalo"))),
    }
    (fuzzed,) = changes(world, MAYOR, "FUZZ")
    assert fuzzed.form == Of("mayor", Vague("city", "M")) and fuzzed.facts == MAYOR.facts
    (both,) = changes(world, MAYOR, "BRAINSTORM")
    assert both.form == Of("mayor", Both(Whose("city", "mayor", Name("Ann")), Of("capital", Name("Kalo"))))
    assert both.facts == (*MAYOR.facts, Fact("Kalo", "capital", "Mira")) and both.actions == ("BRAINSTORM",)
    assert [n.name for n in names(both.form)] == ["Ann", "Kalo"]
    assert put(both.form, Name("Kalo"), Name("Deva")) != both.form
    assert list(changes(world, MAYOR, "EXIT")) == []


def test_the_three_checks_by_hand(world: World) -> None:
    def nobody(draft: Draft) -> str:
        return ""

    assert complaints(world, MAYOR, nobody) == []
    assert complaints(world, Draft(MAYOR.form, "Ann", ()), nobody) == ["not supported by its statements"]
    everywhere = Draft(Of("mayor", Vague("city", "")), "Ann", MAYOR.facts)
    assert complaints(world, everywhere, nobody) == ["no single answer"]
    assert complaints(world, MAYOR, lambda draft: "Ann") == ["answered without looking"]
    assert complaints(world, Draft(MAYOR.form, "Cid", MAYOR.facts)) == [
        "not supported by its statements",
        "no single answer",
    ]


def test_somebody_who_knows_answers_what_follows(world: World) -> None:
    assert Knows(world, share=1.0)(MAYOR) == "Ann" and Knows(world, share=0.0)(MAYOR) == ""
    named = Draft(Whose("person", "x", Name("Ann")), "Ann", ())
    assert Knows(world, share=0.0)(named) == "Ann"  # copied from the question


def test_a_step_that_is_not_sound_is_undone(world: World) -> None:
    world.kind["Mall"] = "city"  # M no longer names one city …
    world.facts["Mall", "mayor"] = "Bob"
    world.kind["Bob"] = "person"

    def fuzz(draft: Draft, actions: Sequence[str], rng: Random) -> str:
        return "FUZZ"

    assert hardened(world, MAYOR, Random(0), 3, fuzz) == MAYOR
    del world.facts["Mall", "mayor"]  # … whose mayor is asked for
    assert hardened(world, MAYOR, Random(0), 3, fuzz).actions == ("FUZZ",)


def test_a_model_may_choose_and_answer() -> None:
    world, seen = World(6), list[str]()

    def choose(draft: Draft, actions: Sequence[str], rng: Random) -> str:
        seen.append(draft.question)
        return "SELECT" if len(draft.actions) < 2 else "EXIT"

    tasks = synthesise(world, choose=choose, direct=lambda draft: "")
    assert tasks and all(t.info["actions"] == ["SELECT", "SELECT"] for t in tasks) and len(seen) > len(tasks)
    assert synthesise(world, choose=choose, direct=lambda draft: draft.answer) == []


def test_synthetic_questions_are_sound_and_hard() -> None:
    world = World(40)
    tasks = synthesise(world)
    assert len(tasks) > 40 and tasks == synthesise(world) != synthesise(world, seed=1)
    assert {a for t in tasks for a in t.info["actions"]} == {"SELECT", "FUZZ", "BRAINSTORM"}
    assert max(len(t.info["statements"]) for t in tasks) >= 3
    assert all(str(t.answer) not in str(t.prompt).replace("?", "").split() for t in tasks)
