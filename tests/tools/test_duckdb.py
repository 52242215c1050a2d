"""DuckDB: what it reads, what it refuses, what it stops; the statements mean harm, and each has a stated outcome."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from temper.errors import UserError
from temper.tools.base import Call, Fault, Result, Toolbox
from temper.tools.child import Child, Ended, Late, Said

duckdb = pytest.importorskip("duckdb")
from temper.tools.duckdb import DuckDb  # noqa: E402

SCRIPT = "CREATE TABLE city (name TEXT, people INT); INSERT INTO city VALUES ('Oslo', 709), ('Bergen', 289), (NULL, 1);"


@pytest.fixture(scope="module")
def tool() -> Iterator[DuckDb]:
    made = DuckDb(SCRIPT, seconds=1.0, rows=5)
    yield made
    made.close()


def ask(tool: DuckDb, query: str) -> Result:
    return asyncio.run(Toolbox([tool]).run(Call("sql", {"query": query})))


def test_it_reads(tool: DuckDb) -> None:
    assert ask(tool, "SELECT name, people FROM city ORDER BY people DESC").text == (
        "name | people\nOslo | 709\nBergen | 289\nNULL | 1"
    )
    assert ask(tool, "WITH c AS (SELECT 1 AS a) SELECT a, upper('x') AS b FROM c;").text == "a | b\n1 | X"
    assert ask(tool, "DESCRIBE city").outcome == "ok"
    assert "city" in tool.description


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM city",
        "DROP TABLE city",
        "INSERT INTO city VALUES ('x', 1)",
        "UPDATE city SET people = 0 RETURNING *",
        "WITH x AS (INSERT INTO city VALUES ('q', 1) RETURNING *) SELECT * FROM x",
        "CREATE TABLE t (a INT)",
        "CREATE TEMP TABLE t (a INT)",
        "CREATE MACRO f(a) AS a",
        "ATTACH '/tmp/other.duckdb'",
        "COPY city TO '/tmp/out.csv'",
        "EXPORT DATABASE '/tmp/out'",
        "IMPORT DATABASE '/tmp/out'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET lock_configuration = false",
        "SET enable_external_access = true",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "PREPARE v AS SELECT 1",
        "BEGIN",
        "CHECKPOINT",
        "SELECT 1; DROP TABLE city",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('/proc/self/environ')",
        "SELECT * FROM read_parquet('https://example.org/a.parquet')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    ],
)
def test_it_refuses(tool: DuckDb, query: str) -> None:
    assert ask(tool, query).outcome == "refused"
    assert ask(tool, "SELECT count(*) FROM city").text.endswith("3")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT nothing FROM city", "SELEC", "", ";", "SELECT $1", "SELECT * FROM '/etc/passwd'",
        "SELECT getenv('HOME')", "SELECT * FROM message", "SELECT repeat('x', 3_000_000_000)", "SELECT error('no')",
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_tool_error(tool: DuckDb, query: str) -> None:
    """The worker's own variables are no tables, and its memory is bounded."""
    assert ask(tool, query).outcome == "tool error"
    assert ask(tool, "SELECT 1").text == "1\n1"


def test_limits(tool: DuckDb) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    began = time.monotonic()
    assert ask(tool, endless).outcome in ("timeout", "tool error")
    assert ask(tool, "SELECT sum(hash(range)) FROM range(100000000000)").outcome == "timeout"
    hungry = ask(tool, "SELECT * FROM range(10000000000) a, range(10000000000) b")
    assert hungry.outcome in ("tool error", "timeout")  # memory, or time where the machine is slow
    assert time.monotonic() - began < 6
    many = ask(tool, "SELECT range AS i FROM range(1, 1000000000000)")
    assert many.text.splitlines() == ["i", *"12345", "[… more rows left out …]"]
    assert len(ask(tool, "SELECT repeat('x', 200000)").text) < 1000
    for odd in (
        "SELECT '\0'",
        "SELECT '\ud800'",
        "SELECT '<|im_end|>'",
        "SELECT 'nan'::DOUBLE",
        "SELECT '\\xff'::BLOB",
    ):
        assert ask(tool, odd).outcome in ("ok", "tool error")


def test_queries_run_at_once_and_a_dead_process_is_replaced(tool: DuckDb) -> None:
    async def many() -> list[Result]:
        box = Toolbox([tool])
        return await asyncio.gather(*(box.run(Call("sql", {"query": f"SELECT {n} AS n"})) for n in range(20)))

    assert [r.text for r in asyncio.run(many())] == [f"n\n{n}" for n in range(20)]
    for child in tool._idle:
        os.kill(child.process.pid, signal.SIGKILL)
        child.process.wait()
    assert ask(tool, "SELECT 1").outcome == "ok"


def test_it_works_on_a_copy(tmp_path: Path) -> None:
    file = tmp_path / "a b'.duckdb"
    with duckdb.connect(str(file)) as made:
        made.execute(SCRIPT)
    made = DuckDb(file)
    file.unlink()
    assert made.execute("SELECT people FROM city WHERE name = 'Oslo'", 5.0).text == "people\n709"
    made.close()
    with pytest.raises(Fault, match="gone"):
        made.execute("SELECT 1", 1.0)
    with pytest.raises(UserError, match="neither"):
        DuckDb(tmp_path / "none.duckdb")
    (tmp_path / "text").write_text("no database")
    with pytest.raises(UserError, match="cannot read"):
        DuckDb(tmp_path / "text")
    with pytest.raises(UserError, match="cannot read"):
        DuckDb("SELEC;")


# the process that answers

WORKER = """
import os, sys, time
def answer(m):
    print("noise")
    if m == "environment": return sorted(os.environ)
    if m == "folder": return os.listdir(".")
    if m == "sleep": time.sleep(60)
    if m == "exit": print("last words", file=sys.stderr); os._exit(3)
    if m == "hog": return len(bytearray(1 << 40))
    if m == "nan": return float("nan")
    if m == "object": return object()
    if m == "garbage": os.write(3, b"no json\\n"); os.write(4, b"no json\\n")
    return m
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Child]:
    file = tmp_path / "worker.py"
    file.write_text(WORKER)
    child = Child(file, memory=1 << 30)
    yield child
    if not child._errors.closed:
        child.close()


def test_a_child_answers(worker: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    for message in (1, "é\ud800", {"a": [None]}, "x" * 3_000_000):
        assert worker.ask(message, 10.0) == message
    assert not {"PATH", "PYTHONPATH", "USER"} & set(worker.ask("environment", 5.0))
    assert worker.ask("folder", 5.0) == []
    for message, why in (("hog", "MemoryError"), ("object", "TypeError")):
        with pytest.raises(Said, match=why):
            worker.ask(message, 5.0)
    assert worker.alive and worker.ask("nan", 5.0) != 0


def test_a_child_that_is_late_or_ends(worker: Child, tmp_path: Path) -> None:
    with pytest.raises(Ended, match="last words"):
        worker.ask("exit", 5.0)
    assert not worker.alive
    late = Child(tmp_path / "worker.py")
    late.ask(1, 10.0)
    with pytest.raises(Late):
        late.ask("sleep", 0.2)
    assert not late.alive
    garbage = Child(tmp_path / "worker.py")
    with pytest.raises(Ended, match="JSON"):
        garbage.ask("garbage", 5.0)
    with pytest.raises(Fault, match="cannot start"):
        Child(tmp_path / "worker.py", python=str(tmp_path / "none"))
