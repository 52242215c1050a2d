"""Answers as text: what leaves a node that shares no weights and no tokenizer, and what it takes from another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from temper.carrier import Batch
from temper.columns import AUTHOR, FINISH, OUTCOME, TASK, TURN_TEXT
from temper.episode import ENV, Episode, Trajectory, Turn
from temper.models.render import renderer_of
from temper.tasks.task import Task


@dataclass(frozen=True)
class Answers:
    """One task and a group's answers to it, as text. `finished`: whether each ended by itself."""

    task: Task
    texts: tuple[str, ...]
    finished: tuple[bool, ...]

    def to_json(self) -> dict[str, Any]:
        t = self.task
        task = {"id": t.id, "prompt": t.prompt, "answer": t.answer, "source": t.source, "info": dict(t.info)}
        return {"task": task, "texts": list(self.texts), "finished": list(self.finished)}

    def episodes(self, tokenizer: Any, name: str, temperature: float) -> list[Episode]:
        """As if they were one's own: their texts in the tokens of `tokenizer`, without log-probs, request `name`."""
        render, messages = renderer_of(tokenizer), self.task.messages
        prompt = Turn(render.ids(render.text(messages), first=True), text=str(messages[-1]["content"]))
        made = []
        for text, finished in zip(self.texts, self.finished):
            ids = tuple(tokenizer.encode(text, add_special_tokens=False))
            ids += (tokenizer.eos_token_id,) if finished or not ids else ()
            finish = "stop" if finished else "length"
            answer = Turn(ids, 0, "solver", text, finish=finish, temperature=temperature)
            made.append(Episode(self.task, (prompt, answer), (Trajectory((0, 1)),), name))
        return made

    @staticmethod
    def from_json(row: Any, most: int, longest: int) -> Answers:
        """ValueError unless it has that shape, at most `most` answers, no text of more than `longest` characters."""
        task, texts, finished = _typed(row, dict, ("task", dict), ("texts", list), ("finished", list))
        names = [_typed(task, dict, (k, str))[0] for k in ("id", "source")]
        prompt, answer, info = task.get("prompt"), task.get("answer"), task.get("info")
        messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        said = [str(_typed(m, dict, (k, str))[0]) for m in messages for k in ("role", "content")]
        if not 1 <= len(texts) <= most or len(finished) != len(texts) or not said:
            raise ValueError(
                f"{len(texts)} answers, {len(finished)} of them with an end, {len(said)} parts of a prompt"
            )
        if not all(isinstance(t, str) and len(t) <= longest for t in (*texts, *said, *names, answer or "")):
            raise ValueError(f"a text is none, or longer than {longest} characters")
        if not all(isinstance(f, bool) for f in finished) or not isinstance(info, dict):
            raise ValueError("what says whether an answer ended, or the task's info, has another type")
        return Answers(Task(names[0], prompt, answer, names[1], info), tuple(texts), tuple(finished))  # type: ignore[arg-type]


def _typed(row: Any, kind: type, *fields: tuple[str, type]) -> list[Any]:
    if not isinstance(row, kind):
        raise ValueError(f"a {kind.__name__} was expected")
    for name, of in fields:
        if not isinstance(row.get(name), of):
            raise ValueError(f"{name} is missing, or of another type")
    return [row[name] for name, _ in fields]


def answers_of(b: Batch) -> list[Answers]:
    """What was answered to each task: the text of each trajectory's last sampled turn, where it was judged."""
    found: dict[int, list[tuple[str, bool]]] = {}
    for j, (path, group) in enumerate(zip(b.structure.paths, b.structure.group.tolist())):
        last = [u for u in path if b[AUTHOR][u] != ENV][-1]
        if b[OUTCOME][j] == "ok":
            found.setdefault(group, []).append((b[TURN_TEXT][last], b[FINISH][last] == "stop"))
    return [Answers(b[TASK][g], *map(tuple, zip(*rows))) for g, rows in found.items()]
