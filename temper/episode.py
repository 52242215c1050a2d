"""What an environment returns: small frozen records that print, and go to and from JSONL.

    Episode                 one play of a task
      turns        (0: env "2+2=?"), (1: solver "4<|im_end|>", parent 0)
      trajectories (turns (0, 1), role "solver", reward 1.0)

`parent` answers "what did the model see?"; a trajectory's `turns` answer "whose reward is this?".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from temper.tasks.task import Task

ENV = "env"  # the author of every turn that no policy sampled


@dataclass(frozen=True)
class Completion:
    """One sampled continuation. `logp` is under the distribution that was sampled from.

    ids, logp    one entry a sampled token (natural log)
    finish       "stop" (an end token or stop string), "length" (max_tokens or context reached), "abort" (interrupted)
    version      of the weights that sampled the first token
    versions     of those that sampled each token, where they changed on the way (None: `version` throughout)
    temperature  divides the logits; 0 means greedy (log-probs are then those at temperature 1)
    support      per token, the ids that truncation (top-k, top-p) left; None where nothing was cut
    allowed      the ids that could be sampled at all; None means every id
    """

    ids: tuple[int, ...]
    logp: tuple[float, ...]
    finish: str = "stop"
    version: int = 0
    temperature: float = 1.0
    support: tuple[tuple[int, ...], ...] | None = None
    allowed: tuple[int, ...] | None = None
    text: str = ""
    versions: tuple[int, ...] | None = None

    def then(self, more: Completion) -> Completion:
        """This interrupted answer with the tokens that it went on with; `more.text` is the text of both."""
        versions = tuple(v for c in (self, more) for v in c.versions or (c.version,) * len(c.ids))
        support = None
        if self.support is not None or more.support is not None:
            support = (*(self.support or ((),) * len(self.ids)), *(more.support or ((),) * len(more.ids)))
        return replace(
            more, ids=self.ids + more.ids, logp=self.logp + more.logp, support=support,
            version=versions[0] if versions else more.version, versions=versions if len(set(versions)) > 1 else None,
        )  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """A span of ids added at once. `author` is ENV or the role that produced it.

    parent  index of the turn before it in the model's context, -1 opens a fresh context
    logp    behaviour log-probs, one an id; None for demonstrations and for ENV turns
    reward  of a sampled turn, where the environment gives one; the trajectory's own reward is another matter
    version, versions  of the weights that sampled it: see Completion
    """

    ids: tuple[int, ...]
    parent: int = -1
    author: str = ENV
    text: str = ""
    logp: tuple[float, ...] | None = None
    finish: str | None = None
    version: int = -1
    temperature: float = 1.0
    support: tuple[tuple[int, ...], ...] | None = None
    allowed: tuple[int, ...] | None = None
    reward: float | None = None
    versions: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Trajectory:
    """One attempt that is judged.

    turns    indices into the episode's turns, in order; several trajectories may share a turn
    role     the seat that made it; with the request it names the comparison group
    reward   None = not judged (yet, or by this judge): never the same as 0
    rewards  the parts of the reward by name
    outcome  "ok", or the reason why there is no reward ("timeout", "error: …", "infrastructure: …")
    group    names a side group, compared on its own within request and role (attempts behind one prefix); empty: none
    """

    turns: tuple[int, ...]
    role: str = "solver"
    reward: float | None = None
    rewards: Mapping[str, float] = field(default_factory=dict)
    outcome: str = "ok"
    info: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True)
class Episode:
    """One play of a task. Episodes of one `request` are compared with one another."""

    task: Task
    turns: tuple[Turn, ...]
    trajectories: tuple[Trajectory, ...]
    request: str = "0"
    split: str = "train"

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable copy; `Episode.from_json` inverts it."""
        return asdict(self)

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Episode:
        turns = tuple(
            Turn(**{**t, **_tuples(t, ("ids", "logp", "allowed", "versions")), "support": _nested(t)})
            for t in row["turns"]
        )
        trajectories = tuple(Trajectory(**{**t, "turns": tuple(t["turns"])}) for t in row["trajectories"])
        return Episode(Task(**row["task"]), turns, trajectories, row["request"], row["split"])


def _tuples(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {n: None if row.get(n) is None else tuple(row[n]) for n in names}


def _nested(row: Mapping[str, Any]) -> Any:
    return None if row["support"] is None else tuple(tuple(s) for s in row["support"])


class Recorder:
    """Builds an Episode turn by turn: `add` returns the index that the next turn names as its parent."""

    def __init__(self, task: Task):
        self.task = task
        self.turns: list[Turn] = []
        self.trajectories: list[Trajectory] = []

    def add(self, ids: Sequence[int], parent: int = -1, *, author: str = ENV, text: str = "") -> int:
        """Append ids that no policy sampled (author ENV), or a demonstration's (author = the role it teaches)."""
        return self._append(Turn(tuple(ids), parent, author, text))

    def sampled(self, completion: Completion, parent: int, *, author: str = "solver") -> int:
        """Append what a policy sampled after `parent`."""
        c = completion
        return self._append(
            Turn(
                c.ids, parent, author, c.text, c.logp, c.finish, c.version, c.temperature, c.support, c.allowed,
                versions=c.versions,
            )
        )  # fmt: skip

    def judge(self, turns: Sequence[int], *, role: str = "solver", reward: float | None = None, **fields: Any) -> None:
        """Declare a trajectory over `turns`; `fields` are those of Trajectory."""
        self.trajectories.append(Trajectory(tuple(turns), role, reward, **fields))

    def score(self, turn: int, reward: float) -> None:
        """Reward of one sampled turn. ValueError for a turn that no policy sampled."""
        if self.turns[turn].author == ENV:
            raise ValueError(f"turn {turn} is the environment's own: only what a role wrote has a reward")
        self.turns[turn] = replace(self.turns[turn], reward=reward)

    def context(self, turn: int) -> tuple[int, ...]:
        """The ids that a model has in context after `turn`."""
        path: list[tuple[int, ...]] = []
        while turn >= 0:
            path.append(self.turns[turn].ids)
            turn = self.turns[turn].parent
        return tuple(i for ids in reversed(path) for i in ids)

    def episode(self) -> Episode:
        return Episode(self.task, tuple(self.turns), tuple(self.trajectories))

    def _append(self, turn: Turn) -> int:
        if not -1 <= turn.parent < len(self.turns):
            raise ValueError(f"parent {turn.parent} is not an earlier turn (there are {len(self.turns)})")
        self.turns.append(turn)
        return len(self.turns) - 1
