"""Routing replay: the experts that the sampler chose are noted for every token, and the learner's tokens go there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.backends.base import SamplingParams
from temper.backends.fsdp import FSDP
from temper.backends.ray import Ray
from temper.backends.routed import Notes, Routed
from temper.carrier import Batch
from temper.columns import LOGP, TOKEN
from temper.envs.single import SingleTurn
from temper.errors import UserError
from temper.models import load, routing
from temper.models.layout import rectangle
from temper.models.routing import ROUTED, choices, laid_out, routers, weights
from temper.parts.logprobs import BEHAVIOUR
from temper.parts.routing import Routes
from temper.policy import Policy, Seat
from temper.tasks.task import Task
from temper.testing.moe import save_tiny_moe
from tests.seams import toys

WORDS = ("say ab", "say ba please", "what is 2 + 2?", "say ab")
PARAMS = SamplingParams(max_tokens=12, temperature=1.0)


@pytest.fixture(scope="module", params=["qwen3_moe", "mixtral", "olmoe"])
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_moe(tmp_path_factory.mktemp(request.param), kind=request.param)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_moe(tmp_path_factory.mktemp("qwen"))


def opened(model: str, dtype: str = "", **fields: Any) -> Policy:
    policy = toys.policy(model, engine=Routed(dtype), **fields)
    policy.open()
    return policy


@pytest.fixture
def policy(model: str) -> Iterator[Policy]:
    made = opened(model)
    yield made
    made.close()


def played(policy: Policy, attempts: int = 3, params: SamplingParams = PARAMS) -> Batch:
    async def all_of() -> list[Any]:
        plays = [
            SingleTurn().play(Task(f"t{n}", w), {"solver": Seat("solver", policy, params, 0, (n, k))})
            for n, w in enumerate(WORDS) for k in range(attempts)
        ]  # fmt: skip
        return await asyncio.gather(*plays)

    from dataclasses import replace

    return Batch.of([replace(e, request=e.task.id) for e in asyncio.run(all_of())])


def routed(policy: Policy, b: Batch) -> Batch:
    return asyncio.run(Routes(policy)(b))


def learned(policy: Policy, b: Batch) -> torch.Tensor:
    check = LOGP.of("check")
    return policy.learner.read(b, {check: LOGP})[check]


def gap(policy: Policy, b: Batch) -> torch.Tensor:
    return (learned(policy, b) - b[BEHAVIOUR]).abs()


# what the sampler notes ----------------------------------------


def test_the_sampler_notes_where_each_token_went(policy: Policy) -> None:
    """As one pass over the whole chain says: whatever was batched, padded, stored, shared or moved on the way."""
    b = played(policy, params=PARAMS.but(continued=True))
    notes = policy.sampler.routes  # type: ignore[attr-defined]
    assert len(notes) >= 6
    for ids in notes:
        noted = notes.get(ids)
        with torch.inference_mode(), choices(policy.sampler.module) as seen:  # type: ignore[attr-defined]
            policy.sampler.module(input_ids=torch.tensor([ids[:-1]]))  # type: ignore[attr-defined]
        assert torch.equal(torch.stack(seen, 1).to(torch.int16), noted) and noted.shape == (len(ids) - 1, 2, 2)
    b = routed(policy, b)
    length = b.structure.start.diff().tolist()
    for turn, sampled in enumerate(b.structure.sampled.tolist()):
        assert b[ROUTED][turn].shape == (length[turn], 2, 2)
        assert (b[ROUTED][turn] < 0).any(-1).any(-1).tolist() == [False] * (length[turn] - 1) + [sampled]


def test_a_longer_context_knows_what_a_shorter_one_did(qwen: str) -> None:
    """Three turns: what the second request notes covers the first one's answer, its last token too."""
    policy = opened(qwen)
    try:
        seat = Seat("solver", policy, PARAMS.but(continued=True), 0, (0,))

        async def two() -> Batch:
            from temper.episode import Recorder

            record = Recorder(Task("t", "q"))
            first = record.add(seat.chat([{"role": "user", "content": "say ab"}]))
            one = record.sampled(await seat.sample(record.context(first)), first)
            more = record.add((65, 66, 67), one)
            two = record.sampled(await seat.sample(record.context(more)), more)
            record.judge([first, one, more, two])
            return Batch.of([record.episode()])

        b = routed(policy, asyncio.run(two()))
        known = [(piece >= 0).all(-1).all(-1) for piece in b[ROUTED]]
        assert all(k.all() for k in (known[0], known[2])) and known[3][:-1].all() and not known[3][-1]
        assert gap(policy, b).max() < 1e-4
    finally:
        policy.close()


def test_notes_stay_while_their_answers_may_be_staged(qwen: str) -> None:
    """Group by group, in flight while another batch is staged, and no longer than weights may lag behind."""
    policy = toys.policy(qwen, engine=Routed(ahead=1))
    policy.open()
    try:
        sampler: Any = policy.sampler
        stage = Routes(policy)

        def known(b: Batch) -> float:
            asyncio.run(stage(b))
            return stage.metrics["routing/known"]

        def publish(version: int) -> None:
            asyncio.run(sampler.load(policy.learner.weights(), version))

        publish(1)
        first, again = played(policy), played(policy, params=PARAMS.but(temperature=0.5))
        groups = [first.select(first.structure.group == g) for g in range(first.structure.groups)]
        assert [known(b) for b in (*groups, again, first)] == [1.0] * 6
        publish(2)
        second = played(policy, params=PARAMS.but(temperature=2.0))
        assert known(first) == known(second) == 1.0
        noted, saved = len(sampler.routes), stage.state_dict()
        publish(3)
        assert known(second) == 1.0 and 0 < len(sampler.routes) < noted and known(first) < 1.0
        assert sampler.routes.size == sum(sampler.routes.get(ids).nbytes for ids in sampler.routes)
        stage.load_state_dict(saved)
        assert len(sampler.routes) == noted and known(first) == 1.0
    finally:
        policy.close()


def test_the_oldest_notes_go_where_there_is_no_room() -> None:
    notes, experts = Notes(room=100), torch.zeros(4, 2, 2, dtype=torch.int16)  # 32 bytes each
    for n in (1, 2, 3, 1, 4):
        notes.put((n,), 0, experts)
    assert list(notes) == [(3,), (1,), (4,)] and notes.size == 96 and notes.get((2,)) is None
    notes.served(1)
    assert not list(notes) and notes.size == 0


# what the learner does ----------------------------------------


def test_a_replay_of_ones_own_choices_changes_nothing(policy: Policy) -> None:
    b = played(policy)
    free = learned(policy, b)
    assert (free - b[BEHAVIOUR]).abs().max() < 1e-4
    assert torch.equal(learned(policy, routed(policy, b)), free)


def test_replayed_log_probs_are_those_of_a_sampler_that_sends_tokens_elsewhere(policy: Policy) -> None:
    """A sampler with other experts for every token, weighed by the softmax that both have."""
    for router in routers(policy.sampler.module):  # type: ignore[attr-defined]
        normalised = bool(routing._Replay(router).normalised)

        def elsewhere(_m: Any, _x: Any, out: Any, normalised: bool = normalised) -> Any:
            chosen = (out[2] + 3) % 8
            return out[0], weights(out[0], chosen, normalised), chosen

        router.register_forward_hook(elsewhere)
    b = played(policy)
    without = gap(policy, b)
    assert without.mean() > 0.01 and gap(policy, routed(policy, b)).max() < 1e-4


def test_tokens_are_sent_where_the_column_says(policy: Policy) -> None:
    """Any experts may be named; a token without any goes where it likes; without the column nothing is left of it."""
    b = routed(policy, played(policy))
    free = learned(policy, b)
    elsewhere = [None if p is None else torch.where(p >= 0, (p + 3) % 8, p) for p in b[ROUTED]]
    moved = b.put(ROUTED, elsewhere)
    with choices(policy.learner.module) as seen:  # type: ignore[attr-defined]
        other = learned(policy, moved)
    r = rectangle(moved, policy.learner.flat)  # type: ignore[attr-defined]
    asked = laid_out(moved, r, 2, 2)
    assert (asked >= 0).all(-1).all(-1).float().mean() > 0.7
    assert (other - free).abs().max() > 0.01
    nobody = b.put(ROUTED, [None] * len(b[ROUTED]))
    assert torch.equal(learned(policy, nobody), free)
    plain = b.put(LOGP, torch.zeros(b.size(TOKEN)))
    assert torch.equal(learned(policy, plain), free) and len(seen) >= 2


def test_every_place_of_a_turn_is_replayed(policy: Policy) -> None:
    """Laid out in one row, or repeated in the row of each branch: the same log-probs."""
    b = routed(policy, played(policy))
    b = b.put(ROUTED, [None if p is None else torch.where(p >= 0, (p + 1) % 8, p) for p in b[ROUTED]])
    learner: Any = policy.learner
    both = []
    for flat in {learner.flat, False}:
        learner.flat = flat
        both.append(learned(policy, b))
    assert torch.allclose(both[0], both[-1], atol=1e-5)


def test_gradients_reach_the_routers(policy: Policy) -> None:
    """d log π / d router is that of a softmax over all experts, read at the experts that were named."""
    learner: Any = policy.learner
    b = routed(policy, played(policy))
    (router, *_), named = routers(learner.module), ROUTED
    part = b.put(named, [None if p is None else torch.where(p >= 0, (p + 3) % 8, p) for p in b[named]])
    r = rectangle(part, learner.flat)

    def loss() -> torch.Tensor:
        _, logp, _ = learner._scored(part, r)
        return logp.sum()

    w: Any = router.weight  # type: ignore[attr-defined]
    learner.module.zero_grad()
    loss().backward()
    flat, at = w.grad.flatten(), int(w.grad.abs().argmax())
    with torch.no_grad():
        ends = []
        for step in (1e-3, -2e-3):
            w.view(-1)[at] += step
            ends.append(float(loss()))
        w.view(-1)[at] += 1e-3
    assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(float(flat[at]), rel=0.05) and flat[at].abs() > 1e-3
    learner.module.zero_grad()


def test_weights_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]]).log()  # softmax 1/6, 2/6, 3/6
    assert torch.allclose(weights(logits, torch.tensor([[0, 2]]), False), torch.tensor([[1 / 6, 3 / 6]]))
    assert torch.allclose(weights(logits, torch.tensor([[0, 2]]), True), torch.tensor([[0.25, 0.75]]))


def test_what_has_no_routers_is_one_sentence() -> None:
    with pytest.raises(UserError, match="Qwen3ForCausalLM has no routers of experts: there is nothing to replay"):
        routers(load.load_model("temper-tiny", device="cpu"))


def test_what_notes_no_experts_is_one_sentence(qwen: str) -> None:
    with pytest.raises(UserError, match=r"engine 'vllm' notes no experts: replaying them needs engine=Routed\(\)"):
        Routes(Policy(engine="vllm"))
    for fields, what in (
        ({"backend": Ray()}, "Ray"), ({"learners": 2}, "learners=2"), ({"sharding": FSDP()}, "FSDP"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"works in this process only: leave out the sampler routed, or {what}"):
            Policy(model=qwen, engine=Routed(), **fields).open()
    with pytest.raises(UserError, match="has no routers of experts"):
        opened("temper-tiny-random")


def test_another_model_reads_the_batch_as_it_likes(qwen: str) -> None:
    """A dense teacher, and a mixture of another depth, leave routes alone."""
    policy = opened(qwen)
    others = [Policy(model="temper-tiny-random")]
    try:
        free = played(policy)
        b = routed(policy, free)
        for other in others:
            other.open()
            assert torch.equal(learned(other, b), learned(other, free))
    finally:
        for one in (policy, *others):
            one.close()


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_recipe_replays(qwen: str, tmp_path: Path, ahead: int) -> None:
    """`--sampler routed`: every token's experts are known in every step, however old its weights."""
    from temper.recipes.grpo import grpo
    from tests.core.test_invariants import go

    data = tmp_path / "rows.jsonl"
    data.write_text("".join(f'{{"prompt": "say {w}", "answer": "{w}"}}\n' for w in "ab"))
    run = grpo(
        model=qwen, data=str(data), reward=("exact_match",), sampler="routed", ahead=ahead, steps=4, groups=2,
        attempts=3, max_tokens=4, eval_tasks=0, save_every=0,
    )  # fmt: skip
    run.on_group = [toys.ShareOf(tuple(range(0, 512, 2))), *run.on_group[1:]]
    history = [r for r in go(run, tmp_path / "out") if "routing/known" in r]
    assert len(history) == 4 and all(r["routing/known"] == 1.0 for r in history)


def test_recorded_routes_come_back(qwen: str, tmp_path: Path) -> None:
    from temper.replay.record import _again, _plain

    piece = torch.tensor([[[3, -1]]], dtype=torch.int16)
    back = _again(json.loads(json.dumps(_plain([None, piece]))))
    assert back[0] is None and torch.equal(back[1], piece) and back[1].dtype == torch.int16


def test_a_run_replays_in_its_updates(qwen: str) -> None:
    """A sampler in bfloat16: with replay the learner's log-probs before the update are nearer to the sampler's."""
    from tests.core.test_invariants import go, small

    gaps: dict[bool, float] = {}
    for replayed in (False, True):
        policy = toys.policy(qwen, lr=1e-3, engine=Routed("bfloat16"))
        stages = [Routes(policy)] if replayed else []
        judge = [toys.ShareOf(tuple(range(0, 512, 2))), toys.CENTRED]
        run = small(qwen, policy=policy, on_group=judge, on_batch=stages, sampling=PARAMS, steps=2)
        history = go(run)
        assert all(r["grad_norm"] > 0 for r in history)
        gaps[replayed] = sum(r["policy_kl"] for r in history)
    assert 0 < gaps[True] < gaps[False]


def test_the_hooks_are_set_once(policy: Policy) -> None:
    b = routed(policy, played(policy))
    for _ in range(3):
        learned(policy, b)
    assert all(len(r._forward_hooks) == 1 for r in routers(policy.learner.module))  # type: ignore[attr-defined]
    assert routing.routers(policy.learner.module)[0]._sent is not None  # type: ignore[attr-defined]
