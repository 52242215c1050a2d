"""An environment in one file: guess a number, and be told higher or lower after a wrong guess.

    temper run examples/my_environment.py --steps 20

What an environment adds to the context is a turn without a reward of its own; what the model adds is trained on.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from temper.backends.base import AdamW, SamplingParams
from temper.columns import REWARD
from temper.episode import Episode, Recorder
from temper.methods.objectives.grpo import grpo
from temper.objective import Update
from temper.parts.curricula import Shuffled
from temper.policy import Policy, Seat
from temper.run import Run
from temper.tasks.task import Task


@dataclass
class Guess:
    """Reward: 1/n for finding the number with the n-th guess, 0 for not finding it in `tries`."""

    tries: int = 3
    roles = ("solver",)
    writes = (REWARD,)  # it judges itself

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seat, record = roles["solver"], Recorder(task)
        message, turns, reward = str(task.prompt), [], 0.0
        for n in range(1, self.tries + 1):
            ids = seat.chat([{"role": "user", "content": message}])
            turns.append(record.add(ids, turns[-1] if turns else -1))  # parent: what is in context before it
            answer = await seat.sample(record.context(turns[-1]))
            turns.append(record.sampled(answer, turns[-1]))
            found = re.search(r"\d", answer.text)
            if found and found[0] == task.answer:
                reward = 1 / n
                break
            message = "Say a number." if not found else "Higher." if found[0] < str(task.answer) else "Lower."
        record.judge(turns, reward=reward)
        return record.episode()


def my_environment(
    model: str = "temper-tiny", steps: int = 20, groups: int = 8, attempts: int = 8, tries: int = 3, seed: int = 0
) -> Run:
    """GRPO on a guessing game: groups of numbers, attempts at each, tries in a game."""
    policy = Policy(model=model, optimizer=AdamW(lr=2e-4))
    tasks = [Task(f"n{n}", "Guess a number from 1 to 9.", str(n), source="guess") for n in range(1, 10)]
    method = grpo(policy, beta=0.0)
    return Run(
        name="guess", env=Guess(tries), curriculum=Shuffled(tasks, attempts, seed), roles={"solver": policy},
        on_group=method.on_group, updates=[Update(policy, method.terms)],
        steps=steps, groups=groups, seed=seed, sampling=SamplingParams(max_tokens=8),
    )  # fmt: skip
