"""Results of SQL queries as tables to compare: run on a copy that nobody can change, bounded, remembered."""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter, OrderedDict
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from temper.tools.sql import Sql

ROWS, SIZE = 10_000, 1 << 24  # of a result that is compared: rows, characters
KEPT = 2048  # results remembered for each database
DIGITS = 6  # of a number that count behind the point

Row = tuple[Any, ...]


class Table(NamedTuple):
    """rows: None where the query failed; why: what it failed of; seconds: that it took."""

    rows: tuple[Row, ...] | None
    why: str = ""
    seconds: float = 0.0


class Database(Sql):
    """A database whose results are compared, and remembered (but for time-outs)."""

    def __init__(self, source: str):
        super().__init__(source)
        self._kept: OrderedDict[str, Table] = OrderedDict()

    def table(self, query: str, seconds: float) -> Table:
        if query not in self._kept:
            found = self._table(query, seconds)
            if found.why == "timeout":
                return found
            self._kept[query] = found
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(query)
        return self._kept[query]

    def _table(self, query: str, seconds: float) -> Table:
        began = time.monotonic()
        until = began + seconds
        connection = self._open(until)
        rows: list[Row] = []
        size = 0
        try:
            for row in connection.execute(query):
                size += sum(len(str(cell)) for cell in row)
                if len(rows) == ROWS or size > SIZE:
                    return Table(None, "too large")
                rows.append(tuple(map(_cell, row)))
        except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
            late = time.monotonic() >= until
            return Table(None, "timeout" if late else f"{type(error).__name__}: {error}"[:200])
        finally:
            connection.close()
        return Table(tuple(rows), seconds=time.monotonic() - began)


@lru_cache(maxsize=32)
def database(source: str) -> Database:
    """One copy in a process."""
    return Database(source)


def _cell(value: Any) -> Any:
    """Equal values of different types are one: 1, 1.0 and 1.0000001."""
    return round(value, DIGITS) + 0 if isinstance(value, float) else value


_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/", re.DOTALL)


def is_ordered(query: str) -> bool:
    """Whether the query itself asks for an order: ORDER BY outside of quotes, comments and parentheses."""
    text, before = _QUOTED.sub(" ", query), None
    while text != before:
        text, before = re.sub(r"\([^()]*\)", " ", text), text
    return re.search(r"\border\s+by\b", text, re.IGNORECASE) is not None


def same(found: tuple[Row, ...], wanted: tuple[Row, ...], ordered: bool = False, duplicates: bool = True) -> bool:
    """Equal rows, each as often as in the reference (`duplicates`), in its order where it asks for one (`ordered`).

    Columns are compared by place, never by name.
    """
    if not duplicates:
        return set(found) == set(wanted)
    return found == wanted if ordered else Counter(found) == Counter(wanted)


def overlap(found: tuple[Row, ...], wanted: tuple[Row, ...]) -> float:
    """Mean of QATCH's cell precision, cell recall (over different cells) and tuple cardinality, 0 … 1."""
    if not found or not wanted:
        return float(len(found) == len(wanted))
    a, b = set(chain.from_iterable(found)), set(chain.from_iterable(wanted))
    cardinality = min(len(found), len(wanted)) / max(len(found), len(wanted))
    return (len(a & b) / len(a) + len(a & b) / len(b) + cardinality) / 3
