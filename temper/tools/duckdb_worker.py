"""Answers queries in a process of its own (see `temper.tools.lines`): one reading statement, on a locked database."""

import duckdb

LOCKED = {
    "access_mode": "READ_ONLY",
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "threads": "1",
    "memory_limit": "512MB",
    "lock_configuration": "true",
}
SAYS_NO = ("Permission Error", "in read-only mode", "has been locked", "Loading external extensions")


def answer(message):
    """{"lines": header and rows, "more": whether rows are left out}, or {"refused": why} or {"wrong": why}."""
    connection = duckdb.connect(message["file"], config=LOCKED)
    try:
        return _read(connection, message)
    except duckdb.Error as error:
        text = str(error)
        return {"refused" if any(why in text for why in SAYS_NO) else "wrong": f"{type(error).__name__}: {text}"}
    finally:
        connection.close()


def _read(connection, message):
    statements = connection.extract_statements(message["query"])
    if not statements:
        return {"wrong": "there is no statement"}
    if len(statements) > 1 or statements[0].type != duckdb.StatementType.SELECT:
        return {"refused": "only one statement that reads is allowed"}
    cursor = connection.execute(statements[0])
    lines, size = [" | ".join(column[0] for column in cursor.description)], 0
    while (row := cursor.fetchone()) is not None:
        if len(lines) > message["rows"] or size > message["total"]:
            return {"lines": lines, "more": True}
        lines.append(" | ".join(_cell(value, message["cell"]) for value in row))
        size += len(lines[-1])
    return {"lines": lines, "more": False}


def _cell(value, limit):
    text = "NULL" if value is None else value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
