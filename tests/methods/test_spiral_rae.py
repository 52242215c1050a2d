"""SPIRAL: the role's baseline by hand, what an illegal move costs, and duels."""

from __future__ import annotations

import asyncio
import importlib.util
from dataclasses import replace
from typing import Any

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, TOKEN, TURN
from temper.envs.games import TextArena, last_message
from temper.episode import Completion, Episode, Recorder
from temper.errors import UserError
from temper.methods.environments.spiral_rae import ILLEGAL, PerMove, spiral_rae
from temper.models.tiny import tiny_tokenizer
from temper.parts.baselines import RoleBaseline
from temper.parts.duels import outcome, tally, wilson
from temper.tasks.moves import legal_moves, nim_deals, shown_move
from temper.tasks.task import Task
from tests.envs.actors import Actor, seat

needs_textarena = pytest.mark.skipif(importlib.util.find_spec("textarena") is None, reason="needs textarena")


def played(rewards: dict[str, float | None], moves: int = 1, game: str = "nim", n: int = 0) -> Episode:
    """A game in which every player makes `moves` moves of two tokens, each in a context of its own."""
    record = Recorder(Task(f"{game}/{n}", "play", source=game))
    for role, reward in rewards.items():
        turns = []
        for k in range(moves):
            opened = record.add((n, k))
            turns += [opened, record.sampled(Completion((5, 6), (-0.5, -0.5)), opened, author=role)]
        record.judge(turns, role=role, reward=reward, info={"game": game})
    return replace(record.episode(), request=f"{game}/{n}")


def credit(part: RoleBaseline, *episodes: Episode) -> list[list[float]]:
    """The advantage of every move, by trajectory."""
    b = asyncio.run(part(Batch.of(list(episodes))))
    of_turn = b.mean(b[ADVANTAGE], TOKEN, TURN)
    rows = range(len(b.structure.group))
    return [[float(of_turn[u]) for u in b.turns_of(j) if b.structure.sampled[u]] for j in rows]


def test_the_baseline_is_used_before_it_moves() -> None:
    """+1, +1 from b = 0: A = 1 and 0.95, then b = 0.0975."""
    part = RoleBaseline()
    a = credit(part, played({"one": 1.0}), played({"one": 1.0}, n=1))
    assert a[0] == [1.0] and a[1] == pytest.approx([0.95])
    assert part.baselines == {"nim": {"one": pytest.approx(0.0975)}}


def test_roles_and_games_have_baselines_of_their_own() -> None:
    part = RoleBaseline(decay=0.5)
    games = [played({"one": 1.0, "two": -1.0}), played({"one": 1.0, "two": -1.0}, game="poker")]
    assert credit(part, *games) == [[1.0], [-1.0], [1.0], [-1.0]]
    assert part.baselines == {"nim": {"one": 0.5, "two": -0.5}, "poker": {"one": 0.5, "two": -0.5}}
    shared = RoleBaseline(decay=0.5, by_role=False)
    assert credit(shared, games[0]) == [[1.0], [-1.5]] and shared.baselines == {"nim": {"all": -0.25}}


def test_earlier_moves_are_discounted_by_the_moves_of_that_role_that_follow() -> None:
    assert credit(RoleBaseline(gamma=0.5), played({"one": 1.0, "two": -2.0}, moves=3)) == [
        [0.25, 0.5, 1.0],
        [-0.5, -1.0, -2.0],
    ]


def test_rows_without_credit_leave_the_loss_and_unjudged_ones_leave_the_baseline() -> None:
    part = RoleBaseline()
    (drawn,), (unjudged,), (won,) = credit(
        part, played({"one": 0.0}), played({"one": None}, n=1), played({"one": 1.0}, n=2)
    )
    assert drawn != drawn and unjudged != unjudged and won == 1.0
    assert credit(RoleBaseline(keep_zero=True), played({"one": 0.0})) == [[0.0]]


def test_the_baseline_comes_back_from_a_checkpoint_as_plain_data() -> None:
    part, again = RoleBaseline(), RoleBaseline()
    credit(part, played({"one": 1.0}))
    again.load_state_dict(part.state_dict())
    assert part.state_dict() == {"baselines": {"nim": {"one": pytest.approx(0.05)}}}
    assert credit(again, played({"one": 1.0})) == credit(part, played({"one": 1.0}))
    with pytest.raises(UserError, match="decay"):
        RoleBaseline(decay=1.0)


def test_a_first_mover_who_wins_more_is_no_reason_to_learn() -> None:
    """Rewards ±1 with 80 % for who begins: |mean A| of a role goes to 0 with its baseline, not with a shared one."""
    torch.manual_seed(0)
    draws = [1.0 if x < 0.8 else -1.0 for x in torch.rand(600).tolist()]
    episodes = [played({"one": r, "two": -r}, n=n) for n, r in enumerate(draws)]
    bias = {}
    for by_role in (True, False):
        rows = credit(RoleBaseline(by_role=by_role, keep_zero=True), *episodes)
        bias[by_role] = abs(sum(a for (a,) in rows[200::2]) / len(rows[200::2]))
    assert bias[True] < 0.06 and bias[False] > 0.5


def test_every_move_counts_the_same() -> None:
    """A game of three moves and one of a single move: four samples, each its tokens' sum over the constant."""
    b = Batch.of([played({"one": 1.0}, moves=3), played({"one": 1.0}, n=1)])
    assert PerMove(8)(b, torch.ones(8)).tolist() == pytest.approx([1 / (4 * 8)] * 8)


def arena(**options: Any) -> TextArena:
    """The method's own environment."""
    env = spiral_rae(None, **options).env
    assert isinstance(env, TextArena)
    return env


def play(env: TextArena, *words: str, options: dict[str, Any] | None = None) -> Episode:
    spoken = iter(words)
    actors = {r: seat(Actor(tiny_tokenizer(), lambda _: next(spoken)), r) for r in env.roles}
    return asyncio.run(env.play(Task("t", "play", info={"options": options or {"piles": [2, 1]}}), actors))


@needs_textarena
def test_an_illegal_move_ends_the_game_and_is_paid_for() -> None:
    env = arena()
    first, second = play(env, "[0 1]", "[1 9]").trajectories
    assert (first.reward, second.reward) == (ILLEGAL[1], ILLEGAL[0])
    assert (first.info["end"], second.info["end"]) == ("won", "illegal move")
    (alone,) = play(env, "pass").trajectories
    assert alone.reward == -1.5 and outcome(play(env, "pass"), "player-1") == ("won", False, True)


@needs_textarena
def test_a_legal_game_keeps_the_games_own_rewards_and_a_long_one_is_a_draw() -> None:
    env = arena(see=last_message)
    assert [t.reward for t in play(env, "[0 2]", "[1 1]").trajectories] == [-1.0, 1.0]
    stopped = arena(turns=1)
    assert [t.reward for t in play(stopped, "[0 1]", "[0 1]").trajectories] == [0.0, 0.0]


@needs_textarena
def test_each_move_is_a_context_of_its_own_that_shows_what_is_asked_for() -> None:
    episode = play(arena(see=last_message), "[0 1]", "[1 1]", "[0 1]")
    shown = [t for t in episode.turns if t.author == "env"]
    assert all(t.parent == -1 for t in shown)
    assert shown[1].text == "Current Pile:\n  pile 0: 1\n  pile 1: 1"


@needs_textarena
def test_random_moves_are_legal() -> None:
    assert legal_moves("pile 0: 3\npile 1: 1\n pile 0: 2\n  pile 1: 0") == ["[0 1]", "[0 2]"]
    for game in ("Nim-v0", "TicTacToe-v0", "KuhnPoker-v0"):
        shown = [shown_move(game, k) for k in range(5)]
        assert all(t.answer in legal_moves(str(t.prompt)) for t in shown)
        assert shown[3] == shown_move(game, 3)
    with pytest.raises(UserError, match="legal moves"):
        shown_move("LiarsDice-v0", 0)


def test_deals_of_nim_are_all_kinds_of_positions() -> None:
    deals = nim_deals(300, (2, 3))
    piles = {tuple(t.info["options"]["piles"]) for t in deals}
    assert len(deals) == 300 and len(piles) == 11 and (0, 0) not in piles
    assert deals[3] == nim_deals(4, (2, 3))[3] and deals != nim_deals(300, (2, 3), seed=1)


def test_games_are_counted_by_seat() -> None:
    found = tally([("a", "won", False, True), ("a", "won", False, False), ("b", "lost", True, False),
                   ("b", "drawn", False, False)])  # fmt: skip
    assert (found["games"], found["won"], found["win_rate"], found["rival_illegal"]) == (4, 2, 0.5, 1)
    assert (found["legal_games"], found["legal_win_rate"], found["seats"]["b"]["own_illegal"]) == (2, 0.5, 1)
    assert wilson(8, 10) == pytest.approx([0.4902, 0.9433], abs=1e-3)
