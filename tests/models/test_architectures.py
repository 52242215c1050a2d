"""Any Hugging Face causal language model: sampled, scored, trained and saved as plain transformers understands it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from temper.backends.base import AdamW, SamplingParams
from temper.backends.local import LocalLearner
from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP, TOKEN, TRAJECTORY
from temper.envs.single import SingleTurn
from temper.episode import Completion, Episode, Recorder
from temper.errors import UserError
from temper.loop import train
from temper.methods.objectives.grpo import grpo
from temper.models import attention, layout, load
from temper.models.tiny import tiny_model
from temper.objective import Update
from temper.parts.curricula import Shuffled
from temper.policy import Policy
from temper.run import Run
from temper.tasks.task import Task
from tests.models import builders
from tests.seams import toys

BEHAVIOUR = LOGP.of("behaviour")
SHORT, LONG = "What is 6 * 7?", "Natalia sold clips to 48 of her friends in April, and half as many in May. How many?"
WINDOWED = ("gemma2", "gemma3", "mistral")
RECURRENT = ("qwen3_next",)
ALL = tuple(builders.FAMILIES)
Build = Callable[[str], str]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path_factory.mktemp("families")

    def made(name: str) -> str:
        return str(folder / name) if (folder / name).is_dir() else builders.save(name, folder / name)

    return made


def opened(model: str, **fields: Any) -> Any:
    policy: Any = Policy(model=model, device="cpu", optimizer=AdamW(lr=1e-3), **fields)
    policy.open()
    return policy


def reference(model: str) -> Any:
    """Plain transformers, with the attention that leaves nothing out."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, attn_implementation="eager").eval()


def chat(policy: Any, text: str) -> tuple[int, ...]:
    ids = policy.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return tuple(ids)


def sample(policy: Any, asked: list[tuple[tuple[int, ...], SamplingParams]]) -> list[Completion]:
    async def all_at_once() -> list[Completion]:
        return await asyncio.gather(*[policy.sampler.sample(ids, p) for ids, p in asked])

    return asyncio.run(all_at_once())


@torch.no_grad()
def expected_logp(model: Any, ids: tuple[int, ...], new: tuple[int, ...], temperature: float = 1.0) -> torch.Tensor:
    logits = model(torch.tensor([[*ids, *new]])).logits[0, len(ids) - 1 : -1].double() / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(new)[:, None]).squeeze(1)


def greedy_ids(model: Any, ids: tuple[int, ...], n: int) -> list[int]:
    """What `generate` gives with nothing but the directory's own generation config."""
    out: list[int] = model.generate(torch.tensor([ids]), max_new_tokens=n, do_sample=False)[0, len(ids) :].tolist()
    return out


@pytest.mark.parametrize("name", ALL)
def test_sampler_has_the_logprobs_and_greedy_tokens_of_transformers(build: Build, name: str) -> None:
    policy, model = opened(build(name)), reference(build(name))
    prompts = [chat(policy, SHORT), chat(policy, LONG)]
    assert min(map(len, prompts)) > builders.WINDOW and len(prompts[0]) < len(prompts[1])
    asked = [(p, SamplingParams(10, t, seed=s)) for p in prompts for s, t in ((1, 1.0), (2, 0.7), (3, 0.0), (4, 1.0))]
    for (ids, params), got in zip(asked, sample(policy, asked)):
        want = expected_logp(model, ids, got.ids, params.temperature or 1.0)
        torch.testing.assert_close(torch.tensor(got.logp), want.float(), atol=3e-5, rtol=0)
        if params.temperature == 0:
            assert list(got.ids) == greedy_ids(model, ids, 10)


def episodes(policy: Any, attempts: int = 3) -> list[Episode]:
    """A long and a short prompt with several answers each, and a dialogue of two turns."""
    prompts = [chat(policy, LONG), chat(policy, SHORT)]
    params = [SamplingParams(6 + 2 * n, seed=n) for n in range(attempts)]
    answers = sample(policy, [(p, s) for p in prompts for s in params])
    out = []
    for i, answer in enumerate(answers):
        record = Recorder(Task(f"t{i // attempts}", "x"))
        opening = record.add(prompts[i // attempts])
        turns = [opening, record.sampled(answer, opening)]
        if i == 0:
            more = record.add(chat(policy, SHORT)[-4:], turns[-1])
            again = sample(policy, [(record.context(more), SamplingParams(5, 0.8, seed=9))])[0]
            turns += [more, record.sampled(again, more)]
        record.judge(turns, reward=float(i % 2))
        e = record.episode()
        out.append(Episode(e.task, e.turns, e.trajectories, request=str(i // attempts)))
    return out


@pytest.mark.parametrize("name", ALL)
def test_learner_scores_what_was_sampled_packed_or_not(build: Build, name: str) -> None:
    policy = opened(build(name))
    batch = Batch.of(episodes(policy))
    learner: LocalLearner = policy.learner
    assert learner.head is not None  # logits exist only for sampled tokens
    assert learner.flat == (name not in WINDOWED + RECURRENT)  # where a plan can keep branches apart
    assert policy.sampler.cached == (name not in RECURRENT)
    for flat in {learner.flat, False}:
        learner.flat = flat
        got = learner.read(batch, {LOGP: LOGP})[LOGP]
        torch.testing.assert_close(got, batch[BEHAVIOUR], atol=3e-5, rtol=0)


@pytest.mark.parametrize("name", WINDOWED)
def test_the_window_matters_here(build: Build, name: str) -> None:
    """Guards the tests above: with a wider window these prompts score differently."""
    model, ids = reference(build(name)), torch.tensor([chat(opened(build(name)), LONG)])
    with torch.no_grad():
        narrow = model(ids).logits
        model.config.sliding_window = 200
        assert float((model(ids).logits - narrow).abs().max()) > 0.1


@pytest.mark.parametrize("name", ALL)
def test_three_grpo_steps_and_a_checkpoint_that_transformers_loads(build: Build, name: str, tmp_path: Path) -> None:
    policy = Policy(model=build(name), device="cpu", optimizer=AdamW(lr=2e-3))
    method = grpo(policy, beta=0.0)
    moved: list[float] = []

    def watch(part: Batch, update: Update) -> None:
        new = update.policy.learner.read(part, {LOGP: LOGP})[LOGP]
        moved.append(float((part[ADVANTAGE] * (new - part[BEHAVIOUR])).sum()))

    run = Run(
        env=SingleTurn(), curriculum=Shuffled([Task("a", SHORT), Task("b", LONG)], attempts=6),
        roles={"solver": policy}, on_group=[toys.ShareOf(tuple(range(0, 300, 2))), *method.on_group],
        updates=[Update(policy, method.terms, after=[watch])], steps=3, groups=2,
        sampling=SamplingParams(max_tokens=8), out=tmp_path,
    )  # fmt: skip
    asyncio.run(train(run))
    assert all(m > 0 for m in moved) and len(moved) == 3  # what was better than its group became likelier
    assert max(h["policy_kl"] for h in run.reporter.history) < 1e-6

    saved = str(tmp_path / "checkpoints" / "latest" / "model")
    model, before = reference(saved), reference(build(name)).state_dict()
    assert any(not torch.equal(w, before[n]) for n, w in model.state_dict().items())
    again = opened(saved)
    ids = chat(again, SHORT)
    answer = sample(again, [(ids, SamplingParams(16, 0.0))])[0]
    assert list(answer.ids) == greedy_ids(model, ids, 16)
    _same_tokenizer(build(name), saved)
    assert set(_ends(model)) >= {again.tokenizer.convert_tokens_to_ids(t) for t in builders.FAMILIES[name].ends}


def _same_tokenizer(before: str, after: str) -> None:
    old, new = load.load_tokenizer(before), load.load_tokenizer(after)
    messages = [{"role": "user", "content": LONG}, {"role": "assistant", "content": "It is 72."}]
    assert new.chat_template == old.chat_template
    assert new.apply_chat_template(messages) == old.apply_chat_template(messages)


def _ends(model: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    return [ends] if isinstance(ends, int) else ends


def gradients(model: str, advantages: Callable[[Batch], torch.Tensor], plays: list[Episode], **fields: Any) -> Any:
    return gradients_of(opened(model, **fields), advantages, plays)


def gradients_of(policy: Any, advantages: Callable[[Batch], torch.Tensor], plays: list[Episode]) -> Any:
    batch = Batch.of(plays)
    batch = batch.put(ADVANTAGE, advantages(batch))
    with torch.no_grad():
        weights = {n: p.clone() for n, p in policy.learner.weights().items()}
    policy.learner.optimizer.step = lambda: None
    policy.learner.update(batch, [toys.POLICY_TERM])
    assert all(torch.equal(weights[n], p) for n, p in policy.learner.weights().items())
    return {n: p.grad for n, p in policy.learner.module.named_parameters() if p.grad is not None}


def alternating(b: Batch) -> torch.Tensor:
    sign = torch.tensor([1.0, -1.0]).repeat(b.size(TRAJECTORY))[: b.size(TRAJECTORY)]
    return b.spread(sign, TRAJECTORY, TOKEN)


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "mixtral", "gpt2"])
def test_checkpointing_changes_neither_samples_nor_gradient(build: Build, name: str) -> None:
    """Families with dropout and router noise in their configs are among them: training must not draw any."""
    plays = episodes(opened(build(name)))
    policy = opened(build(name), checkpointing=True)
    assert episodes(policy) == plays
    plain, recomputed = gradients(build(name), alternating, plays), gradients_of(policy, alternating, plays)
    assert episodes(policy) == plays  # layers in train mode would sample without their cache
    assert plain.keys() == recomputed.keys() and sum(float(g.abs().sum()) for g in plain.values()) > 1.0
    for n, g in plain.items():
        torch.testing.assert_close(recomputed[n], g, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["qwen3", "llama3", "gemma3", "gpt2"])
def test_bfloat16_compute_over_float32_weights(build: Build, name: str) -> None:
    """Log-probs agree to bfloat16's resolution of a logit, and the gradient points where the float32 one does."""
    policy = opened(build(name), dtype="bfloat16")
    assert {p.dtype for p in policy.learner.module.parameters()} == {torch.float32}
    plays = episodes(policy)
    batch = Batch.of(plays)
    exact = opened(build(name)).learner.read(batch, {LOGP: LOGP})[LOGP]
    for logp in (policy.learner.read(batch, {LOGP: LOGP})[LOGP], batch[BEHAVIOUR]):
        assert 1e-5 < float((logp - exact).abs().mean()) < 0.08
    wide, narrow = (gradients(build(name), alternating, plays, dtype=d) for d in ("float32", "bfloat16"))
    a, b = (torch.cat([g[n].flatten() for n in wide]) for g in (wide, narrow))
    assert float(torch.nn.functional.cosine_similarity(a, b, dim=0)) > 0.98


def test_soft_capped_attention_is_computed(build: Build) -> None:
    """transformers' fast kernels drop Gemma 2's cap without a word; here it is in effect, and it matters."""
    from transformers import AutoModelForCausalLM

    policy = opened(build("gemma2"))
    ids = chat(policy, LONG)
    got = sample(policy, [(ids, SamplingParams(4, 0.0))])[0]
    dropped = AutoModelForCausalLM.from_pretrained(build("gemma2"), attn_implementation="sdpa").eval()
    assert float((expected_logp(dropped, ids, got.ids) - torch.tensor(got.logp)).abs().max()) > 0.01
    with pytest.raises(NotImplementedError, match="softcap"):
        attention.attend(torch.nn.Module(), *[torch.zeros(1, 2, 3, 4)] * 3, None, softcap=5.0)


def test_packing_is_refused_to_models_that_it_would_change() -> None:
    """Positions that come from columns: the probe finds that branches behind a plan would score differently."""
    model = load._ready(tiny_model(), "cpu", False)
    assert layout.can_pack(model)
    rotary = model.model.rotary_emb
    forward = rotary.forward
    rotary.forward = lambda x, position_ids: forward(x, torch.arange(x.shape[1])[None])
    assert not layout.can_pack(model)


def test_end_of_turn_comes_from_the_chat_template_too(build: Build, tmp_path: Path) -> None:
    """Base models name only <eos> in their generation config; an answer still ends where the template ends turns."""
    policy = opened(build("gemma3"))
    end = policy.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    policy.learner.module.generation_config.eos_token_id = policy.tokenizer.eos_token_id
    assert load.end_ids(policy.learner.module, policy.tokenizer) == (policy.tokenizer.eos_token_id, end)
    load.save_model(policy.learner.module, policy.tokenizer, tmp_path)
    assert end in _ends(reference(str(tmp_path)))  # and `generate` then ends there too
    assert load.turn_ends(load.load_tokenizer(build("gpt2"))) == (policy_eos(build("gpt2")),)


def policy_eos(model: str) -> int:
    eos: int = load.load_tokenizer(model).eos_token_id
    return eos


def test_template_without_a_system_role_refuses_in_one_sentence(build: Build) -> None:
    run = Run(
        env=SingleTurn(system="Be brief."), curriculum=Shuffled([Task("a", SHORT)], attempts=2),
        roles={"solver": Policy(model=build("gemma3"), device="cpu")}, updates=[], steps=1, groups=1,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"chat template .* refuses these messages: System role not supported"):
        asyncio.run(train(run))


def test_directories_that_are_not_whole_are_refused(build: Build, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    module: Any = load.load_model(build("llama3"))
    load.save_model(module, None, tmp_path)
    with pytest.raises(UserError, match="tokenizer"):
        load.load_tokenizer(str(tmp_path))
    tokenizer = load.load_tokenizer(build("llama3"))
    without = copy.deepcopy(tokenizer)
    without.chat_template = None
    without.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no chat template"):
        load.load_tokenizer(str(tmp_path))
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    lost = weights.pop("lm_head.weight")
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are missing from its files: lm_head\.weight"):
        load.load_model(str(tmp_path))
    save_file({**weights, "lm_head.weight": lost[:-1].clone()}, file, {"format": "pt"})
    with pytest.raises(UserError, match="1 weights are of another shape"):
        load.load_model(str(tmp_path))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot load model"):
        load.load_model(str(tmp_path))


def test_more_tokens_than_embeddings_is_refused(build: Build, tmp_path: Path) -> None:
    tokenizer = load.load_tokenizer(build("llama3"))
    tokenizer.add_tokens(["<extra>"])
    load.save_model(load.load_model(build("llama3")), tokenizer, tmp_path)
    with pytest.raises(UserError, match="its model only"):
        Policy(model=str(tmp_path), device="cpu").open()
