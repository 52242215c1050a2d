"""SQL over a database that nobody can change: sqlite on a private read-only copy.

A query may read tables and use functions. It may not attach files, set pragmas, load extensions or write; rows, time
and memory are bounded.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from temper.errors import UserError
from temper.tools.base import Fault, Result

ROWS = 100  # of a result
CELL = 400  # characters of one value
_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
_REFUSED_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}
_STEPS = 10_000  # instructions of the database between looks at the clock
_LENGTH = 1 << 18  # bytes of any value on the way
TOTAL = 1 << 20  # characters of a result
MORE = "[… more rows left out …]"


class Sql:
    """`source` is a database file (it is copied, once) or a script of SQL statements that makes one.

    seconds  of one query; rows  of a result that are shown
    """

    own_deadline = True  # waiting for a free thread is not the policy's fault

    def __init__(
        self, source: str | Path, *, seconds: float = 3.0, rows: int = ROWS, name: str = "sql", description: str = ""
    ):
        self.seconds, self.rows, self.name = seconds, rows, name
        self._directory = tempfile.TemporaryDirectory(prefix="temper-sql-", ignore_cleanup_errors=True)
        self._file = Path(self._directory.name) / "copy.sqlite"
        _copy(source, self._file)
        tables = ", ".join(self.execute("SELECT name FROM sqlite_master WHERE type = 'table'")[1:])
        self.description = description or f"Runs one SQLite query and returns its rows. Tables: {tables or 'none'}."

    @property
    def parameters(self) -> dict[str, Any]:
        query = {"type": "string", "description": "one SELECT statement", "maxLength": 20_000}
        return {"type": "object", "properties": {"query": query}, "required": ["query"]}

    async def __call__(self, query: str) -> Result:
        try:
            return Result("\n".join(await asyncio.to_thread(self.execute, query)))
        except _Late:
            return Result(f"The query was stopped after {self.seconds:g} s.", "timeout")
        except _Refused:
            return Result("Only one statement that reads (SELECT, WITH) is allowed.", "refused")
        except OSError as error:
            raise Fault(str(error)) from None
        except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
            return Result(f"{type(error).__name__}: {error}", "tool error")

    def execute(self, query: str) -> list[str]:
        """The header and the rows as lines, values separated by " | "."""
        until = time.monotonic() + self.seconds
        connection = self._open(until)
        try:
            cursor = connection.execute(query)
            names = [column[0] for column in cursor.description or ()]
            return [" | ".join(names), *self._lines(cursor)]
        except (sqlite3.Error, sqlite3.Warning) as error:
            if time.monotonic() >= until:
                raise _Late from None
            if any(why in str(error) for why in _SAYS_NO):
                raise _Refused from None
            raise
        finally:
            connection.close()

    def _lines(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
        """At most `rows` of them and a bounded text."""
        size = 0
        for i, row in enumerate(rows):
            if i == self.rows or size > TOTAL:
                yield MORE
                return
            line = " | ".join(map(_cell, row))
            size += len(line)
            yield line

    def close(self) -> None:
        """Remove the copy."""
        self._directory.cleanup()

    def _open(self, until: float) -> sqlite3.Connection:
        if not self._file.exists():
            raise Fault("the copy of the database is gone")
        address = f"file:{quote(str(self._file))}?mode=ro&immutable=1"
        connection = sqlite3.connect(address, uri=True, isolation_level=None)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cache_size = -16000")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LENGTH)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 200)
        connection.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, 200)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100)
        connection.set_progress_handler(lambda: time.monotonic() >= until, _STEPS)
        connection.set_authorizer(_judge)
        return connection


_SAYS_NO = ("not authorized", "authorization denied", "prohibited", "one statement", "too many attached")


class _Late(Exception):
    """The time of a query is over."""


class _Refused(Exception):
    """The statement is not one that reads."""


def _judge(action: int, first: str | None, second: str | None, *_: Any) -> int:
    if action in _READS:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and second not in _REFUSED_FUNCTIONS:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def is_script(source: str | Path) -> bool:
    """Statements rather than the name of a file."""
    return isinstance(source, str) and ";" in source


def _copy(source: str | Path, target: Path) -> None:
    script = is_script(source)
    if not script and not os.path.isfile(source):
        raise UserError(f"the SQL tool needs a database file or a script, {str(source)[:200]!r} is neither")
    made = sqlite3.connect(target)
    try:
        if script:
            made.executescript(str(source))
            return
        original = sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True)
        try:
            original.backup(made)
        finally:
            original.close()
    except sqlite3.Error as error:
        raise UserError(f"the SQL tool cannot read its database: {error}") from None
    finally:
        made.commit()
        made.close()


def _cell(value: Any) -> str:
    text = "NULL" if value is None else value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= CELL else f"{text[:CELL]}…"
