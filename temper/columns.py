"""Typed keys of the carrier, and the standard ones. A method declares its own columns in its own file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum


class Level(IntEnum):
    TOKEN = 0
    TURN = 1
    TRAJECTORY = 2
    GROUP = 3


TOKEN, TURN, TRAJECTORY, GROUP = Level
floating, integer, boolean, anything = "floating", "integer", "boolean", "anything"


@dataclass(frozen=True)
class Column:
    """A typed key. `dtype` is floating, integer, boolean (tensors [rows, …]) or anything (a list of Python objects)."""

    name: str
    level: Level
    dtype: str
    doc: str = ""

    def of(self, who: str) -> Column:
        """The same quantity according to someone else: LOGP.of("old"), REWARD.of("length")."""
        return replace(self, name=f"{self.name}@{who}")


LOGP = Column(
    "logp", TOKEN, floating, "log-prob of the sampled token under the distribution sampled from; live in a term"
)
ENTROPY = Column("entropy", TOKEN, floating, "entropy (nats) of that distribution; live in a term")
HIDDEN = Column("hidden", TOKEN, floating, "last hidden state [tokens, width] that predicted the token; live in a term")
ADVANTAGE = Column("advantage", TOKEN, floating, "credit of a token")
DEALT = Column("dealt", GROUP, integer, "which of the step's optimiser steps trains on the group (`Run.dealt`)")
REWARD = Column("reward", TRAJECTORY, floating, "NaN = not judged")
AUTHOR = Column("author", TURN, anything, "ENV or the role that produced the turn")
FINISH = Column("finish", TURN, anything, '"stop", "length" or None')
VERSION = Column("version", TURN, integer, "of the weights that sampled the turn; -1 = nobody's")
VERSIONS = Column(
    "versions", TURN, anything, "per token the version that sampled it, where it changed on the way, or None"
)
TEMPERATURE = Column("temperature", TURN, floating, "that the logits were divided by")
TURN_TEXT = Column("turn_text", TURN, anything, "derived text of the turn")
TURN_REWARD = Column("turn_reward", TURN, floating, "what the environment gave the turn; NaN = nothing")
SUPPORT = Column("support", TURN, anything, "per token the ids that truncation left, or None")
ALLOWED = Column("allowed", TURN, anything, "the ids that could be sampled, or None")
ROLE = Column("role", TRAJECTORY, anything, "the seat that made the trajectory")
OUTCOME = Column("outcome", TRAJECTORY, anything, '"ok" or why there is no reward')
INFO = Column("info", TRAJECTORY, anything, "what the environment noted (a mapping)")
EPISODE = Column("episode", TRAJECTORY, integer, "which play of its request made the trajectory, from 0")
TASK = Column("task", GROUP, anything, "the Task")
REQUEST = Column("request", GROUP, anything, "the request that the group answers")
SPLIT = Column("split", GROUP, anything, '"train" or an evaluation\'s name')
GROUP_KEY = Column("group_key", GROUP, anything, "what tells the group from others of its request and role, or empty")
CORE = (
    AUTHOR, FINISH, VERSION, TEMPERATURE, TURN_TEXT, SUPPORT, ALLOWED, ROLE, OUTCOME, INFO, EPISODE, TASK, REQUEST,
    SPLIT, GROUP_KEY,
)  # fmt: skip
