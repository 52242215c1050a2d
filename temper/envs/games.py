"""Games of TextArena (Guertler et al. 2025), played by policies: `pip install 'temper-rl[games]'`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from temper import streams
from temper.columns import REWARD
from temper.envs.chat import Chat
from temper.episode import Episode, Recorder
from temper.errors import UserError
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task

NIM = "Nim-v0"


def boxed(text: str) -> str:
    """A move as TextArena reads it: what follows the thinking, in square brackets unless it has some."""
    move = text.rpartition("</think>")[2].strip()
    return move if "[" in move else f"[{move}]"


def everything(seen: str) -> str:
    """All that the game shows."""
    return seen


def last_message(seen: str) -> str:
    """The last thing that the game said: in Nim and TicTacToe the board, without rules and history."""
    return seen.rpartition("[GAME]")[2].strip()


def games(game: str = NIM, n: int = 1000) -> list[Task]:
    """`n` deals of a game; attempts at one of them play the same deal."""
    return [Task(f"{game}/{k}", f"Play {game}.", source=game, info={"game": game}) for k in range(n)]


@dataclass
class TextArena:
    """A game between `players` policies, one trajectory for each, judged by the game: its own rewards.

    Each player has a conversation in which the game, and through it the others, speak as the user. A task may name
    another game in info["game"], and options of it in info["options"]. How a game ended for a player is in its info:
    "won", "lost", "drawn" or "illegal move"; "unfinished" where a full context or a limit stopped it.

    turns      most moves of a player; tokens: most that a player samples in all (0: no limit)
    fresh      a fresh context for every move, which shows the whole game (else only what is new)
    see        what the game shows → what the policy is shown (`last_message`: a board, where no more is needed)
    move       the policy's text → the move
    options    of the game
    illegal    (offender's, others') rewards: then the first illegal move ends the game (None: as the game does)
    unfinished everybody's reward for a game that a limit stops: that of a loss, so that nobody gains by stalling
    """

    game: str = NIM
    players: int = 2
    turns: int = 50
    tokens: int = 0
    fresh: bool = False
    see: Callable[[str], str] = everything
    move: Callable[[str], str] = boxed
    options: Mapping[str, Any] = field(default_factory=dict)
    illegal: tuple[float, float] | None = None
    unfinished: float = -1.0
    writes = (REWARD,)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(f"player-{n}" for n in range(self.players))

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        record = Recorder(task)
        options = {**self.options, **task.info.get("options", {})}
        table = Table(str(task.info.get("game", self.game)), self.players, task.id, options, self.fresh)
        table.end_illegal(self.illegal)
        chats = [Chat(roles[r], record, turns=self.turns, tokens=self.tokens) for r in self.roles]
        while not table.over:
            player, seen = table.look()
            text = await self._move(chats[player], [{"role": "user", "content": self.see(seen)}])
            if text is None:
                break
            table.move(player, self.move(text))
        rewards, ends = table.result() if table.over else table.stopped(self.unfinished)
        for n, chat in enumerate(chats):
            if chat.said:
                chat.judge(rewards[n], info={"game": table.game, "end": ends[n], "illegal": table.illegal[n]})
        return record.episode()

    async def _move(self, chat: Chat, messages: list[dict[str, Any]]) -> str | None:
        begin = chat.start if self.fresh or not chat.said else chat.observe
        if not chat.may_go_on() or not begin(messages):
            return None
        said = await chat.say()
        return None if said is None else said.text


class Table:
    """One game. TextArena draws from Python's global generator: each table has a state of its own for it."""

    def __init__(self, game: str, players: int, deal: str, options: Mapping[str, Any], whole: bool):
        self.game, self._textarena = game, _textarena()
        self._state = random.Random(streams.key(0, "textarena", game, deal)).getstate()
        self._whole = whole
        self.over, self.illegal = False, [0] * players
        self._price: tuple[float, float] | None = None
        try:
            with self._dealt():
                self._env = self._textarena.make(game if whole else f"{game}-raw", **options)
                self._env.reset(num_players=players)
        except (ValueError, AssertionError, TypeError) as error:
            raise UserError(f"TextArena cannot play {game!r} with {players} players: {error}")

    def end_illegal(self, price: tuple[float, float] | None) -> None:
        """With a price, the first illegal move ends the game: TextArena's own allowance is one more try."""
        self._price = price
        if price is not None:
            if not hasattr(self._env.state, "error_allowance"):
                raise UserError(f"TextArena's {self.game} does not count illegal moves: leave out illegal={price}")
            self._env.state.error_allowance = 0

    def look(self) -> tuple[int, str]:
        """(whose move it is, what that player sees): all of the game, or what is new since its last move."""
        with self._dealt():
            player, seen = self._env.get_observation()
        if isinstance(seen, str):
            return player, seen.strip()
        names = {self._textarena.GAME_ID: "GAME"}
        lines = (f"[{names.get(who, f'Player {who}')}] {text.strip()}" for who, text, _ in seen if who != player)
        return player, "\n".join(lines)

    def move(self, player: int, text: str) -> None:
        with self._dealt():
            self.over, _ = self._env.step(text)
        self.illegal[player] += not self.over and getattr(self._env.state, "error_count", 0) > 0  # it moves again

    def result(self) -> tuple[list[float], list[str]]:
        """(reward, how it ended) of each player."""
        rewards, info = self._env.close()
        if not rewards:
            raise Drop("game without a result")
        scores = [float(rewards.get(n, 0.0)) for n in range(len(self.illegal))]
        best = max(scores)
        ends = ["drawn" if min(scores) == best else "won" if s == best else "lost" for s in scores]
        for n in range(len(ends)):
            if info.get(n, {}).get("invalid_move"):
                ends[n], self.illegal[n] = "illegal move", self.illegal[n] + 1
        if self._price is not None and "illegal move" in ends:
            scores = [self._price[end != "illegal move"] for end in ends]
        return scores, ends

    def stopped(self, reward: float) -> tuple[list[float], list[str]]:
        """The result of a game that a limit ended."""
        return [reward] * len(self.illegal), ["unfinished"] * len(self.illegal)

    @contextmanager
    def _dealt(self) -> Iterator[None]:
        outside = random.getstate()
        random.setstate(self._state)
        try:
            yield
        finally:
            self._state = random.getstate()
            random.setstate(outside)


def _textarena() -> Any:
    try:
        import textarena
    except ImportError:
        raise UserError("TextArena's games need a package: pip install 'temper-rl[games]'")
    return textarena
