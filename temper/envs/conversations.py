"""Conversations of a data set as demonstrations: what the assistant said is learned, everything else is context.

Templates that keep history make one chain of turns. Templates that rewrite it (Qwen3 strips earlier reasoning) would
train on contexts that never occur; there each answer opens a fresh context, as the model sees it when it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from temper.episode import ENV, Episode, Recorder
from temper.errors import UserError
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task

Messages = list[dict[str, Any]]
Chain = list[tuple[str, list[int]]]  # (author, ids) in order


@dataclass(frozen=True)
class Dialogue:
    """`answer` follows `prompt`; the assistant's messages in it are learned. info goes to the trajectory.

    text  instead of messages: plain text, learned whole
    """

    prompt: Messages
    answer: Messages
    info: Mapping[str, Any] = field(default_factory=dict)
    text: str | None = None


@dataclass
class Conversations:
    """Every dialogue of a task is a trajectory; its assistant turns are TOKEN rows without behaviour log-probs.

    longest  a task with a context of more tokens is dropped, and counted (0: the model's own limit)
    """

    dialogues: Callable[[Task], Sequence[Dialogue]]
    role: str = "solver"
    longest: int = 0
    samples = False

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seat, record = roles[self.role], Recorder(task)
        limit = min(n for n in (self.longest or 1 << 30, getattr(seat.policy.sampler, "context", 1 << 30)))
        tools = task.info.get("tools")
        options: dict[str, Any] = {"tools": list(tools)} if tools else {}
        for d in self.dialogues(task):
            turns = []
            for chain in chains_of(d, seat.tokenizer, **options):
                if sum(len(ids) for _, ids in chain) > limit:
                    raise Drop("conversation too long")
                parent = -1
                for author, ids in chain:
                    parent = record.add(ids, parent, author=ENV if author == ENV else self.role)
                    turns.append(parent)
            if not turns:
                raise Drop("no answer to learn")
            record.judge(turns, role=self.role, info=d.info)
        return record.episode()


def chains_of(d: Dialogue, tokenizer: Any, role: str = "solver", **options: Any) -> list[Chain]:
    """The dialogue by the tokenizer's own template, one chain of turns for each context that it is answered in.

    An answer ends with its end-of-turn token; what the template writes behind that belongs to the next context.
    UserError when the template shows an answer in another place than it asks for one.
    """
    if d.text is not None:
        return [_plain_text(d.text, tokenizer, role)]
    messages, chains = [*d.prompt, *d.answer], list[Chain]()
    done, shown = "", list[int]()  # of the chain that is being written: its text, and the ids so far
    for n in range(len(d.prompt), len(messages)):
        if messages[n]["role"] != "assistant":
            continue
        opening = _render(tokenizer, messages[:n], True, options)
        closed = _ended(_render(tokenizer, messages[: n + 1], False, options), opening, tokenizer)
        if not chains or not opening.startswith(done):
            chains.append([])
            done, shown = "", []
        asked = _after(tokenizer, opening, done, shown)
        said = _after(tokenizer, closed, opening, [*shown, *asked])
        chains[-1] += [(ENV, asked), (role, said)]
        done, shown = closed, [*shown, *asked, *said]
    return chains


def _render(tokenizer: Any, messages: Messages, opening: bool, options: Mapping[str, Any]) -> str:
    try:
        text: str = tokenizer.apply_chat_template(messages, add_generation_prompt=opening, tokenize=False, **options)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"the chat template refuses a conversation of the data: {first}")
    return text


def _ended(closed: str, opening: str, tokenizer: Any) -> str:
    """`closed` up to the end token of its last answer."""
    from temper.models.load import turn_ends

    if not closed.startswith(opening):
        raise UserError(
            "the chat template asks for an answer with one text and shows the answer behind another "
            f"({opening[-40:]!r}): use a template that keeps what it opened, or prompt and completion as plain text"
        )
    ends = [tokenizer.convert_ids_to_tokens(i) for i in turn_ends(tokenizer)]
    cuts = [closed.rfind(e) + len(e) for e in ends if closed.rfind(e) >= len(opening)]
    return closed[: max(cuts)] if cuts else closed


def _after(tokenizer: Any, text: str, before: str, ids_before: list[int]) -> list[int]:
    """Ids of what `text` adds to `before`: of the whole text's where those begin alike, else of the addition alone."""
    whole: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if whole[: len(ids_before)] == ids_before:
        return whole[len(ids_before) :]
    added: list[int] = tokenizer.encode(text[len(before) :], add_special_tokens=False)
    return added


def _plain_text(text: str, tokenizer: Any, role: str) -> Chain:
    """Text without roles, after the token that begins (or else ends) a sequence."""
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [(ENV, [first]), (role, [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id])]


# what the rows of a data set say -------------------------------------------------------------------------------------


def demonstrated(task: Task) -> list[Dialogue]:
    """All of `messages`, the completion of a prompt, or plain text."""
    from temper.tasks.rows import demonstration

    info = task.info
    if info.get("messages") is not None and info.get("completion") is None:
        return [Dialogue([], [dict(m) for m in info["messages"]])]
    if isinstance(info.get("text"), str) and not task.prompt:
        return [Dialogue([], [], text=info["text"])]
    return [Dialogue(*demonstration(task))]


def preferred(task: Task) -> list[Dialogue]:
    """The chosen and the rejected answer to one prompt: INFO says which is which."""
    from temper.tasks.rows import preference

    prompt, chosen, rejected = preference(task)
    return [Dialogue(prompt, chosen, {"chosen": True}), Dialogue(prompt, rejected, {"chosen": False})]
