"""A signature as a list of options, and docstrings as their help."""

from pathlib import Path
from typing import Any, Literal

import pytest

from temper.cli import main, source
from temper.recipe import REQUIRED, extends, helps, prose, signature, summary


def below(
    data: str, lr: float = 1e-3, tags: tuple[str, ...] = (), mode: Literal["a", "b"] = "a", verbose: bool = False
):
    """The recipe below.

    data     where the tasks are, which may
             take two lines
    lr       learning rate; mode: one of two
    """
    return data, lr, tags, mode, verbose


@extends(below, without=("verbose",))
def above(lr: float = 2e-3, extra: int | None = None, **options):
    """The recipe above.

    extra   something more
    """
    return below(lr=lr, **options), extra


def test_a_recipe_has_its_own_options_first_and_then_those_it_extends() -> None:
    found = {o.name: o for o in signature(above)}
    assert list(found) == ["lr", "extra", "data", "tags", "mode"]
    assert found["lr"].default == 2e-3 and found["lr"].recipe == "above"
    assert found["lr"].help == "learning rate"  # of the recipe below: the one above says nothing about it
    assert found["data"].default is REQUIRED and found["data"].recipe == "below"
    assert found["extra"].type == int | None


def test_options_that_are_passed_on_reach_the_recipe_below() -> None:
    assert above(data="x", tags=("t",), extra=3) == (("x", 2e-3, ("t",), "a", False), 3)


def test_a_recipe_that_extends_must_take_the_rest() -> None:
    def lacking(lr: float = 1.0):
        return lr

    with pytest.raises(TypeError, match=r"must take \*\*options"):
        extends(below)(lacking)
    with pytest.raises(TypeError, match="no option 'nothing'"):
        extends(below, without=("nothing",))


def test_help_comes_from_the_lines_of_a_docstring() -> None:
    found = helps(below.__doc__, ["data", "lr", "mode"])
    assert found == {
        "data": "where the tasks are, which may take two lines",
        "lr": "learning rate",
        "mode": "one of two",
    }
    assert helps("scale: of x; a, b: two at once.", ["scale", "a", "b"]) == {
        "scale": "of x",
        "a": "two at once.",
        "b": "two at once.",
    }


def test_a_sentence_that_begins_like_an_option_is_none() -> None:
    doc = "Title.\n\nhigh > low is allowed.\n\nlow   the lower end\nhigh  the upper end"
    assert helps(doc, ["low", "high"])["high"] == "the upper end"
    assert prose(doc, ["low", "high"]) == "Title.\n\nhigh > low is allowed."
    assert helps("high > low is allowed.", ["low", "high"]) == {}


def test_a_summary_is_the_first_paragraph_on_one_line() -> None:
    assert summary("One\ntwo.\n\nThree.") == "One two."
    assert summary(None) == ""


def test_the_source_tells_what_the_import_tells() -> None:
    """Every bundled recipe: its options read without importing it are those that it really has."""
    import importlib

    from temper.cli.values import label

    for entry in source.recipes().values():
        recipe = getattr(importlib.import_module(f"temper.recipes.{entry.file.stem}"), entry.file.stem)
        told = {o.name: o for o in source.options(entry.file, entry.file.stem)}
        real = {o.name: o for o in signature(recipe)}
        assert list(told) == list(real), entry.name
        for name, option in real.items():
            assert label(told[name].type) == label(option.type), (entry.name, name)
            assert told[name].help == option.help
            literal = not isinstance(told[name].default, source.Source)
            assert not literal or told[name].default == option.default, (entry.name, name)


@pytest.mark.parametrize("left_out", ['("method", "name")', "TAKEN", 'tuple(["method", "name"])'])
def test_help_of_a_file_however_it_says_what_it_leaves_out(left_out: str, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from temper.recipe import extends\nfrom temper.recipes.common import post_train\n\n"
        'TAKEN = ("method", "name")\n\n\n'
        f"@extends(post_train, without={left_out})\ndef mine(power: int = 1, **options):\n"
        '    """A recipe.\n\n    power  of it\n    """\n    return post_train(None, name="mine", **options)\n'
    )
    assert main(["run", str(file), "--help"]) == 0
    said = capsys.readouterr().out
    assert "--power INT" in said and "--steps INT" in said and "--name" not in said
