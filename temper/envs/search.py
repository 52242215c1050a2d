"""Looking for an answer by tags in a running text: <search>…</search>, <access>…</access>, <answer>…</answer>.

The policy writes one assistant's turn. What it asked for stands in it as <information>…</information>, tokenised alone,
control tokens in it harmless. `Research` reads results in full and remembers them shortened.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from temper import streams
from temper.episode import Completion, Episode, Recorder
from temper.models.load import turn_ends
from temper.models.render import Renderer, renderer_of
from temper.policy import Seat
from temper.request import Drop
from temper.tasks.task import Task
from temper.tools.search import Document

T = TypeVar("T")
ACTIONS = ("search", "access", "answer")
INVALID = ("question", "invalid", "appropriate", "valid")  # words of an answer that rejects the question
NOTHING, NO_PAGE = "No search results are found.", "No More Information is Found for this URL."


class Engine(Protocol):
    """What `temper.tools.search.Search` is."""

    async def search(self, query: str, top: int = 0) -> Sequence[Document]: ...
    async def access(self, url: str) -> str | None: ...


# a text that is continued ---------------------------------------------------------------------------------------------


class Calls:
    """One seat's calls, each with its whole input, recorded token by token once.

    A call stands behind the last turn whose context begins its input, ids compared one by one; what is new becomes the
    environment's turn. An input that continues nothing opens a fresh context (parent −1). All calls are one trajectory.

    longest  most tokens of input and answer together (0: the model's own limit)
    members  turns so far; texts: what was said; chains: how often a call did not continue the one before it, plus one
    """

    def __init__(self, seat: Seat, record: Recorder, longest: int = 0):
        self.seat, self.record = seat, record
        own = int(getattr(seat.policy.sampler, "context", 1 << 30))
        self.longest = min(longest or own, own)
        self.ends = turn_ends(seat.tokenizer)
        self.members: list[int] = []
        self.texts: list[str] = []
        self.chains = 0
        self._contexts: dict[int, tuple[int, ...]] = {}

    async def __call__(self, ids: tuple[int, ...], **overrides: Any) -> Completion | None:
        """What the seat says behind `ids`; None where there is no room for a whole answer (Drop: not for the first)."""
        if len(ids) + self.seat.params.max_tokens > self.longest:
            if not self.texts:
                raise Drop("prompt too long")
            return None
        parent = self._behind(ids)
        self.chains += not self.members or parent != self.members[-1]
        rest = ids[len(self._contexts.get(parent, ())) :]
        if rest:
            parent = self._keep(self.record.add(rest, parent, text=self.seat.tokenizer.decode(rest)), ids)
        said = await self.seat.sample(ids, **overrides)
        self._keep(self.record.sampled(said, parent, author=self.seat.role), (*ids, *said.ids))
        self.texts.append(said.text)
        return said

    def over(self, said: Completion) -> bool:
        """Whether the policy ended its turn instead of a tag."""
        return bool(said.ids) and said.ids[-1] in self.ends

    def _behind(self, ids: tuple[int, ...]) -> int:
        fits = [(len(c), turn) for turn, c in self._contexts.items() if ids[: len(c)] == c]
        return max(fits, default=(0, -1))[1]

    def _keep(self, turn: int, context: tuple[int, ...]) -> int:
        self._contexts[turn] = context
        self.members.append(turn)
        return turn


def information(render: Renderer, text: str, after: str = "") -> tuple[int, ...]:
    """Ids of an observation; `text` is a stranger's."""
    return render.ids(f"\n\n<information>\n{render.quoted(text)}\n</information>\n{after}")


def tagged(text: str, tag: str) -> list[str]:
    return [found.strip() for found in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)]


# results are read in full, and remembered shortened -------------------------------------------------------------------


class Seen(NamedTuple):
    """An observation: as it is read, and as it is remembered."""

    full: str
    short: str


@dataclass
class Research:
    """Search, access and answer; a result is read in full by a call that ends with </think>, a page then shortened.

    Judged by a rewards stage (`temper.rewards.qa.AnswerReward`) from what it notes: said, the last answer; well_formed,
    the share of calls that were; rejects, whether the answer is that the question has none; valid, whether the prompt
    said that it has one.

    engine    what searches, and opens pages
    turns     most calls; longest: most tokens of a call's input and answer (0: the model's limit)
    top       documents that a search brings; document: characters shown of each
    page      characters that are read at once; pages: how many such pieces; short: characters of one that stay
    prompt    {question} and {validity} are filled in; validity: for questions that may be invalid, and that are valid
    timeout   seconds of a search or an access; what takes longer finds nothing
    valid     share of tasks whose prompt says that they are, drawn by the task's id; its info["valid"] comes first
    """

    engine: Engine
    turns: int = 32
    longest: int = 0
    top: int = 5
    document: int = 5000
    page: int = 25_000
    pages: int = 10
    short: int = 100
    prompt: str = "{question}"
    validity: tuple[str, str] = ("", "")
    valid: float = 0.0
    timeout: float = 30.0
    role: str = "solver"

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        seat = roles[self.role]
        render, calls = renderer_of(seat.tokenizer), Calls(seat, Recorder(task), self.longest)
        drawn = streams.generator(0, "valid", task.id).random() < self.valid
        valid = bool(task.info.get("valid", drawn))
        text = self.prompt.format(question=task.messages[-1]["content"], validity=self.validity[valid])
        memory = seat.chat([*task.messages[:-1], {"role": "user", "content": text}])
        unread: list[Seen] = []
        used = dict.fromkeys(ACTIONS, 0)
        while len(calls.texts) < self.turns:
            seen = unread.pop(0) if unread else None
            given = memory + (information(render, seen.full, "<think>\n") if seen else ())
            said = await calls(given, stop=("</think>",) if seen else tuple(f"</{a}>" for a in ACTIONS))
            if said is None:
                break
            memory += (information(render, seen.short, "<think>\n") if seen else ()) + said.ids
            kind, content = action(said.text)
            if kind:
                used[kind] += 1
            if tagged(said.text, "answer") or calls.over(said):
                break
            unread += await self._observed(kind, content)
        return self._judged(calls, used, valid)

    async def _observed(self, kind: str, content: str) -> list[Seen]:
        if kind == "search":
            found = list(await self._within(self.engine.search(content, self.top)) or ())[: self.top]
            shown = [f"[Doc {n}]({d.url}):\n{_whole(d)[: self.document]}" for n, d in enumerate(found, 1)]
            text = "\n\n".join(shown) or NOTHING
            return [Seen(text, text)]
        if kind == "access":
            page = await self._within(self.engine.access(content)) or ""
            starts = range(0, len(page), self.page)[: self.pages]
            pieces = [(f">>>> Page {n} >>>>\n\n", page[at : at + self.page]) for n, at in enumerate(starts, 1)]
            read = [Seen(head + piece, head + piece[: self.short]) for head, piece in pieces]
            return read or [Seen(NO_PAGE, NO_PAGE)]
        return []

    async def _within(self, wait: Awaitable[T]) -> T | None:
        """What the engine brings, None where it takes too long; an engine that is not there drops the attempt."""
        try:
            return await asyncio.wait_for(wait, self.timeout)
        except TimeoutError:
            return None
        except ConnectionError:
            raise Drop("search fault") from None

    def _judged(self, calls: Calls, used: Mapping[str, int], valid: bool) -> Episode:
        answers = [a for text in calls.texts for a in tagged(text, "answer")]
        said = answers[-1] if answers else ""
        formed = [well_formed(text) for text in calls.texts]
        info = {"said": said, "turns": len(formed), "chains": calls.chains, "actions": dict(used), "valid": valid}
        info |= {"well_formed": sum(formed) / max(1, len(formed)), "rejects": any(word in said for word in INVALID)}
        calls.record.judge(calls.members, role=self.role, info=info)
        return calls.record.episode()


def _whole(found: Document) -> str:
    return f"{found.title}\n{found.text}" if found.title else found.text


def action(text: str) -> tuple[str, str]:
    """(kind, content): the last search of a text, else its last access, else its last answer; ("", "") without one."""
    return next(((a, found[-1]) for a in ACTIONS if (found := tagged(text, a))), ("", ""))


def well_formed(text: str) -> bool:
    """Tags in pairs, at most one action, at most one end of thinking, and nobody speaks as "assistant"."""
    opened = [text.count(f"<{a}>") for a in ACTIONS]
    paired = opened == [text.count(f"</{a}>") for a in ACTIONS]
    return paired and sum(opened) <= 1 and text.count("</think>") <= 1 and not re.search("[Aa]ssistant", text)


def references(task: Task) -> list[str]:
    """The answers that count as right."""
    several = task.info.get("answer")
    return [str(a) for a in several] if isinstance(several, (list, tuple)) and several else [str(task.answer)]
