"""Calculator, dictionary, SQL, search."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from temper.errors import UserError
from temper.tools.base import Result, Tool
from temper.tools.calculator import Calculator
from temper.tools.dictionary import Dictionary
from temper.tools.search import Search
from temper.tools.sql import Sql

SCRIPT = "CREATE TABLE city (name TEXT, people INT); INSERT INTO city VALUES ('Oslo', 709), ('Bergen', 289), (NULL, 1);"


def use(tool: Tool, **arguments: Any) -> Result:
    return asyncio.run(tool(**arguments))


@pytest.mark.parametrize(
    "expression, value",
    [
        ("2**61 - 1", "2305843009213693951"),
        ("(12 + 3) * 4", "60"),
        ("6 / 2", "3"),
        ("7 // 2 + 7 % 2", "4"),
        ("2^10 × 3 ÷ 4", "768"),
        ("sqrt(2)", "1.4142135623730951"),
        ("round(2.5) - -1", "3"),
        ("max(1, 2, gcd(12, 18))", "6"),
        ("2 ** -1", "0.5"),
        ("1 ** 999999999", "1"),
    ],
)
def test_calculator(expression: str, value: str) -> None:
    assert use(Calculator(), expression=expression) == Result(value)


@pytest.mark.parametrize(
    "expression",
    [
        *("1/0", "9**9**9**9", "9**99999", "2**-99999999", "1e308*10", "(-8)**0.5", "x", "().__class__", ""),
        *("__import__('os')", "'a'*3", "[1]*9", "True", "lambda: 1", "1 if 1 else 2", "exp(1e9)", "max()", "abs(1, 2)"),
        *("1;2", "1\n2", "\0", "(" * 400 + "1" + ")" * 400, "1" * 1001, "sqrt(10**400)", "10**400 / 3", "1 @ 2"),
    ],
)
def test_calculator_refuses(expression: str) -> None:
    began = time.monotonic()
    result = use(Calculator(), expression=expression)
    assert result.outcome == "tool error"
    assert len(result.text) < 300
    assert time.monotonic() - began < 0.5


def test_dictionary() -> None:
    tool = Dictionary({"Ebb  tide": "water going out", "flood": "water coming in"})
    assert use(tool, word="ebb TIDE ") == Result("water going out")
    assert use(tool, word="floot") == Result("No entry 'floot'. Near: flood.", "tool error")


@pytest.fixture(scope="module")
def sql() -> Sql:
    return Sql(SCRIPT, seconds=0.4, rows=5)


def test_sql_reads(sql: Sql) -> None:
    assert use(sql, query="SELECT name, people FROM city ORDER BY people DESC").text == (
        "name | people\nOslo | 709\nBergen | 289\nNULL | 1"
    )
    assert use(sql, query="WITH c AS (SELECT 1 AS a) SELECT a, upper('x') FROM c;").text == "a | upper('x')\n1 | X"
    assert "city" in sql.description


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM city",
        "DROP TABLE city",
        "INSERT INTO city VALUES ('x', 1)",
        "CREATE TABLE t (a)",
        "CREATE TEMP TABLE t (a)",
        "ATTACH DATABASE '/etc/passwd' AS p",
        "PRAGMA writable_schema = 1",
        "SELECT load_extension('x')",
        "SELECT 1; DROP TABLE city",
        "VACUUM INTO '/tmp/out.db'",
        "BEGIN",
        "CREATE VIRTUAL TABLE v USING fts5(a)",
    ],
)
def test_sql_refuses(sql: Sql, query: str) -> None:
    assert use(sql, query=query).outcome == "refused"
    assert use(sql, query="SELECT count(*) FROM city").text.endswith("3")


def test_sql_limits(sql: Sql) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {} FROM n"
    began = time.monotonic()
    assert use(sql, query=endless.format("max(i)")).outcome == "timeout"
    assert time.monotonic() - began < 3
    many = use(sql, query=endless.format("i"))
    assert many.text.splitlines() == ["i", *"12345", "[… more rows left out …]"]
    assert use(sql, query="SELECT zeroblob(1000000000)").outcome == "tool error"
    assert len(use(sql, query="SELECT printf('%.*c', 200000, 'x')").text) < 1000
    for wrong in ("SELECT nothing FROM city", "SELEC", "", "SELECT '\0'", "SELECT '\ud800'", "SELECT ?"):
        assert use(sql, query=wrong).outcome in ("tool error", "ok")


def test_sql_works_on_a_copy(tmp_path: Path) -> None:
    file = tmp_path / "a b?.sqlite"
    with sqlite3.connect(file) as original:
        original.executescript(SCRIPT)
    before = file.read_bytes()
    tool = Sql(file)
    file.unlink()
    assert use(tool, query="SELECT people FROM city WHERE name = 'Oslo'").text == "people\n709"
    assert before
    tool.close()
    with pytest.raises(UserError, match="neither"):
        Sql(tmp_path / "none.sqlite")


def test_search() -> None:
    pytest.importorskip("bm25s")
    tool = Search(
        ["Tides follow the moon.", {"title": "Harbour", "text": "Ships wait for the tide."}, "Bread needs salt."]
    )
    assert tool.find("moon tides") == [0]
    assert use(tool, query="the ships").text.startswith("[1] Harbour\nShips")
    assert use(tool, query="zebra").text == "No document matches."
    assert use(tool, query="!!").text == "No document matches."
