"""Answers steered between their table of payoffs and their words: stop, price, choose, go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from temper.envs.chat import cut
from temper.episode import Episode, Recorder
from temper.policy import Seat
from temper.rewards.payoffs import Prices, best_cell, payoffs, priced
from temper.tasks.task import Task

END = "</payoff>"
PLANS = {
    "DA": "Answer the question directly.",
    "CQ": "Ask one question to learn what is meant.",
    "AQ": "Answer the question, then ask one question that leads on.",
}


@dataclass
class Steered:
    """The answer stops behind its table; the cell with the largest product after `prices` says what comes next.

    That plan is fed as the analysis, and the answer goes on behind "<response>". An answer without a table that can be
    read stays as it is. For evaluation and use: what is fed is the environment's, and what is judged is the response.
    Its info: "steered", and the "cell" with and without prices.

    prices  added to the payoffs (`temper.rewards.payoffs`); system: asks for the sections
    """

    prices: Prices = field(default_factory=dict)
    system: str | None = None
    role: str = "solver"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seat, record = roles[self.role], Recorder(task)
        ids = seat.chat(([{"role": "system", "content": self.system}] if self.system else []) + task.messages)
        prompt = record.add(ids, text=str(task.messages[-1].get("content") or ""))
        said = await seat.sample(ids, stop=(END,))
        end = said.text.find(END)
        said = cut(said, None if end < 0 else end + len(END), seat.tokenizer)
        path = [prompt, record.sampled(said, prompt, author=self.role)]
        table = payoffs(said.text)
        info: dict[str, Any] = {"steered": table is not None}
        if table is not None:
            cell = best_cell(priced(table, self.prices))
            info |= {"cell": cell, "unpriced": best_cell(table)}
            text = f"<analyze>{PLANS[cell.partition('_')[2]]}</analyze><response>"
            fed = tuple(seat.tokenizer.encode(text, add_special_tokens=False))
            path.append(record.add(fed, path[-1], text=text))
            rest = await seat.sample((*ids, *said.ids, *fed))
            path.append(record.sampled(rest, path[-1], author=self.role))
        record.judge(path, role=self.role, info=info)
        return record.episode()
