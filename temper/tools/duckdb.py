"""SQL over a DuckDB database that nobody can change: `pip install 'temper-rl[duckdb]'`.

Queries run in processes of their own, on a private copy that is opened read-only, without access to files, network or
extensions, and with a locked configuration. A query that takes too long or too much memory costs its process.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

from temper.errors import UserError
from temper.tools.base import Fault, Result
from temper.tools.child import Child, Ended, Late, Said
from temper.tools.sql import CELL, MORE, ROWS, TOTAL, is_script

MEMORY = 3 << 30  # bytes of address space of a process; the database itself keeps to 512 MB
START_SECONDS = 60.0
_WORKER = Path(__file__).with_name("duckdb_worker.py")


class DuckDb:
    """`source` is a database file (it is copied, once) or a script of SQL statements that makes one.

    seconds  of one query; rows  of a result that are shown; workers  queries that run at once
    """

    own_deadline = True  # waiting for a free process is not the policy's fault

    def __init__(
        self,
        source: str | Path,
        *,
        seconds: float = 3.0,
        rows: int = ROWS,
        workers: int = 2,
        name: str = "sql",
        description: str = "",
    ):
        self.seconds, self.rows, self.workers, self.name = seconds, rows, workers, name
        self._directory = tempfile.TemporaryDirectory(prefix="temper-duckdb-", ignore_cleanup_errors=True)
        self._file = Path(self._directory.name) / "copy.duckdb"
        _copy(source, self._file)
        self._idle: list[Child] = []
        self._turns: tuple[Any, asyncio.Semaphore] | None = None
        tables = self.execute("SELECT table_name FROM duckdb_tables()", START_SECONDS).text.splitlines()[1:]
        self.description = description or f"Runs one DuckDB query and returns its rows. Tables: {', '.join(tables)}."

    @property
    def parameters(self) -> dict[str, Any]:
        query = {"type": "string", "description": "one SELECT statement", "maxLength": 20_000}
        return {"type": "object", "properties": {"query": query}, "required": ["query"]}

    async def __call__(self, query: str) -> Result:
        async with self._turn():
            return await asyncio.to_thread(self.execute, query, self.seconds)

    def execute(self, query: str, seconds: float) -> Result:
        """The header and the rows as lines, values separated by " | "."""
        if not self._file.exists():
            raise Fault("the copy of the database is gone")
        child = self._child()
        message = {"file": str(self._file), "query": query, "rows": self.rows, "cell": CELL, "total": TOTAL}
        try:
            answer = child.ask(message, seconds)
        except Late:
            return Result(f"The query was stopped after {seconds:g} s.", "timeout")
        except (Ended, Said) as error:
            return Result(f"The query could not be run to its end: {error}", "tool error")
        finally:
            if child.alive:
                self._idle.append(child)
        if "lines" in answer:
            return Result("\n".join([*answer["lines"], *[MORE][: answer["more"]]]))
        if "refused" in answer:
            return Result(str(answer["refused"]), "refused")
        return Result(str(answer["wrong"]), "tool error")

    def close(self) -> None:
        """End the processes and remove the copy."""
        while self._idle:
            self._idle.pop().close()
        self._directory.cleanup()

    def _child(self) -> Child:
        """A process that waits for a question."""
        while self._idle:
            child = self._idle.pop()
            if child.alive:
                return child
            child.close()
        child = Child(_WORKER, memory=MEMORY)
        try:
            child.ask({"file": str(self._file), "query": "SELECT 1", "rows": 1, "cell": 1, "total": 1}, START_SECONDS)
        except (Late, Said) as error:
            raise Fault(f"the database process does not start: {error}") from None
        return child

    def _turn(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if self._turns is None or self._turns[0] is not loop:
            self._turns = loop, asyncio.Semaphore(self.workers)
        return self._turns[1]


def _copy(source: str | Path, target: Path) -> None:
    try:
        import duckdb
    except ImportError:
        raise UserError("the DuckDB tool needs the package duckdb: pip install 'temper-rl[duckdb]'") from None
    if not is_script(source) and not os.path.isfile(source):
        raise UserError(f"the DuckDB tool needs a database file or a script, {str(source)[:200]!r} is neither")
    try:
        with duckdb.connect(str(target) if is_script(source) else ":memory:") as made:
            if is_script(source):
                made.execute(str(source))
                return
            for name, file, options in (("original", source, " (READ_ONLY)"), ("copy", target, "")):
                quoted = str(file).replace("'", "''")
                made.execute(f"ATTACH '{quoted}' AS {name}{options}")
            made.execute("COPY FROM DATABASE original TO copy")
    except duckdb.Error as error:
        raise UserError(f"the DuckDB tool cannot read its database: {error}") from None
