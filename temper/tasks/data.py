"""Tasks from wherever they are: files, Hugging Face data sets, Reasoning Gym, or rows in memory."""

from __future__ import annotations

import difflib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from temper import install
from temper.errors import UserError
from temper.tasks.rows import Keys, Malformed, to_task
from temper.tasks.task import Task

_SPLITS = {"train": 0, "validation": 1, "test": 2}
_DULL = {"train", "test", "validation", "val", "valid", "dev", "data", "dataset"}  # names that say nothing of a source
Numbered = Iterable[tuple[int, Any]]


def load_tasks(
    source: str | Path | Iterable[Any],
    *,
    split: str = "train",
    limit: int | None = None,
    prompt_key: str | None = None,
    answer_key: str | None = None,
    system: str | None = None,
    config: str | None = None,
) -> Sequence[Task]:
    """The tasks of a source, at most `limit` of them.

    source      FILE.jsonl, FILE.json (a list), FILE.parquet; a folder with such a file for the split, or saved by
                `datasets`; "rg:NAME?option=value&size=500,rg:NAME…" of Reasoning Gym (options: those of the data set,
                and size, seed, level); the name of a Hugging Face data set ("owner/name" or "owner/name:config");
                or rows in memory
    split       which part; Reasoning Gym's splits are seeds that share no task
    prompt_key, answer_key   columns with the prompt and the answer, where they have no usual name
    system      a system message before every prompt that has none

    UserError names the file, the line and what is wrong with it.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit must be at least 1, got {limit}")
    keys = Keys(prompt_key, answer_key, system)
    if isinstance(source, str) and source.startswith("rg:"):
        return _reasoning_gym(source, split, limit, keys)
    if not isinstance(source, str | Path):
        return _tasks(enumerate(source, 1), "rows", "row {}", "rows", limit, keys)
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, split, limit, keys)
    if path.is_file():
        return _file(path, limit, keys)
    if path.suffix in _READERS or isinstance(source, Path) or str(source).startswith(("/", ".", "~")):
        raise _no_file(path)
    return _hub(str(source), config, split, limit, keys)


# rows to tasks -------------------------------------------------------------------------------------------------------


def _tasks(rows: Numbered, where: str, place: str, name: str, limit: int | None, keys: Keys) -> list[Task]:
    """Tasks of numbered rows; `place` says where row {} stands."""
    tasks = []
    for n, row in islice(rows, limit):
        if isinstance(row, Task):
            tasks.append(row)
            continue
        try:
            tasks.append(to_task(row, f"{name}/{n}", name.partition("/")[0], keys))
        except (Malformed, UserError) as error:
            raise UserError(f"{where}, {place.format(n)}: {error}")
    if not tasks:
        raise UserError(f"{where} holds no tasks")
    return tasks


def _name(path: Path) -> str:
    """What a file's tasks are called: "gsm8k/train" for gsm8k/train.jsonl, "sums" for sums.jsonl."""
    return f"{path.resolve().parent.name}/{path.stem}" if path.stem.lower() in _DULL else path.stem


# files ---------------------------------------------------------------------------------------------------------------


def _file(path: Path, limit: int | None, keys: Keys) -> list[Task]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path} is none of the files that hold tasks: {', '.join(_READERS)}")
    rows, place = reader(path)
    return _tasks(rows, str(path), place, _name(path), limit, keys)


def _jsonl(path: Path) -> tuple[Numbered, str]:
    return _lines(path), "line {}"


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, row) of every line that is not blank."""
    with path.open("rb") as file:
        for n, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if n == 1 else "utf-8").strip()
                if text:
                    yield n, json.loads(text)
            except UnicodeDecodeError:
                raise UserError(f"{path}, line {n}: not UTF-8 text")
            except ValueError as error:
                raise UserError(f"{path}, line {n}: not JSON ({error})")


def _json(path: Path) -> tuple[Numbered, str]:
    """A JSON list; a file with one object a line is read as such."""
    try:
        rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text")
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _jsonl(path)
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})")
    if isinstance(rows, Mapping):
        return _jsonl(path)
    if not isinstance(rows, list):
        raise UserError(f"{path} must hold a list of rows, got {type(rows).__name__}")
    return enumerate(rows, 1), "row {}"


def _parquet(path: Path) -> tuple[Numbered, str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("reading Parquet needs the package pyarrow: pip install 'temper-rl[data]'")
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a Parquet file: {_line(error)}")
    return enumerate((row for batch in file.iter_batches(1024) for row in batch.to_pylist()), 1), "row {}"


_READERS = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".parquet": _parquet}


def _folder(path: Path, split: str, limit: int | None, keys: Keys) -> list[Task]:
    """A data set saved by `datasets`, or a folder with one file a split."""
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _saved(path, split, limit, keys)
    files = [f for f in sorted(path.iterdir()) if f.suffix.lower() in _READERS]
    fitting = [f for f in files if f.stem == split] or [f for f in files if f.stem.startswith(f"{split}-")]
    if len(fitting) == 1:
        return _file(fitting[0], limit, keys)
    if fitting:
        rows = ((n, row) for f in fitting for n, row in _READERS[f.suffix.lower()](f)[0])
        return _tasks(enumerate((row for _, row in rows), 1), str(path), "row {}", f"{path.name}/{split}", limit, keys)
    if not files:
        raise UserError(f"{path} holds no tasks: no {', '.join(_READERS)} in it, and no data set saved by `datasets`")
    raise UserError(f"{path} has no split {split!r}; there are: {', '.join(f.stem for f in files)}")


def _no_file(path: Path) -> UserError:
    beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.7)
    return UserError(f"no file {path}{'; did you mean ' + ' or '.join(near) + '?' if near else ''}")


# Hugging Face data sets ----------------------------------------------------------------------------------------------


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError("this data needs the package datasets: pip install 'temper-rl[data]'")
    return datasets


def _saved(path: Path, split: str, limit: int | None, keys: Keys) -> list[Task]:
    try:
        found = _datasets().load_from_disk(str(path))
    except Exception as error:
        raise UserError(f"{path} cannot be read by datasets: {_line(error)}")
    if isinstance(found, Mapping):
        if split not in found:
            raise UserError(f"{path} has no split {split!r}; there are: {', '.join(found)}")
        found = found[split]
    return _tasks(enumerate(found, 1), str(path), "row {}", f"{path.resolve().name}/{split}", limit, keys)


def _hub(name: str, config: str | None, split: str, limit: int | None, keys: Keys) -> list[Task]:
    where, _, inline = name.partition(":")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", where):
        raise UserError(f"{name!r} is no file here, and cannot be the name of a data set")
    if "/" not in name:
        _perhaps_gym(name)
    try:
        found = _datasets().load_dataset(where, config or inline or None, split=split)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{name!r} is neither a file here nor a data set that could be loaded{_near(name)}: {_line(error)}"
        )
    return _tasks(enumerate(found, 1), name, "row {}", f"{where.rpartition('/')[2]}/{split}", limit, keys)


def _near(name: str) -> str:
    """ " (did you mean …?)": bundled suites, and files here."""
    from temper.tasks.suites import SUITES

    files = [p.name for p in Path().iterdir() if p.suffix in _READERS]
    near = difflib.get_close_matches(name, [*SUITES, *files], n=2, cutoff=0.7)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _perhaps_gym(name: str) -> None:
    """UserError when Reasoning Gym has a data set of this name."""
    if not install.has("reasoning_gym"):
        return
    try:
        from temper.tasks.reasoning_gym import names

        known = names()
    except ImportError:
        return
    if name.partition("?")[0] in known:
        raise UserError(f"no file {name!r}; Reasoning Gym's data set of that name is written rg:{name}")


def _line(error: BaseException) -> str:
    """The beginning of an error's text, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "…"


# Reasoning Gym -------------------------------------------------------------------------------------------------------


def _reasoning_gym(source: str, split: str, limit: int | None, keys: Keys) -> Sequence[Task]:
    """One or several data sets; several take turns."""
    if keys != Keys():
        raise UserError("prompt_key, answer_key and system have no use for Reasoning Gym's tasks")
    parts = [_one_gym(part, split) for part in re.split(r",(?![^\[]*\])", source)]
    longest = max(map(len, parts))
    order = [(p, i) for i in range(longest) for p in range(len(parts)) if i < len(parts[p])]
    return Interleaved(parts, order[:limit])


def _one_gym(part: str, split: str) -> Sequence[Task]:
    from temper.tasks.reasoning_gym import ReasoningGym, level_config

    name, _, query = part.strip().removeprefix("rg:").partition("?")
    options = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"{part!r}: an option is written name=value, got {pair!r}")
        options[key] = _value(value)
    size, seed, level = options.pop("size", 500), options.pop("seed", 0), options.pop("level", None)
    for what, number in (("size", size), ("seed", seed), *([("level", level)] if level is not None else [])):
        if not isinstance(number, int) or number < (what == "size"):
            raise UserError(f"{part!r}: {what} must be a whole number, got {number!r}")
    try:
        at_level = {} if level is None else level_config(name, level)
        return ReasoningGym(name, size, seed * 8 + _stream(split), **{**at_level, **options})
    except (ValueError, ImportError) as error:
        raise UserError(f"{part!r}: {error}")


def _value(text: str) -> Any:
    """JSON where it is JSON (numbers, true, lists), else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _stream(split: str) -> int:
    """A number below 8 for every split: train 0, validation 1, test 2."""
    return _SPLITS.get(split, 3 + zlib.crc32(split.encode()) % 5)


class Interleaved(Sequence[Task]):
    """Several sources taking turns, each task made when it is asked for."""

    def __init__(self, parts: Sequence[Sequence[Task]], order: Sequence[tuple[int, int]]):
        self.parts, self.order = parts, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Interleaved(self.parts, self.order[index])
        part, i = self.order[index]
        return self.parts[part][i]
