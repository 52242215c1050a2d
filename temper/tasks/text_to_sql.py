"""Questions to a database, with reference queries: rows of BIRD and Spider as tasks, and small made-up databases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from temper.errors import UserError
from temper.rewards.sql import schema
from temper.tasks.task import Task

PROMPT = (
    "Answer the question with one SQLite query. Think about it between <think> and </think>, then write the query, and "
    "nothing else, between <answer> and </answer>.\n\nQuestion: {question}\nEvidence: {evidence}\n\nSchema:\n{schema}"
)


def rows_as_tasks(tasks: Sequence[Task], databases: Path) -> list[Task]:
    """Rows with `question`, the reference in `SQL` or `query` or `answer`, and `db` (a file) or `db_id`.

    databases  folder of DB_ID/DB_ID.sqlite. The prompt gets the schema (a row's own `schema`, else the database's) and
    the row's `evidence`. UserError names the row that lacks something.
    """
    return [_row_as_task(t, databases) for t in tasks]


def _row_as_task(task: Task, databases: Path) -> Task:
    info = task.info
    reference = info.get("SQL") or info.get("query") or task.answer
    name = info.get("db_id")
    db = info.get("db") or (str(databases / str(name) / f"{name}.sqlite") if name else None)
    if not reference or not db:
        raise UserError(f"task {task.id!r} needs a reference (SQL, query or answer) and a database (db or db_id)")
    if not Path(db).is_file() and ";" not in str(db):
        raise UserError(f"the database of task {task.id!r} is not there ({db}): --databases FOLDER says where they are")
    shown = info.get("schema") or schema(str(db))
    question = str(task.messages[-1]["content"])
    prompt = PROMPT.format(question=question, evidence=info.get("evidence") or "none", schema=shown)
    kept = {k: v for k, v in info.items() if k not in ("query", "SQL", "answer")}
    return replace(task, prompt=prompt, answer=str(reference), info={**kept, "db": str(db)})


# made-up databases ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A table of a made-up database: its name, a text column with its values, and a column of numbers."""

    table: str
    label: str
    values: tuple[str, ...]
    number: str
    highest: int


KINDS = (
    Kind("pet", "kind", ("cat", "dog", "fox"), "age", 20),
    Kind("book", "genre", ("poem", "play", "tale"), "pages", 90),
    Kind("boat", "port", ("Kalo", "Mira", "Suva"), "crew", 30),
    Kind("shop", "town", ("Deva", "Pran", "Vato"), "staff", 60),
)


def script(kind: Kind, seed: int, rows: int = 12) -> str:
    """Statements that make the table, filled at random; names are unique."""
    rng = Random(f"table/{kind.table}/{seed}")
    cells = [(f"{kind.table[0]}{n}", rng.choice(kind.values), rng.randrange(1, kind.highest)) for n in range(rows)]
    made = f"CREATE TABLE {kind.table} (name TEXT, {kind.label} TEXT, {kind.number} INT);"
    return f"{made} INSERT INTO {kind.table} VALUES {', '.join(map(str, cells))};"


def about_tables(seed: int = 0) -> list[Task]:
    """Every question about every made-up table, shuffled; the prompt begins with the table's columns."""
    tasks = []
    for kind in KINDS:
        db = script(kind, seed)
        for source, question, query in _about(kind):
            prompt = f"{kind.table}(name, {kind.label}, {kind.number}) {question}"
            tasks.append(Task(f"sql/{prompt}", prompt, query, source, {"db": db}))
    Random(f"sql/{seed}").shuffle(tasks)
    return tasks


def _about(kind: Kind) -> Iterator[tuple[str, str, str]]:
    """(source, question, reference)."""
    table, label, number = kind.table, kind.label, kind.number
    for value in kind.values:
        yield "count", f"How many {value}?", f"SELECT count(*) FROM {table} WHERE {label}='{value}'"
        yield "most", f"Most {number} of {value}?", f"SELECT max({number}) FROM {table} WHERE {label}='{value}'"
        yield "list", f"Names of {value}?", f"SELECT name FROM {table} WHERE {label}='{value}'"
        yield (
            "order",
            f"Names of {value} by {number}?",
            (f"SELECT name FROM {table} WHERE {label}='{value}' ORDER BY {number}"),
        )
    for bound in range(2, 20):
        yield "count", f"How many over {bound} {number}?", f"SELECT count(*) FROM {table} WHERE {number}>{bound}"
        yield "list", f"Names over {bound} {number}?", f"SELECT name FROM {table} WHERE {number}>{bound}"
        yield (
            "order",
            f"Names over {bound} {number} by {number}?",
            (f"SELECT name FROM {table} WHERE {number}>{bound} ORDER BY {number}"),
        )
