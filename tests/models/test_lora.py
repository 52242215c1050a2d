"""LoRA through PEFT: what is trained, what is saved, and the base that a reference shares with the policy."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.backends.base import AdamW, Lora, SamplingParams, fingerprint
from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP
from temper.envs.single import SingleTurn
from temper.errors import UserError
from temper.loop import train
from temper.methods.objectives.grpo import grpo
from temper.models import load
from temper.objective import Update
from temper.parts.curricula import Shuffled
from temper.parts.logprobs import REFERENCE
from temper.policy import BaseOf, Policy
from temper.run import Run
from temper.tasks.task import Task
from tests.models import builders
from tests.models.test_architectures import alternating, chat, episodes, opened, reference, sample
from tests.seams import toys

pytest.importorskip("peft")
LORA = Lora(rank=4, alpha=8)
FAMILIES = ("qwen3", "llama3", "mixtral", "gpt2")
BEHAVIOUR = LOGP.of("behaviour")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: builders.save(name, folder / name) for name in FAMILIES}


def adapted(model: str, **fields: Any) -> Any:
    return opened(model, lora=LORA, **fields)


def step(policy: Any, batch: Batch) -> None:
    policy.learner.update(batch.put(ADVANTAGE, alternating(batch)), [toys.POLICY_TERM])


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_start_as_the_base_and_alone_are_trained(bases: dict[str, str], name: str) -> None:
    plain, policy = opened(bases[name]), adapted(bases[name])
    plays = episodes(policy)
    ids = [[t.ids for t in e.turns] for e in plays]
    assert ids == [[t.ids for t in e.turns] for e in episodes(plain)]
    batch = Batch.of(plays)
    torch.testing.assert_close(policy.learner.read(batch, {LOGP: LOGP})[LOGP], batch[BEHAVIOUR], atol=3e-5, rtol=0)

    assert all("lora_" in n for n in policy.learner.weights())
    before = {n: p.detach().clone() for n, p in policy.learner.module.named_parameters()}
    step(policy, batch)
    changed = {n for n, p in policy.learner.module.named_parameters() if not torch.equal(before[n], p)}
    assert changed and changed <= set(policy.learner.weights())  # B moves first: A's gradient is 0 while B is 0
    after = policy.learner.read(batch, {LOGP: LOGP})[LOGP]
    assert float((alternating(batch) * (after - batch[BEHAVIOUR])).sum()) > 0


def test_the_handshake_covers_adapters(bases: dict[str, str]) -> None:
    policy = adapted(bases["qwen3"])
    first = asyncio.run(policy.sampler.load(policy.learner.weights(), 1))
    step(policy, Batch.of(episodes(policy)))
    second = asyncio.run(policy.sampler.load(policy.learner.weights(), 2))
    assert first.fingerprint != second.fingerprint == fingerprint(policy.learner.weights().items())


def grpo_run(policy: Policy, out: Path, steps: int = 4, beta: float = 0.1, **fields: Any) -> Run:
    shared = policy.reference()
    method = grpo(policy, reference=shared, beta=beta)
    return Run(
        env=SingleTurn(), curriculum=Shuffled([Task("a", "What is 6 * 7?"), Task("b", "Add 1 and 2.")], attempts=4),
        roles={"solver": policy}, on_group=[toys.ShareOf(tuple(range(0, 300, 2))), *method.on_group],
        on_batch=method.on_batch, updates=[Update(policy, method.terms)], others=[shared], steps=steps, groups=2,
        sampling=SamplingParams(max_tokens=8), out=out, save_every=2, keep=0, **fields,
    )  # fmt: skip


def lora_policy(model: str) -> Policy:
    return Policy(model=model, device="cpu", optimizer=AdamW(lr=5e-3), lora=LORA)


def test_run_saves_adapters_that_peft_loads_resumes_exactly_and_goes_on(bases: dict[str, str], tmp_path: Path) -> None:
    from peft import PeftModel

    asyncio.run(train(grpo_run(lora_policy(bases["llama3"]), tmp_path / "whole")))
    saved = tmp_path / "whole" / "checkpoints" / "step_4" / "model"
    files = {f.name for f in saved.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"} <= files
    assert "model.safetensors" not in files
    assert json.loads((saved / "adapter_config.json").read_text())["base_model_name_or_path"] == bases["llama3"]
    assert not (tmp_path / "whole" / "checkpoints" / "step_4" / "policies").exists()  # the reference is the base

    half = grpo_run(lora_policy(bases["llama3"]), tmp_path / "parts", steps=2)
    asyncio.run(train(half))
    resumed = grpo_run(lora_policy(bases["llama3"]), tmp_path / "parts", resume=True)
    asyncio.run(train(resumed))
    one, two = (
        torch.load(tmp_path / f / "checkpoints" / "step_4" / "training.pt")["weights"] for f in ("whole", "parts")
    )
    assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)
    kl = [h["kl/reference"] for h in resumed.reporter.history if "kl/reference" in h] or [
        h["loss/kl"] for h in resumed.reporter.history
    ]
    assert abs(kl[0]) < 1e-6 < kl[-1]  # the policy leaves its base, and the reference stays there

    model = PeftModel.from_pretrained(reference(bases["llama3"]), saved).eval()
    again = opened(str(saved))
    ids = chat(again, "What is 6 * 7?")
    answer = sample(again, [(ids, SamplingParams(12, 0.0))])[0]
    out = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :].tolist()
    assert list(answer.ids) == out
    assert answer != sample(opened(bases["llama3"]), [(ids, SamplingParams(12, 0.0))])[0]

    load.merge_adapter(str(saved), tmp_path / "merged")
    merged = reference(str(tmp_path / "merged"))
    assert merged.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :].tolist() == out
    assert load.load_tokenizer(str(tmp_path / "merged")).chat_template == again.tokenizer.chat_template


@pytest.mark.parametrize("name", ["qwen3", "mixtral"])
def test_training_goes_on_from_an_adapter_directory(bases: dict[str, str], name: str, tmp_path: Path) -> None:
    policy = adapted(bases[name])
    batch = Batch.of(episodes(policy))
    step(policy, batch)
    policy.learner.save(tmp_path)
    saved = str(tmp_path / "model")
    now = policy.learner.read(batch, {LOGP: LOGP})[LOGP]

    again = opened(saved, lora=LORA)
    torch.testing.assert_close(again.learner.read(batch, {LOGP: LOGP})[LOGP], now, atol=1e-5, rtol=0)
    assert set(again.learner.weights()) == set(policy.learner.weights())
    step(again, batch)
    assert float((again.learner.read(batch, {LOGP: LOGP})[LOGP] - now).abs().max()) > 1e-4

    started = again.reference()
    assert not isinstance(started, BaseOf)  # what it started from is base and adapter, which needs a copy
    started.open()
    torch.testing.assert_close(started.learner.read(batch, {LOGP: LOGP})[LOGP], now, atol=1e-5, rtol=0)
    load.merge_adapter(saved, tmp_path / "merged")
    merged = opened(str(tmp_path / "merged")).learner.read(batch, {LOGP: LOGP})[LOGP]
    torch.testing.assert_close(merged, now, atol=1e-4, rtol=0)
    with pytest.raises(UserError, match="has rank 4"):
        Policy(model=saved, device="cpu", lora=Lora(rank=8)).open()
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "model" / file).unlink()
    assert load.load_tokenizer(saved).chat_template == policy.tokenizer.chat_template  # of its base
    with pytest.raises(UserError, match="not an adapter"):
        load.merge_adapter(bases[name], tmp_path / "again")


@pytest.mark.parametrize("name", ["qwen3", "mixtral"])
def test_reference_shares_the_base_and_reads_it_without_adapters(bases: dict[str, str], name: str) -> None:
    policy = adapted(bases[name])
    shared: Any = policy.reference()
    shared.open()
    assert shared.learner.module is policy.learner.module and not shared.trainable
    batch = Batch.of(episodes(policy))
    for _ in range(2):
        step(policy, batch)
    of_base = opened(bases[name]).learner.read(batch, {LOGP: LOGP})[LOGP]
    mine = policy.learner.read(batch, {LOGP: LOGP})[LOGP]
    torch.testing.assert_close(shared.learner.read(batch, {REFERENCE: LOGP})[REFERENCE], of_base, atol=1e-5, rtol=0)
    assert float((mine - of_base).abs().max()) > 1e-2
    torch.testing.assert_close(policy.learner.read(batch, {LOGP: LOGP})[LOGP], mine)  # adapters are on again

    ids = chat(policy, "What is 6 * 7?")
    asked = [(ids, SamplingParams(8, 0.0))]
    alone = [sample(p, asked)[0] for p in (opened(bases[name]), policy)]

    async def interleaved() -> Any:
        return await asyncio.gather(*[p.sampler.sample(*asked[0]) for p in (shared, policy)])

    for together, by_itself in zip(asyncio.run(interleaved()), alone):
        assert together.ids == by_itself.ids and together.logp == pytest.approx(by_itself.logp, abs=1e-4)
    assert alone[0].logp != pytest.approx(alone[1].logp, abs=1e-3)
    with pytest.raises(TypeError, match="frozen base"):
        shared.learner.update(batch, [])


def test_initialisations_that_rewrite_the_base_get_a_reference_of_their_own() -> None:
    policy = Policy(lora=Lora(options={"init_lora_weights": "pissa"}))
    assert not isinstance(policy.reference(), BaseOf) and isinstance(Policy(lora=Lora()).reference(), BaseOf)


def test_frozen_weights_are_bfloat16_and_adapters_float32(bases: dict[str, str]) -> None:
    policy = adapted(bases["llama3"], dtype="bfloat16", checkpointing=True)
    kinds = {(p.requires_grad, p.dtype) for p in policy.learner.module.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    batch = Batch.of(episodes(policy))
    assert float((policy.learner.read(batch, {LOGP: LOGP})[LOGP] - batch[BEHAVIOUR]).abs().mean()) < 0.08
    before = policy.learner.read(batch, {LOGP: LOGP})[LOGP]
    for _ in range(3):
        step(policy, batch)
    after = policy.learner.read(batch, {LOGP: LOGP})[LOGP]
    assert float((alternating(batch) * (after - before)).sum()) > 0


def test_targets_that_do_not_exist_are_refused(bases: dict[str, str]) -> None:
    with pytest.raises(UserError, match="LoRA does not fit this model"):
        Policy(model=bases["qwen3"], device="cpu", lora=Lora(targets=("no_such_layer",))).open()
