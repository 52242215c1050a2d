"""A folder between actors and learner: episodes go one way as JSON, weights the other as safetensors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from temper.errors import UserError

EPISODE = re.compile(r"[A-Za-z0-9_]{1,32}-[0-9]{8}\.json")
LARGEST = 2**20  # bytes of an episode
KEPT = 3  # versions of the weights: an actor may still be reading an older one


@dataclass(frozen=True)
class Step:
    """A decision: what was asked, what was done, and by whom ("policy" or "expert")."""

    prompt: list[dict[str, Any]]
    move: str
    by: str


@dataclass(frozen=True)
class Episode:
    """One episode of an actor, all of it under one version of the weights."""

    actor: str
    number: int
    task: str
    version: int
    success: bool
    steps: tuple[Step, ...]

    def to_json(self) -> str:
        return json.dumps({**self.__dict__, "steps": [s.__dict__ for s in self.steps]})

    @staticmethod
    def read(text: str) -> Episode:
        """ValueError unless it has that shape."""
        try:
            row = json.loads(text)
            steps = tuple(Step(list(s["prompt"]), s["move"], s["by"]) for s in row.pop("steps"))
            made = Episode(**row, steps=steps)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"no episode: {error}")
        strings = [made.actor, made.task, *(x for s in steps for x in (s.move, s.by))]
        asked = [m.get("content") if isinstance(m, dict) else None for s in steps for m in s.prompt]
        if not all(isinstance(x, str) for x in (*strings, *asked)):
            raise ValueError("no episode: a text has another type")
        if not all(s.by in ("policy", "expert") for s in steps):
            raise ValueError("no episode: a step is nobody's")
        if type(made.version) is not int or type(made.number) is not int or type(made.success) is not bool:
            raise ValueError("no episode: a number has another type")
        return made


@dataclass
class Storage:
    """malformed: episodes that were left out, since the start; seen: names of files that are not read again."""

    folder: Path
    malformed: int = field(default=0, init=False)
    seen: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        for name in ("episodes", "weights"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """Of all episodes that are there, by actor and number."""
        return sorted(p.name for p in (self.folder / "episodes").iterdir() if EPISODE.fullmatch(p.name))

    def following(self, actor: str) -> int:
        """The number of an actor's next episode: behind those that are there."""
        mine = [name for name in self.names() if name.rpartition("-")[0] == actor]
        return int(mine[-1].rpartition("-")[2].removesuffix(".json")) + 1 if mine else 0

    def put(self, episode: Episode) -> None:
        _write(self.folder / "episodes" / f"{episode.actor}-{episode.number:08d}.json", episode.to_json())

    def new(self) -> list[Episode]:
        """Episodes that came since the last call, by actor and number."""
        found = []
        for path in (self.folder / "episodes" / name for name in self.names() if name not in self.seen):
            self.seen.add(path.name)
            try:
                if path.stat().st_size > LARGEST:
                    raise ValueError(f"no episode has more than {LARGEST} bytes")
                found.append(Episode.read(path.read_text()))
            except ValueError:
                self.malformed += 1
        return found

    def publish(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Leave weights for whoever begins an episode from now on; later versions were a run's that was resumed."""
        folder = self.folder / "weights"
        part = folder / f"{version:08d}.part"
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, part)
        for later in (f for f in folder.glob("*.safetensors") if int(f.stem) > version):
            later.unlink()
        part.rename(folder / f"{version:08d}.safetensors")
        for old in sorted(folder.glob("*.safetensors"))[:-KEPT]:
            old.unlink()

    def latest(self, than: int = -1) -> tuple[int, dict[str, Tensor]] | None:
        """The newest version and its weights; None when it is `than`. A resumed run's is lower than what was there."""
        files = sorted((self.folder / "weights").glob("*.safetensors"))
        if not files or int(files[-1].stem) == than:
            return None
        try:
            return int(files[-1].stem), load_file(files[-1])
        except FileNotFoundError:  # newer ones came in between
            return self.latest(than)
        except Exception as error:
            raise UserError(f"{files[-1]} holds no weights: {error}")


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)
