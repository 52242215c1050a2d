"""Two roles in one file: a guide sees a number and says something; a guesser hears that and names the number.

    temper run examples/my_two_roles.py --steps 20
    temper run examples/my_two_roles.py --policies separate --steps 20

Each role has a conversation, a trajectory and a reward of its own. Which policy plays a role is the recipe's business:
one that plays both, or two with an optimiser and a checkpoint each.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from temper.backends.base import AdamW, SamplingParams
from temper.columns import REWARD
from temper.envs.chat import Chat
from temper.episode import Episode, Recorder
from temper.methods.objectives.grpo import grpo
from temper.objective import Update
from temper.parts.curricula import Shuffled
from temper.policy import Policy, Seat
from temper.run import Run
from temper.tasks.task import Task


@dataclass
class Hint:
    """Both get 1 when the guess is right; a guide that gives the number away in digits gets half."""

    roles = ("guide", "guesser")
    writes = (REWARD,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        record = Recorder(task)
        guide = await self.ask(roles["guide"], record, f"Describe the number {task.answer}.")
        guesser = await self.ask(roles["guesser"], record, f"Which number is it? {guide.text}")
        found = re.search(r"\d+", guesser.text)
        right = float(found is not None and found[0] == task.answer)
        guide.chat.judge(right * (0.5 if str(task.answer) in guide.text else 1.0))
        guesser.chat.judge(right)
        return record.episode()

    async def ask(self, seat: Seat, record: Recorder, question: str) -> "Said":
        chat = Chat(seat, record, turns=1)
        chat.start([{"role": "user", "content": question}])
        said = await chat.say()
        return Said(chat, said.text if said else "")


@dataclass
class Said:
    chat: Chat
    text: str


def my_two_roles(
    model: str = "temper-tiny", policies: Literal["shared", "separate"] = "shared", steps: int = 20, groups: int = 8,
    attempts: int = 8, lr: float = 2e-4, seed: int = 0,
) -> Run:  # fmt: skip
    """GRPO of both roles: one policy that plays them, or one for each; groups of numbers, attempts at each."""
    tasks = [Task(f"n{n}", "Hint.", str(n), source="hint") for n in range(10, 60)]
    names = ("both", "both") if policies == "shared" else Hint.roles
    made = {name: Policy(name, model, optimizer=AdamW(lr=lr)) for name in dict.fromkeys(names)}
    seats = {role: made[name] for role, name in zip(Hint.roles, names)}
    played = {p.name: tuple(role for role in seats if seats[role] is p) for p in made.values()}
    methods = {p.name: grpo(p, beta=0.0) for p in made.values()}
    return Run(
        name="two-roles", env=Hint(), curriculum=Shuffled(tasks, attempts, seed), roles=seats,
        on_group=next(iter(methods.values())).on_group,
        updates=[Update(made[n], m.terms, roles=played[n]) for n, m in methods.items()],
        steps=steps, groups=groups, seed=seed, sampling=SamplingParams(max_tokens=12),
    )  # fmt: skip
