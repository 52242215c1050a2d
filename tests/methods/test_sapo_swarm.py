"""SAPO: text there and back, whose groups join, what the network may do, and nodes as real processes."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP, REWARD, TASK, TURN_TEXT
from temper.episode import Completion, Recorder
from temper.errors import UserError
from temper.gateway.client import Refused, ask
from temper.gateway.exchange import Exchange
from temper.gateway.payloads import Answers, answers_of
from temper.methods.rollouts.sapo_swarm import Share, sapo_swarm
from temper.parts.logprobs import BEHAVIOUR, OLD
from temper.policy import Policy
from temper.tasks.task import Task


class Judge:
    """1 for the task's own answer; notes what it was asked about."""

    reads, writes = (TASK, TURN_TEXT), (REWARD,)

    def __init__(self) -> None:
        self.seen = list[str]()

    async def __call__(self, b: Batch) -> Batch:
        said = [b[TURN_TEXT][path[-1]] for path in b.structure.paths]
        self.seen += said
        tasks = [b[TASK][g] for g in b.structure.group.tolist()]
        return b.put(REWARD, torch.tensor([float(s == t.answer) for s, t in zip(said, tasks)]))


@pytest.fixture(scope="module")
def policy() -> Iterator[Policy]:
    made = Policy(model="temper-tiny")
    made.open()
    yield made
    made.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[..., Exchange]]:
    made = list[Exchange]()

    def of(name: str, **fields: Any) -> Exchange:
        made.append(Exchange(tmp_path, name, **{"timeout": 5.0, **fields}))
        return made[-1]

    logging.disable(logging.CRITICAL)
    yield of
    logging.disable(logging.NOTSET)
    for exchange in made:
        exchange.close()


def group(policy: Policy, question: str, answer: str, *texts: str, name: str = "0") -> Batch:
    """Answers as a sampler of this policy would leave them, with a log-prob of −1 a token."""
    episodes = []
    for text in texts:
        record = Recorder(Task(f"t/{question}", question, answer))
        prompt = record.add((65, 66), text=question)
        ids = (*policy.tokenizer.encode(text, add_special_tokens=False), policy.tokenizer.eos_token_id)
        said = Completion(ids, (-1.0,) * len(ids), text=text)
        record.judge([prompt, record.sampled(said, prompt)])
        episodes.append(record.episode())
    return Batch.of([replace(e, request=name) for e in episodes])


def judged(policy: Policy, *groups: Batch) -> Batch:
    return asyncio.run(Judge()(Batch.concat(groups)))


def shared(policy: Policy, b: Batch, others: dict[str, list[Answers]], external: int = 4, **fields: Any) -> Any:
    class Said:
        node, metrics = "me", {"swarm/silent": 0.0}

        async def gather(self, step: int, mine: Any) -> Any:
            return others

    stage = Share(policy, [fields.pop("judge", Judge())], external, Said(), **fields)  # type: ignore[arg-type]
    return stage, asyncio.run(stage(b))


def answers(question: str, answer: str, *texts: str) -> Answers:
    return Answers(Task(f"o/{question}", question, answer), texts, (True,) * len(texts))


# what joins ----------------------------------------


def test_what_is_published_is_text(policy: Policy) -> None:
    mine = answers_of(judged(policy, group(policy, "2+2", "4", "4", "5"), group(policy, "1+1", "2", "2", name="1")))
    assert [(a.task.prompt, a.texts, a.finished) for a in mine] == [
        ("2+2", ("4", "5"), (True, True)),
        ("1+1", ("2",), (True,)),
    ]
    again = [Answers.from_json(json.loads(json.dumps(a.to_json())), 8, 100) for a in mine]
    assert again == mine
    assert not {"logp", "ids", "reward"} & set(json.dumps([a.to_json() for a in mine]).replace('"', " ").split())


def test_groups_of_equal_rewards_do_not_join(policy: Policy) -> None:
    b = judged(policy, group(policy, "2+2", "4", "4", "5"))
    others = {"x": [answers("3+3", "6", "6", "6"), answers("4+4", "8", "7", "9"), answers("5+5", "10", "10", "9")]}
    stage, out = shared(policy, b, others)
    assert [t.id for t in out[TASK]] == ["t/2+2", "o/5+5"]
    counts = {"swarm/nodes": 1, "swarm/groups": 3, "swarm/useful": 1, "swarm/taken": 1, "swarm/silent": 0}
    assert stage.metrics == {**counts, "swarm/own_reward": 0.5}


def test_their_answers_are_judged_encoded_and_scored_here(policy: Policy) -> None:
    """A reward that a sender might claim has no place; ids are one's own tokenizer's; ρ = 1 before the update."""
    judge = Judge()
    _, out = shared(
        policy,
        judged(policy, group(policy, "2+2", "4", "4", "5")),
        {"x": [answers("1+2", "3", "3", "no")]},
        judge=judge,
    )
    assert judge.seen == ["3", "no"] and out[REWARD].tolist() == [1, 0, 1, 0]
    ids, eos = out.token_ids.tolist(), policy.tokenizer.eos_token_id
    tail = [
        *policy.tokenizer.encode("3", add_special_tokens=False),
        eos,
        *policy.tokenizer.encode("no", add_special_tokens=False),
        eos,
    ]
    assert ids[-len(tail) :] == tail
    behaviour = out[BEHAVIOUR].tolist()
    assert all(x == -1 for x in behaviour[: -len(tail)]) and all(math.isnan(x) for x in behaviour[-len(tail) :])
    method = sapo_swarm(policy, [Judge()])
    for stage in method.on_batch[1:]:
        out = asyncio.run(stage(out))
    assert out[ADVANTAGE].tolist()[-len(tail) :] == pytest.approx([0.7071] * 2 + [-0.7071] * (len(tail) - 2), abs=1e-3)
    assert not out[OLD].isnan().any()
    fresh = policy.learner.read(out, {LOGP.of("check"): LOGP})
    assert torch.allclose(fresh[LOGP.of("check")], out[OLD])
    metrics = policy.learner.update(out, [*method.terms])
    assert metrics["grad_norm"] > 0


def test_no_more_than_asked_for_join_and_the_draw_is_repeatable(policy: Policy) -> None:
    b = judged(policy, group(policy, "2+2", "4", "4", "5"))
    others = {who: [answers(f"{who}{n}", "1", "1", "2") for n in range(4)] for who in "xyz"}
    drawn = []
    for _ in range(2):
        stage, out = shared(policy, b, others, external=4, seed=3)
        first = [t.id for t in out[TASK]][1:]
        second = [t.id for t in asyncio.run(stage(b))[TASK]][1:]
        drawn.append((first, second))
    assert drawn[0] == drawn[1] and len(drawn[0][0]) == 4 and drawn[0][0] != drawn[0][1]
    _, alone = shared(policy, b, others, external=0)
    assert [t.id for t in alone[TASK]] == ["t/2+2"]


def test_a_resumed_node_goes_on_in_its_round(policy: Policy) -> None:
    stage, _ = shared(policy, judged(policy, group(policy, "2+2", "4", "4")), {})
    again = Share(policy, [])
    again.load_state_dict(stage.state_dict())
    assert again.round == stage.round == 1


def test_two_tokenizers_keep_the_reward(policy: Policy, tmp_path: Path) -> None:
    """Text of one vocabulary, in the ids of another: decoded again it is the same text, and judged the same."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({c: n + 2 for n, c in enumerate(alphabet)} | {"<s>": 0, "</s>": 1}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    other = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", bos_token="<s>")
    other.chat_template = policy.tokenizer.chat_template

    texts = ("12", "für 3 €", "", "<think>\n1+1=2\n</think>\n2")
    for tokenizer in (policy.tokenizer, other):
        shared = Answers(Task("t", "q", "12"), texts, (True,) * 4).episodes(tokenizer, "0", 1.0)
        for text, episode in zip(texts, shared):
            ids = episode.turns[1].ids
            assert (
                ids[-1] == tokenizer.eos_token_id and tokenizer.decode(list(ids[:-1])) == text == episode.turns[1].text
            )


# the network ----------------------------------------


def test_everybody_gets_what_everybody_has(node: Callable[..., Exchange]) -> None:
    nodes = [node(n, nodes=3) for n in "abc"]

    async def rounds() -> Any:
        return [
            await asyncio.gather(*(x.gather(step, [answers(f"{x.node}{step}", "1", "1")]) for x in nodes))
            for step in range(3)
        ]

    for step, heard in enumerate(asyncio.run(rounds())):
        for x, got in zip(nodes, heard):
            assert {k: [a.task.prompt for a in v] for k, v in got.items()} == {
                n: [f"{n}{step}"] for n in "abc" if n != x.node
            }


def test_a_node_that_is_slow_or_gone_is_left_out(node: Callable[..., Exchange]) -> None:
    a, b = node("a", nodes=2, timeout=0.5), node("b", nodes=2)
    b.start()
    begun = time.monotonic()
    assert asyncio.run(a.gather(0, [])) == {} and 0.4 < time.monotonic() - begun < 3 and a.silent == 1
    asyncio.run_coroutine_threadsafe(b._server.closed(), b._loop).result(10)  # type: ignore[arg-type]
    begun = time.monotonic()
    assert asyncio.run(a.gather(1, [])) == {} and time.monotonic() - begun < 0.4 and a.silent == 2


def test_a_silent_node_costs_the_wait_once(node: Callable[..., Exchange], caplog: Any) -> None:
    """Named the first time, waited for a twentieth from then on, and as long as anybody once it is heard again."""
    logging.disable(logging.NOTSET)
    a, b = node("a", nodes=2, timeout=1.0), node("b", nodes=2)
    b.start()
    took = []
    for step in range(3):
        begun = time.monotonic()
        assert asyncio.run(a.gather(step, [])) == {} and a.metrics["swarm/silent"] == 1
        took.append(time.monotonic() - begun)
    assert took[0] > 0.9 and max(took[1:]) < 0.5
    (said,) = [r.getMessage() for r in caplog.records]
    assert "node b was silent in round 0 (it did not get there in time)" in said and "\n" not in said
    b._published[3] = b'{"groups": []}'
    assert asyncio.run(a.gather(3, [])) == {"b": []} and a.metrics["swarm/silent"] == 0 and a.silent == 3
    begun = time.monotonic()
    assert asyncio.run(a.gather(4, [])) == {} and time.monotonic() - begun > 0.9 and len(caplog.records) == 2


def test_what_stands_in_the_folder_is_nobodys_failure(node: Callable[..., Exchange], caplog: Any) -> None:
    """Addresses that are malformed, or gone between listing and reading, while others take and end."""
    logging.disable(logging.NOTSET)
    a, b = node("a", nodes=2), node("b", nodes=2)
    b.start()
    b._published[0] = b'{"groups": []}'
    for n, text in enumerate(("", "[]", "{", "3", '{"url": 3, "token": ""}', '{"url": "x"}', "[" * 99999)):
        (a.meet / f"m{n}.json").write_text(text)
    (a.meet / "latin.json").write_bytes(b"\xff")
    (a.meet / "folder.json").mkdir()
    (a.meet / "gone.json").symlink_to(a.meet / "nowhere")
    (a.meet / "no name.json").write_text("{}")
    assert asyncio.run(a.gather(0, [])) == {"b": []} and a.silent == 0
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 9 and all("is no address of a node" in s for s in said)
    begun = time.monotonic()
    b.close(linger=0.1)
    a.close(linger=5.0)
    assert time.monotonic() - begun < 2


def test_what_others_would_drop_is_not_sent(node: Callable[..., Exchange], caplog: Any) -> None:
    logging.disable(logging.NOTSET)
    a, b = node("a", nodes=1, largest=400, most=2), node("b", nodes=1)
    strange = Answers(Task("o/x", "x", "1", info={"f": len}), ("1",), (True,))
    mine = [answers("many", "1", *"123"), answers("q", "1", "1"), strange, answers("long", "1", "x" * 300)]
    asyncio.run(a.gather(0, mine))
    assert len(a._published[0]) <= 400 and a.metrics == {"swarm/silent": 0, "swarm/dropped": 0, "swarm/unsent": 3}
    (said,) = [r.getMessage() for r in caplog.records]
    assert "an own group (task o/many) is not sent" in said
    b._published[0] = a._published[0]
    assert [g.task.prompt for g in b._read("a", json.loads(a._published[0]))] == ["q"]


def test_an_answer_that_is_too_large_is_named(node: Callable[..., Exchange], caplog: Any) -> None:
    logging.disable(logging.NOTSET)
    a, b = node("a", nodes=2), node("b", nodes=2)
    b.start()
    b._published[0] = b" " * (9 * 2**20)
    assert asyncio.run(a.gather(0, [])) == {} and a.silent == 1
    assert "the answer is larger than 8388608 bytes" in caplog.text


def test_a_door_of_ones_own(node: Callable[..., Exchange], tmp_path: Path) -> None:
    a = node("a")
    asyncio.run(a.gather(0, [answers("q", "1", "1")]))
    file = tmp_path / "a.json"
    told = json.loads(file.read_text())
    assert told["url"].startswith("http://127.0.0.1:") and stat.S_IMODE(file.stat().st_mode) == 0o600
    url = told["url"] + "/rounds/0/b"
    assert asyncio.run(ask(url, token=told["token"]))["groups"][0]["texts"] == ["1"]
    for path, token, status in (("/rounds/0/b", "no", 401), ("/rounds/0/b", "", 401), ("/etc", told["token"], 404),
                                ("/rounds/0/../b", told["token"], 404)):  # fmt: skip
        with pytest.raises(Refused, match=str(status)):
            asyncio.run(ask(told["url"] + path, token=token))
    with pytest.raises(Refused, match="404"):
        asyncio.run(ask(url, {}, token=told["token"]))
    with pytest.raises(Refused, match="413"):
        asyncio.run(ask(url, "x" * (9 * 2**20), token=told["token"]))
    with pytest.raises(UserError, match="letters, digits"):
        node("../a")


@pytest.mark.parametrize(
    "row",
    [
        None, [], 3, {}, {"task": 1, "texts": [], "finished": []}, {"texts": ["a"] * 9, "finished": [True] * 9},
        {"texts": [], "finished": []}, {"texts": ["a"], "finished": []}, {"texts": [1], "finished": [True]},
        {"texts": ["a" * 101], "finished": [True]}, {"finished": [1]}, {"prompt": None}, {"prompt": []},
        {"prompt": [{"role": "user"}]}, {"prompt": "x" * 101}, {"answer": 5}, {"info": []}, {"id": None}, {"source": 3},
    ],
)  # fmt: skip
def test_groups_of_another_shape_are_dropped(row: Any) -> None:
    good = answers("q", "1", "1").to_json()
    assert Answers.from_json(good, 8, 100)
    if isinstance(row, dict):
        inner = {k: v for k, v in row.items() if k in good["task"]}
        row = {
            **good,
            **{k: v for k, v in row.items() if k not in inner},
            **({"task": {**good["task"], **inner}} if inner else {}),
        }
        row = {} if row == good else row
    with pytest.raises(ValueError):
        Answers.from_json(row, 8, 100)


def test_a_payload_of_nonsense_costs_nothing(node: Callable[..., Exchange]) -> None:
    a, b = node("a", nodes=2), node("b", nodes=2)
    good = [answers("q", "1", "1", "2")]
    for step, body in enumerate(
        (b"[1,2]", b"{}", b'{"groups": {"a": 1}}', b'{"groups": [1, {}, null]}', b"not json", b"[" * 99999)
    ):
        b.start()
        b._published[step] = body
        got = asyncio.run(a.gather(step, good))
        assert got in ({"b": []}, {})
    assert a.dropped == 6 and a.silent == 2
    assert a.metrics == {"swarm/silent": 1, "swarm/dropped": 0, "swarm/unsent": 0}
    b._published[9] = json.dumps({"groups": [g.to_json() for g in good] * 300}).encode()
    assert len(asyncio.run(a.gather(9, good))["b"]) == 256 and a.metrics["swarm/dropped"] == 44


# processes ----------------------------------------


def test_nodes_as_processes_and_one_is_killed(tmp_path: Path) -> None:
    """Two nodes with models of their own; one is killed in the middle, the other finishes its rounds alone."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f'{{"prompt": "say {w}", "answer": "{w}"}}\n' for w in "abcdefgh"))

    def start(name: str) -> subprocess.Popen[bytes]:
        options = {
            "meet": tmp_path / "meet", "node": name, "nodes": 2, "data": data, "reward": "exact_match", "steps": 6,
            "groups": 2, "attempts": 6, "external": 2, "max-tokens": 4, "eval-tasks": 0, "save-every": 0, "wait": 60,
            "temperature": 1.5, "seed": ord(name), "threads": 1, "out": tmp_path / name,
        }  # fmt: skip
        words = [w for k, v in options.items() for w in (f"--{k}", str(v))]
        command = [sys.executable, "-m", "temper", "run", "sapo-swarm", *words]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    nodes = {name: start(name) for name in "ab"}
    try:
        metrics = tmp_path / "b" / "metrics.jsonl"
        ends = time.monotonic() + 120
        while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2) and time.monotonic() < ends:
            assert nodes["b"].poll() is None
            time.sleep(0.01)
        os.kill(nodes["b"].pid, signal.SIGKILL)
        assert nodes["a"].wait(120) == 0, nodes["a"].stderr.read().decode()  # type: ignore[union-attr]
        rows = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
        heard = [r["swarm/nodes"] for r in rows if "swarm/nodes" in r]
        assert len(heard) == 6 and heard[0] == 1 and heard == sorted(heard, reverse=True)
        assert all(r["swarm/groups"] == 2 * r["swarm/nodes"] for r in rows if "swarm/nodes" in r)
    finally:
        for p in nodes.values():
            p.kill()
