"""Search by tags: what is recorded of calls whose inputs do not extend one another, actions, results, the judge."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from temper.bridge import BEHAVIOUR
from temper.carrier import Batch
from temper.columns import REWARD, TOKEN, TRAJECTORY
from temper.envs.search import NO_PAGE, NOTHING, Calls, Research, action, references, well_formed
from temper.episode import ENV, Episode, Recorder
from temper.models.tiny import tiny_tokenizer
from temper.objective import seq_mean_token_mean
from temper.parts.rewards import Rewards
from temper.request import Drop
from temper.rewards.load import Reward
from temper.rewards.qa import AnswerReward
from temper.tasks.task import Task
from temper.tools.search import Access, Document, Search
from tests.envs.actors import Actor, Guarded, says, seat


class Library:
    """Two documents, whatever is asked for but "zebra"; one long page."""

    asked: list[str]

    def __init__(self) -> None:
        self.asked = []

    async def search(self, query: str, top: int = 0) -> Sequence[Document]:
        self.asked.append(query)
        return [] if query == "zebra" else [Document("One", "1" * 9, "u/1"), Document("Two", "2" * 9, "u/2")]

    async def access(self, url: str) -> str | None:
        return "".join(f"{n:04d}." for n in range(8)) if url == "u/1" else None


def play(*lines: str, task: Task | None = None, **options: Any) -> tuple[Episode, Actor, Library]:
    library = options.pop("library", None) or Library()
    words = says(*(f"{line} +" if line.endswith(">") else line for line in lines))  # an actor stops before its end
    actor = Actor(Guarded(tiny_tokenizer()), words, context=options.pop("context", 10_000))
    env = Research(library, **options)
    episode = asyncio.run(env.play(task or Task("t", "Who?", "Ann Bob"), {"solver": seat(actor)}))
    return episode, actor, library


def chains(e: Episode) -> int:
    """Leaves of the tree of turns."""
    parents = {t.parent for t in e.turns}
    return sum(n not in parents for n in range(len(e.turns)))


def inputs(e: Episode) -> list[tuple[int, ...]]:
    whole: list[tuple[int, ...]] = []
    for t in e.turns:
        whole.append((*(whole[t.parent] if t.parent >= 0 else ()), *t.ids))
    return [whole[n][: -len(t.ids)] for n, t in enumerate(e.turns) if t.author != ENV]


# packing --------------------------------------------------------------------------------------------------------------

SEARCHES = ("<search>a</search>", "one</think>", "<search>b</search>", "two</think>", "<answer>Ann Bob</answer>")


def test_five_calls_that_extend_one_another_are_one_chain() -> None:
    e, actor, _ = play(*SEARCHES)
    assert chains(e) == 1 and e.trajectories[0].info["chains"] == 1 and len(actor.asked) == 5
    b = Batch.of([e])
    assert b.size(TOKEN) == sum(len(a.ids) for a in actor.answers)
    assert inputs(e) == actor.asked


PAGE = ("<access>u/1</access>", "read</think>", "<answer>Ann Bob</answer>")


def test_one_compaction_is_exactly_two_chains() -> None:
    e, actor, _ = play(*PAGE, short=3)
    assert chains(e) == 2 and e.trajectories[0].info["chains"] == 2 and len(e.trajectories) == 1
    b = Batch.of([e])
    assert b.size(TRAJECTORY) == 1 and b.size(TOKEN) == sum(len(a.ids) for a in actor.answers)
    assert inputs(e) == actor.asked
    text = actor.raw.decode(actor.asked[2])
    assert ">>>> Page 1 >>>>\n\n000\n" in text and "0007" not in text and "read</think>" in text
    assert "0007" in actor.raw.decode(actor.asked[1])


def test_nothing_is_shortened_where_all_of_a_page_stays() -> None:
    e, _, _ = play(*PAGE, short=10_000)
    assert chains(e) == 1


def test_log_probs_belong_to_their_tokens() -> None:
    e, actor, _ = play(*PAGE, short=3)
    logp = [v for a in actor.answers for v in a.logp]
    sampled = [t for t in e.turns if t.author != ENV]
    assert [t.ids for t in sampled] == [a.ids for a in actor.answers]
    assert torch.equal(Batch.of([e])[BEHAVIOUR], torch.tensor(logp))


def test_an_episode_of_two_chains_counts_once_in_a_sequence_mean() -> None:
    one, _, _ = play("<answer>Ann</answer>")
    two, _, _ = play(*PAGE, short=3)
    b = Batch.of([one, two])
    w = seq_mean_token_mean(b, torch.ones(b.size(TOKEN)))
    assert b.sum(w, TOKEN, TRAJECTORY).tolist() == pytest.approx([0.5, 0.5])


def test_ids_are_compared_and_not_their_text() -> None:
    """A call continues only what is the same id by id, also where another tokenisation spells the same text."""
    tokenizer = tiny_tokenizer()
    actor = Actor(tokenizer, says("x"))
    calls = Calls(seat(actor), Recorder(Task("t", "?")))
    word = tuple(tokenizer.encode("largest"))
    letters = tuple(i for c in "largest" for i in tokenizer.encode(c))
    assert word != letters
    asyncio.run(calls(word))
    said = calls.record.turns[1].ids
    asyncio.run(calls((*word, *said, 5)))
    asyncio.run(calls((*letters, *said, 5)))
    assert [t.parent for t in calls.record.turns] == [-1, 0, 1, 2, -1, 4] and calls.chains == 2


# what comes back ------------------------------------------------------------------------------------------------------


def test_documents_are_shown_up_to_a_length_and_pages_in_pieces() -> None:
    lines = ("<search>a</search>", "so</think>", "<access>u/1</access>", "p1</think>", "p2</think>", "p3</think>", "…")
    _, actor, library = play(*lines, top=1, document=6, page=15, pages=3, short=2, turns=7)
    texts = [actor.raw.decode(ids) for ids in actor.asked]
    assert library.asked == ["a"]
    assert texts[1].endswith("\n\n<information>\n[Doc 1](u/1):\nOne\n11\n</information>\n<think>\n")
    assert texts[3].endswith(">>>> Page 1 >>>>\n\n0000.0001.0002.\n</information>\n<think>\n")
    assert texts[4].endswith(">>>> Page 2 >>>>\n\n0003.0004.0005.\n</information>\n<think>\n")
    assert ">>>> Page 1 >>>>\n\n00\n" in texts[4] and texts[5].endswith("0006.0007.\n</information>\n<think>\n")
    assert texts[6].endswith("p3</think>") and "Page 3 >>>>\n\n00\n" in texts[6]


def test_a_page_has_at_most_so_many_pieces() -> None:
    _, actor, _ = play("<access>u/1</access>", "p1</think>", "<answer>x</answer>", page=15, pages=1)
    assert len(actor.asked) == 3


@pytest.mark.parametrize("call, text", [("<search>zebra</search>", NOTHING), ("<access>u/9</access>", NO_PAGE)])
def test_what_is_not_found_is_said(call: str, text: str) -> None:
    _, actor, _ = play(call, "so</think>", "<answer>x</answer>")
    assert text in actor.raw.decode(actor.asked[1])


class Broken(Library):
    def __init__(self, error: BaseException | None = None):
        super().__init__()
        self.error = error

    async def search(self, query: str, top: int = 0) -> Sequence[Document]:
        if self.error:
            raise self.error
        await asyncio.sleep(10)
        return []


def test_an_engine_that_hangs_finds_nothing_and_one_that_is_down_drops_the_attempt() -> None:
    _, actor, _ = play("<search>a</search>", "so</think>", "<answer>x</answer>", library=Broken(), timeout=0.01)
    assert NOTHING in actor.raw.decode(actor.asked[1])
    with pytest.raises(Drop, match="search fault"):
        play("<search>a</search>", library=Broken(ConnectionRefusedError()))


def test_it_ends_with_an_answer_an_end_token_the_turns_or_the_room() -> None:
    assert len(play("<answer>x</answer>", "more")[1].asked) == 1
    assert len(play("I stop.", "more")[1].asked) == 1
    assert len(play("<search>a</search>", "on</think>", turns=5)[1].asked) == 5
    episode, actor, _ = play("<search>a</search>", "on</think>", longest=200)
    assert all(len(ids) + 64 <= 200 for ids in actor.asked) and episode.turns[-1].author != ENV
    with pytest.raises(Drop, match="prompt too long"):
        play("x", context=70)


# the judge ------------------------------------------------------------------------------------------------------------


def judged(*lines: str, valid: bool = False, answer: Any = "Ann Bob", **options: Any) -> tuple[float, Any]:
    task = Task("t", "Who?", "Ann Bob", info={"valid": valid})
    info = play(*lines, task=task, **options)[0].trajectories[0].info
    kept = {k: info[k] for k in ("said", "well_formed", "rejects")}
    return AnswerReward("set", -0.5)(answer=answer, valid=valid, **kept), info


def test_the_reward_is_the_last_answers_f1_where_every_call_is_well_formed() -> None:
    assert judged(*SEARCHES)[0] == 1.0
    assert judged("<answer>ann, Cid</answer>")[0] == 0.5  # one word of two, on both sides
    assert judged("I do not know")[0] == 0.0
    reward, info = judged("</think></think><search>a</search>", "so</think>", "<answer>Ann Bob</answer>")
    assert reward == 0.0 and info["said"] == "Ann Bob" and info["well_formed"] == pytest.approx(2 / 3)


def test_rejecting_a_question_that_is_valid_costs() -> None:
    no = "<answer>the question is invalid.</answer>"
    assert judged(no)[0] == 0.0
    assert judged(no, valid=True)[0] == -0.5
    assert judged("assistant <answer>not appropriate</answer>", valid=True)[0] == -0.5  # also where it is malformed


def test_several_references() -> None:
    assert judged("<answer>bob</answer>", answer=["Ann", "Bob"])[0] == 1.0
    assert references(Task("t", "Who?", "['Ann']", info={"answer": ["Ann", "Bob"]})) == ["Ann", "Bob"]


def test_a_valid_question_has_another_prompt() -> None:
    options: dict[str, Any] = {"prompt": "{validity}: {question}", "validity": ("maybe", "surely")}
    for valid, word in ((False, "maybe: Who?"), (True, "surely: Who?")):
        _, actor, _ = play("x", task=Task("t", "Who?", "x", info={"valid": valid}), **options)
        assert word in actor.raw.decode(actor.asked[0])


@pytest.mark.parametrize(
    "text, fine",
    [
        ("so</think><search>a</search>", True),
        ("nothing at all", True),
        ("<search>a", False),
        ("<search>a</search><answer>b</answer>", False),
        ("</think></think>", False),
        ("Assistant: <answer>b</answer>", False),
    ],
)
def test_well_formed(text: str, fine: bool) -> None:
    assert well_formed(text) is fine


def test_actions() -> None:
    assert action("<search>a</search> then <search> b </search>") == ("search", "b")
    assert action("<answer>x</answer><access>u</access>") == ("access", "u")
    assert action("<answer>x") == ("", "")


def test_the_rewards_stage_judges_what_was_noted() -> None:
    e, _, _ = play(*SEARCHES)
    judge = Rewards([Reward(AnswerReward("set", -0.5), name="f1")])
    assert asyncio.run(judge(Batch.of([e])))[REWARD].tolist() == [1.0]
    judge.close()


# the local engine -----------------------------------------------------------------------------------------------------


def test_pages_of_a_local_corpus() -> None:
    pytest.importorskip("bm25s")
    corpus = [{"title": "Kalo", "text": "capital: Mira", "url": "kalo"}, {"title": "Suva", "text": "river: Deva"}]
    engine = Search(corpus, top=2)
    assert asyncio.run(engine.search("the capital of Kalo", 1)) == [Document("Kalo", "capital: Mira", "kalo")]
    assert asyncio.run(engine.access("kalo")) == "Kalo\ncapital: Mira" and asyncio.run(engine.access("suva")) is None
    access = Access(engine)
    assert asyncio.run(access(url="kalo")).text == "Kalo\ncapital: Mira"
    assert asyncio.run(access(url="x")).outcome == "tool error"
    assert asyncio.run(engine(query="kalo")).text.startswith("[1] Kalo (kalo)\ncapital")
