"""Two policies in the seats of a game, and what came of it: is this policy better than the one it was?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING, Any

from temper.episode import Episode
from temper.errors import UserError
from temper.policy import Policy, Seat
from temper.tasks.task import Task

if TYPE_CHECKING:
    from temper.run import Run

ENDS = ("won", "drawn", "lost", "unfinished")


@dataclass
class Duel:
    """The run's policy against `rival`: every task once in each seat, at the start, the end and every `every` steps.

    A game is won by the highest reward. Wins are counted over all games; beside them stands how many ended with an
    illegal move of the rival, and the share of wins among games in which nobody made one (info["end"] of a
    trajectory says "illegal move").

    rival     whoever takes the other seats; it is frozen
    seed      of its random streams, the same every time: games are paired over time
    sampling  overrides of the run's sampling parameters
    """

    rival: Policy
    tasks: Sequence[Task]
    every: int = 0
    name: str = "duel"
    seed: int = 1
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.tasks):
            raise UserError("there are no games to play: give a duel at least one task")
        if self.every < 0:
            raise UserError(f"eval_every must not be negative, got {self.every}")
        self.results: dict[str, dict[str, Any]] = {}

    def due(self, step: int, steps: int) -> bool:
        return step in (0, steps) or bool(self.every and step % self.every == 0)

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        from temper.loop import together

        if not self.due(step, run.steps):
            return {}
        games = [(seat, task) for seat in run.roles for task in self.tasks]
        with run.timed("evaluation"):
            ends = await together(self._game(run, seat, task) for seat, task in games)
        found = tally([(seat, *end) for (seat, _), end in zip(games, ends)])
        for when in [w for w, s in (("before", 0), ("after", run.steps)) if s == step]:
            self.results[when] = found
        shown = ("win_rate", "legal_win_rate", "own_illegal", "rival_illegal")
        return {f"{self.name}/{key}": float(found[key]) for key in shown if found[key] is not None}

    async def _game(self, run: Run, mine: str, task: Task) -> tuple[str, bool, bool]:
        """(how it ended for the policy in seat `mine`, it made an illegal move, the rival did)."""
        from temper.request import Drop

        params, who = run.sampling.but(**self.sampling), (self.name, mine, task.id)
        policies = {role: policy if role == mine else self.rival for role, policy in run.roles.items()}
        seats = {role: Seat(role, policy, params, self.seed, who) for role, policy in policies.items()}
        try:
            return outcome(await run.env.play(task, seats), mine)
        except Drop:
            return "unfinished", False, False

    def comparison(self) -> dict[str, Any]:
        """What summary.json says."""
        return {self.name: self.results}

    def state_dict(self) -> dict[str, Any]:
        return {"results": self.results}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.results = saved["results"]


def outcome(episode: Episode, mine: str) -> tuple[str, bool, bool]:
    """(how the game ended for the role `mine`, it made an illegal move, somebody else did).

    A player who never moved has no trajectory: the other one's illegal first move won it the game.
    """
    ends = {t.role: t.info.get("end", "") for t in episode.trajectories}
    rewards = {t.role: t.reward or 0.0 for t in episode.trajectories}
    slips = {role: end == "illegal move" for role, end in ends.items()}
    theirs = any(slip for role, slip in slips.items() if role != mine)
    if mine not in rewards or len(rewards) == 1:
        return ("won" if theirs else "lost" if slips.get(mine) else "unfinished"), slips.get(mine, False), theirs
    best = max(r for role, r in rewards.items() if role != mine)
    how = "won" if rewards[mine] > best else "lost" if rewards[mine] < best else "drawn"
    return ("unfinished" if "unfinished" in ends.values() else how), slips[mine], theirs


def tally(games: Sequence[tuple[str, str, bool, bool]]) -> dict[str, Any]:
    """Counts and shares of (seat, end, own illegal, rival illegal), in all and by seat; win_rate with its interval."""
    seats = {s: _counts([g for g in games if g[0] == s]) for s in dict.fromkeys(g[0] for g in games)}
    return {**_counts(games), "seats": seats}


def _counts(games: Sequence[tuple[str, str, bool, bool]]) -> dict[str, Any]:
    n, ends = len(games), Counter(end for _, end, _, _ in games)
    legal = [end for _, end, own, theirs in games if not own and not theirs]
    return {
        "games": n,
        **{end: ends[end] for end in ENDS},
        "own_illegal": sum(own for *_, own, _ in games),
        "rival_illegal": sum(theirs for *_, theirs in games),
        "win_rate": ends["won"] / n,
        "interval": wilson(ends["won"], n),
        "legal_games": len(legal),
        "legal_win_rate": legal.count("won") / len(legal) if legal else None,
        "legal_interval": wilson(legal.count("won"), len(legal)) if legal else None,
    }


def wilson(k: int, n: int, z: float = 1.96) -> list[float]:
    """95 % interval of a share k/n (Wilson 1927). ValueError where n is 0."""
    if n < 1:
        raise ValueError("an interval needs at least one game")
    p, d = k / n, 1 + z * z / n
    centre, half = (p + z * z / (2 * n)) / d, z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return [max(0.0, centre - half), min(1.0, centre + half)]
