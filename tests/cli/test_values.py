"""Text as values, and command lines as options."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from temper.cli import options, values
from temper.errors import UserError
from temper.recipe import Option


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", int, 3),
        ("1e3", int, 1000),
        ("10_000", int, 10_000),
        ("1e-4", float, 1e-4),
        ("-2", float, -2.0),
        ("x", str, "x"),
        ("yes", bool, True),
        ("off", bool, False),
        ("none", int | None, None),
        ("4", int | None, 4),
        ("none", Optional[str], None),  # noqa: UP045
        ("1,2.5", tuple[float, ...], (1.0, 2.5)),
        ("a, b", list[str], ["a", "b"]),
        ("", tuple[str, ...], ()),
        ("1,x", tuple[int, str], (1, "x")),
        ("b", Literal["a", "b"], "b"),
        ("2", Literal[1, 2], 2),
        ("a=1,b=2", Mapping[str, float], {"a": 1.0, "b": 2.0}),
        ("auto", float | str, "auto"),
        ("0.5", float | str, 0.5),
        ("x/y", Path, Path("x/y")),
    ],
)
def test_text_becomes_what_the_annotation_says(text: str, kind: Any, value: Any) -> None:
    found = values.parse(text, kind)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "kind", "wanted"),
    [
        ("x", int, "a whole number"),
        ("1.5", int, "a whole number"),
        ("x", float, "a number"),
        ("maybe", bool, "true or false"),
        ("c", Literal["a", "b"], "one of a, b"),
        ("x", int | None, "a whole number"),
        ("1,x", tuple[int, ...], "a whole number"),
        ("1", tuple[int, int], "2 values separated by commas"),
        ("a", Mapping[str, float], "key=value"),
    ],
)
def test_other_text_is_refused_with_what_was_wanted(text: str, kind: Any, wanted: str) -> None:
    with pytest.raises(UserError, match=f"--it wants .*{wanted}.*, not {text!r}"):
        values.convert("--it", text, kind)


def test_what_no_text_stands_for_is_for_python_only() -> None:
    assert not values.takes_text(Callable[[int], int])
    with pytest.raises(UserError, match="Python callers only"):
        values.convert("--it", "x", Callable[[int], int])


OPTIONS = [
    Option("model", str, "m", "", "r"),
    Option("lr", float, 1e-3, "", "r"),
    Option("verbose", bool, False, "", "r"),
    Option("tags", tuple[str, ...], (), "", "r"),
    Option("resume", bool | Path, False, "", "r"),
    Option("max_tokens", int, 1, "", "r"),
]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("--model x --lr 2", {"model": "x", "lr": 2.0}),
        ("--model=a=b", {"model": "a=b"}),
        ("--lr -2", {"lr": -2.0}),
        ("--verbose --model x", {"verbose": True, "model": "x"}),
        ("--no-verbose", {"verbose": False}),
        ("--verbose false", {"verbose": False}),
        ("--max-tokens 3", {"max_tokens": 3}),
        ("--max_tokens 3", {"max_tokens": 3}),
        ("--tags a,b --tags c", {"tags": ("a", "b", "c")}),
        ("--resume", {"resume": True}),
        ("--resume there", {"resume": Path("there")}),
        ("--resume --lr 1", {"resume": True, "lr": 1.0}),
    ],
)
def test_a_command_line(line: str, found: dict[str, Any]) -> None:
    assert options.parse(line.split(), OPTIONS) == found


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("--modle x", "unknown option '--modle'; did you mean --model"),
        ("--zzz", "unknown option '--zzz'; there are: --lr, --max-tokens"),
        ("--model", "--model needs a value"),
        ("--model --lr 1", "--model needs a value"),
        ("x", "unexpected argument 'x'"),
        ("--no-model", "unknown option '--no-model'"),
    ],
)
def test_a_wrong_command_line(line: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        options.parse(line.split(), OPTIONS)


def test_options_by_position() -> None:
    assert options.parse(["x", "--lr", "1"], OPTIONS, ["model"]) == {"model": "x", "lr": 1.0}


def test_only_some_options_of_a_line() -> None:
    wanted = [o for o in OPTIONS if o.name == "resume"]
    assert options.pick(["--foo", "1", "--resume", "there", "--bar"], wanted) == {"resume": Path("there")}
