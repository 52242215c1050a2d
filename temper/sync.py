"""How new weights reach samplers that are busy.

    name       the learner waits   a replica changes                             a row's tokens
    blocking   yes                 when all replicas have ended their samples    one version a turn
    delayed    no                  each between two of its samples               one version a turn
    staggered  no                  the same, one replica after another           one version a turn
    episodes   no                  each between two of its episodes              one version an episode
    resume     yes                 at once: samples are cut and go on            several versions in a turn

`delayed` is what a run does by itself where it goes ahead (`Run.syncing`): every sampler can do it, and `resume` is
faster only where long answers keep a replica of few slots from changing (`python -m studies.syncs`).

Whatever the policy, no row is trained on that is more than `Run.ahead` versions old (`temper.fleet`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from temper.errors import UserError

Boundary = Literal["sample", "episode", "token"]
Name = Literal["blocking", "delayed", "staggered", "episodes", "resume"]


@dataclass(frozen=True)
class Sync:
    """wait      the learner goes on only when every replica serves the new weights
    boundary  where a replica changes: between samples, between episodes, or between two tokens (samples are cut, and go
              on from where they were under the new weights; their tokens and log-probs are kept)
    at_once   how many replicas change at the same time (0: all)
    """

    wait: bool = True
    boundary: Boundary = "sample"
    at_once: int = 0

    def __post_init__(self) -> None:
        if self.boundary not in get_args(Boundary):
            raise UserError(f"weights change between {', '.join(get_args(Boundary))}, not {self.boundary!r}")
        if self.at_once < 0:
            raise UserError(f"at_once must not be negative, got {self.at_once}")


SYNC: dict[Name, Sync] = {
    "blocking": Sync(),
    "delayed": Sync(wait=False),
    "staggered": Sync(wait=False, at_once=1),
    "episodes": Sync(wait=False, boundary="episode"),
    "resume": Sync(boundary="token"),
}
