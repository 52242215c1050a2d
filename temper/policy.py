"""A policy: a named set of weights, with the learner that trains them and the sampler that serves them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from temper import streams
from temper.backends.base import AdamW, Learner, Lora, Sampler, SamplingParams
from temper.backends.speculate import Speculation
from temper.episode import Completion
from temper.errors import UserError, unknown
from temper.fleet import purpose, serving
from temper.models.render import renderer_of


@dataclass
class Policy:
    """What to load and how to train it; live (`learner`, `sampler`, `tokenizer`) once the run is open.

    model         a bundled name, a directory in Hugging Face format, or a hub id
    trainable     False: a reference or a teacher
    dtype         "float32", "bfloat16" (compute) or "float64"
    token_budget  padded tokens in a micro-batch of the learner
    max_rows      sequences that the sampler decodes at once
    drafts        guesses of the next tokens, which save passes and change none (`temper.backends.speculate`)
    engine        what samples: "local", "vllm" (in this process), "vllm-server" (one, started here), or VLLM(…) and
                  VLLMServer(…) with settings of their own (`temper.backends.vllm`, `temper.backends.vllm_servers`);
                  Routed(…) notes experts (`temper.backends.routed`)
    learners      processes that share its training: weights, gradients and optimiser are sharded over them (FSDP2)
    sharding      temper.backends.fsdp.FSDP(…), how; with it one learner is a process of its own too
    backend       where it lives when it is not in this process: what opens it there (temper.backends.ray.Ray)
    """

    name: str = "policy"
    model: str = "temper-tiny"
    trainable: bool = True
    optimizer: AdamW = field(default_factory=AdamW)
    lora: Lora | None = None
    dtype: str = "float32"
    checkpointing: bool = False
    device: str = "auto"
    token_budget: int = 16384
    max_rows: int = 1024
    drafts: Speculation | None = None
    engine: Any = "local"
    learners: int = 1
    sharding: Any = None
    backend: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("token_budget", "max_rows", "learners"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if isinstance(self.engine, str) and self.engine not in (known := ("local", "vllm", "vllm-server")):
            raise unknown("engine", self.engine, known)
        if self.drafts is not None and self.engine != "local":
            raise UserError("drafts are the local sampler's: leave them out where another engine samples")
        self.version = 0
        self._learner: Any = None
        self._sampler: Any = None
        self._tokenizer: Any = None

    def open(self, modules: Iterable[Any] = ()) -> None:
        """Load the model; `modules` are parameters that terms own (trained and saved with it)."""
        import torch

        from temper.backends.local import LocalLearner
        from temper.backends.local_sampler import LocalSampler
        from temper.backends.routed import Routed
        from temper.backends.vllm import VLLM
        from temper.backends.vllm_servers import VLLMServer
        from temper.models import load

        engine: Any = {"vllm": VLLM(), "vllm-server": VLLMServer()}.get(str(self.engine), self.engine)
        if engine != "local":
            engine.check()
        if isinstance(engine, Routed):
            engine.alone(self)
        self._tokenizer = load.load_tokenizer(self.model)
        if self.backend is not None:
            self._learner, self._sampler = self.backend.open(self, modules)
            return
        random = torch.get_rng_state()
        module = load.load_model(
            self.model, dtype=self.dtype, device=self.device, lora=self.lora, checkpointing=self.checkpointing
        )
        load.check_vocabulary(module, self._tokenizer, self.model)
        modules = list(modules)
        for m in modules:
            if hasattr(m, "build"):
                m.build(load.hidden_width(module))
            m.to(next(module.parameters()).device)
            if self.dtype == "float64":
                m.double()
        autocast = torch.bfloat16 if self.dtype == "bfloat16" else None
        if self.learners > 1 or self.sharding is not None:
            self._learner = self._sharded(module, modules, random)
        else:
            self._learner = LocalLearner(
                module,
                self.optimizer,
                modules,
                tokenizer=self._tokenizer,
                token_budget=self.token_budget,
                autocast=autocast,
            )
        served: dict[str, Any] = {"max_rows": self.max_rows, "autocast": autocast}
        if engine == "local":
            self._sampler = LocalSampler(module, self._tokenizer, drafts=self.drafts, **served)
        else:
            self._sampler = engine.sampler(module, self._tokenizer, **served)

    def _sharded(self, module: Any, modules: list[Any], random: Any) -> Learner:
        """A learner in processes of its own. random: what fresh adapters of `module` were drawn with."""
        from temper.backends.fsdp import setup_of
        from temper.backends.fsdp_learner import FSDPLearner
        from temper.backends.fsdp_processes import Processes

        setup = setup_of(self, modules, random)
        ranks = Processes(self.learners, setup.sharding.timeout, self.name)
        return FSDPLearner(setup, ranks, module, self._tokenizer)

    def close(self) -> None:
        for part in (self._sampler, self._learner):
            if hasattr(part, "close"):
                part.close()
        self._learner = self._sampler = None
        if self.backend is not None:
            self.backend.release(self)

    @property
    def learner(self) -> Learner:
        learner: Learner = self._live(self._learner)
        return learner

    @property
    def sampler(self) -> Sampler:
        sampler: Sampler = self._live(self._sampler)
        return sampler

    @property
    def tokenizer(self) -> Any:
        return self._live(self._tokenizer)

    def serve(self, sampler: Sampler) -> None:
        """Sample through `sampler` from now on."""
        self._sampler = sampler

    def _live(self, thing: Any) -> Any:
        if thing is None:
            raise RuntimeError(f"policy {self.name!r} is not open: it lives inside `async with run.opened()`")
        return thing

    def save(self, folder: Path) -> None:
        self.learner.save(folder)

    def restore(self, folder: Path) -> None:
        self.learner.restore(folder)

    def reference(self, name: str = "reference") -> Policy:
        """A frozen policy that starts from the same weights; beside fresh adapters it shares them."""
        from temper.models import load

        frozen = replace(self, name=name, trainable=False, lora=None, drafts=None, engine="local")
        if self.lora is None or not self.lora.leaves_base or load.is_adapter(self.model):
            return frozen
        return BaseOf(**{f.name: getattr(frozen, f.name) for f in fields(frozen)}, policy=self)


@dataclass
class BaseOf(Policy):
    """What a LoRA policy is without its adapters: no copy of the weights, open while the policy is."""

    policy: Policy = field(default_factory=Policy, repr=False)

    def open(self, modules: Iterable[Any] = ()) -> None:
        from temper.backends.adapters import BaseLearner, BaseSampler

        learner: Any = self.policy.learner
        self._tokenizer = self.policy.tokenizer
        if self.backend is not None:
            self._learner, self._sampler = self.backend.open(self, modules)
            return
        self._learner = learner.base() if hasattr(learner, "base") else BaseLearner(learner)
        self._sampler = BaseSampler(learner.module, self._tokenizer, max_rows=self.max_rows, autocast=learner.autocast)


class Seat:
    """A role's place in one play of a task: its policy, its sampling parameters and its own random stream.

    `who` identifies the play; the n-th sample of a seat draws from the stream (seed, *who, role, n).
    """

    def __init__(self, role: str, policy: Policy, params: SamplingParams, seed: int, who: Sequence[object]):
        self.role, self.policy, self.params = role, policy, params
        self._seed, self._who, self._calls = seed, tuple(who), 0
        self._for = purpose()

    @property
    def tokenizer(self) -> Any:
        return self.policy.tokenizer

    def chat(self, messages: Sequence[dict[str, Any]], **options: Any) -> tuple[int, ...]:
        """Ids of the messages and the opening of the assistant's turn, by the tokenizer's own template.

        Control tokens that a user's or a tool's text spells stay text.
        """
        render = renderer_of(self.tokenizer)
        try:
            return render.ids(render.text(messages, **options), first=True)
        except UserError as error:
            raise UserError(str(error).replace("template", f"template of {self.policy.model!r}", 1))

    async def sample(self, ids: Sequence[int], **overrides: Any) -> Completion:
        """Continue `ids`; overrides are fields of SamplingParams (stop=…, max_tokens=…, allowed=…)."""
        seed = streams.key(self._seed, *self._who, self.role, self._calls)
        self._calls += 1
        with serving(self._for):
            return await self.policy.sampler.sample(tuple(ids), self.params.but(**{"seed": seed, **overrides}))
