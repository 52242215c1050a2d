"""What a run has spent, in units that do not depend on the machine: counted where samplers and learners are called.

Tokens   sampled: drawn by a policy that plays a role, dropped attempts included; judge: by one that plays none;
         scored: read without gradient; trained: through an optimiser step, once for every epoch
Calls    judge: samples of policies without a role; tool: as attempts that ended have noted them
FLOPs    of the matrix products and of attention, 2 for a multiplication with its addition, from the shapes of the model
         and the positions that each token attends to. A context that several attempts share counts once, as it is
         computed; what an update leaves out, as nothing learns from it, does not. Not counted: padding, element-wise
         operations, and what is computed again to save memory
Seconds  of the steps, by stage; environment: of attempts outside of sampling (tools, simulators) and of rewards, added
         up over those that go on together; idle: while no sampler and no learner had work. These depend on the machine

Evaluations are apart (`evaluation_tokens`, `evaluation_flops`, in the summary only), and never use up a budget.
"""

from __future__ import annotations

import contextlib
import re
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from temper.backends.local import computed
from temper.carrier import Batch
from temper.columns import TOKEN
from temper.episode import Episode
from temper.errors import UserError, unknown
from temper.models import layout
from temper.models.load import plain
from temper.objective import Term

UNBOUNDED = 1_000_000  # steps of a run that a budget ends
COUNTED = (
    "sampled_tokens", "scored_tokens", "trained_tokens", "judge_tokens", "judge_calls", "tool_calls",
    "optimiser_steps", "forward_flops", "backward_flops", "evaluation_tokens", "evaluation_flops",
)  # fmt: skip
SECONDS = {"seconds": "step", "environment_seconds": "environment"}  # axis → stage
AXES = ("sampled_tokens", "trained_tokens", "scored_tokens", "judge_tokens", "judge_calls", "tool_calls", "flops",
        "forward_flops", "backward_flops", *SECONDS)  # fmt: skip
_SUFFIX = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}


@dataclass(frozen=True)
class Shape:
    """What a token costs in one dense decoder.

    linear         weights of its linear layers without the head; head: of the head
    trained        those of the linear layers that get a gradient; trained_head: those of the head
    width          query width summed over the layers (heads x head size x layers)
    """

    linear: int
    head: int
    trained: int
    trained_head: int
    width: int

    @classmethod
    def of(cls, module: Any) -> Shape | None:
        """None for a model with experts, or whose sizes its config does not tell: its FLOPs are not known."""
        model = plain(module)
        config = model.config.get_text_config()
        heads, layers = getattr(config, "num_attention_heads", None), getattr(config, "num_hidden_layers", None)
        experts = any(getattr(config, n, None) for n in ("num_experts", "num_local_experts", "n_routed_experts"))
        if experts or not heads or not layers:
            return None
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        out = model.get_output_embeddings()
        inner = [
            m.weight
            for m in model.modules()
            if m is not out and not isinstance(m, nn.Embedding) and getattr(m, "weight", None) is not None
        ]
        inner = [w for w in inner if w.dim() == 2]
        trained = sum(w.numel() for w in inner if w.requires_grad)
        head = out.weight.numel() if out is not None else 0
        return cls(
            linear=sum(w.numel() for w in inner), head=head, trained=trained,
            trained_head=head if out is not None and out.weight.requires_grad else 0, width=heads * size * layers,
        )  # fmt: skip

    def forward(self, tokens: int, attended: int, scored: int) -> int:
        """FLOPs of `tokens` that attend to `attended` positions in all, `scored` of them through the head."""
        return 2 * self.linear * tokens + 4 * self.width * attended + 2 * self.head * scored

    def backward(self, tokens: int, attended: int, scored: int) -> int:
        """The same of the gradients: by every input once, by the weights where they are trained."""
        weights = 2 * self.trained * tokens + 2 * self.trained_head * scored
        return self.forward(tokens, attended, scored) + 4 * self.width * attended + weights


class Stopwatch:
    """`seconds` during which at least one was inside."""

    def __init__(self) -> None:
        self.seconds, self._inside, self._since = 0.0, 0, time.perf_counter()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        self._move(+1)
        try:
            yield
        finally:
            self._move(-1)

    def take(self) -> float:
        """Seconds since the last call."""
        self._move(0)
        taken, self.seconds = self.seconds, 0.0
        return taken

    def _move(self, change: int) -> None:
        now = time.perf_counter()
        self.seconds += now - self._since if self._inside else 0.0
        self._inside, self._since = self._inside + change, now


class Ledger:
    """Totals of a run, watched at its policies; `step` gives a step's share of them."""

    def __init__(self) -> None:
        self.total: dict[str, float] = dict.fromkeys(COUNTED, 0.0)
        self.before = dict(self.total)
        self.seconds: dict[str, float] = {}
        self.ended = False  # a budget was reached
        self.known = True  # whether every model's FLOPs are
        self._apart = False
        self._prompts: set[tuple[str, tuple[int, ...]]] = set()
        self._models = Stopwatch()  # inside: whatever a sampler or a learner is asked
        self._environment = 0.0  # seconds of this step's attempts outside of sampling
        self._began = time.perf_counter()  # this step

    def watch(self, policy: Any, plays: bool) -> None:
        """Count what an open policy's sampler and learner are asked; plays: it has a role in the run."""
        self._began = time.perf_counter()
        learner, sampler = policy.learner, policy.sampler
        module = getattr(learner, "module", None)
        shape = Shape.of(module) if module is not None else getattr(learner, "shape", None)  # it lives elsewhere
        self.known = self.known and shape is not None
        flat = bool(getattr(learner, "flat", False))
        sample, read, update = sampler.sample, learner.read, learner.update

        async def counted_sample(ids: tuple[int, ...], *args: Any, **options: Any) -> Any:
            with self._models.inside():
                done = await sample(ids, *args, **options)
            prompt = policy.name, tuple(ids)
            first = prompt not in self._prompts
            self._prompts.add(prompt)
            self._sampled(shape, len(ids), len(done.ids), first, plays)
            return done

        def counted_read(batch: Batch, *args: Any, **options: Any) -> Any:
            self._add("scored_tokens", batch.size(TOKEN))
            if shape is not None:
                self._flops(shape.forward(*work(batch, flat)))
            with self._models.inside():
                return read(batch, *args, **options)

        def counted_update(batch: Batch, terms: list[Term], *args: Any, **options: Any) -> Any:
            self._add("trained_tokens", batch.size(TOKEN))
            self._add("optimiser_steps", 1)
            if shape is not None:
                size = work(computed(batch, [(t, t.weights(batch)) for t in terms]), flat)
                self._flops(shape.forward(*size))
                self._add("backward_flops", shape.backward(*size))
            with self._models.inside():
                return update(batch, terms, *args, **options)

        sampler.sample, learner.read, learner.update = counted_sample, counted_read, counted_update

    async def played(self, play: Callable[..., Awaitable[Episode]], task: Any, seats: Mapping[str, Any]) -> Episode:
        """`await play(task, seats)`, with its seconds outside of sampling and its tool calls counted."""
        sampling, began = Stopwatch(), time.perf_counter()
        for seat in seats.values():
            seat.sample = _inside(sampling, seat.sample)
        try:
            episode = await play(task, seats)
        finally:
            self._environment += 0.0 if self._apart else time.perf_counter() - began - sampling.take()
        calls = [t.info.get("calls") for t in episode.trajectories if t.info]
        self._add("tool_calls", sum(len(c) for c in calls if isinstance(c, list)))
        return episode

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """What is spent inside is an evaluation's."""
        prompts, self._prompts, self._apart = self._prompts, set(), True
        busy = self._models.take()
        try:
            yield
        finally:
            self._prompts, self._apart = prompts, False
            self._models.take()
            self._models.seconds, self._began = busy, time.perf_counter()

    def step(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """Metrics of a step that is over: what it spent, and the run so far."""
        outside, self._environment = self._environment, 0.0
        idle = max(0.0, seconds["step"] - self._models.take())
        own = {"idle": idle, "environment": outside + seconds.get("reward", 0.0)}
        for name, value in {**seconds, **own}.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        self._prompts.clear()
        names = [n for n in COUNTED if not n.startswith("evaluation") and (self.known or not n.endswith("flops"))]
        out = {f"ledger/{n}": self.total[n] - self.before[n] for n in names}
        out |= {f"ledger/total/{n}": self.total[n] for n in names}
        out |= {f"perf/{name}_s": round(value, 4) for name, value in own.items()}
        self.before, self._began = dict(self.total), time.perf_counter()
        return out

    def spent(self, axis: str) -> float:
        """The total along one of AXES, with the step that goes on (but for its rewards' seconds).

        UserError where the FLOPs of a model are not known.
        """
        if axis in SECONDS:
            now = self._environment if axis == "environment_seconds" else time.perf_counter() - self._began
            return self.seconds.get(SECONDS[axis], 0.0) + now
        if axis.endswith("flops") and not self.known:
            raise UserError("the FLOPs of this model are not known (experts, or no sizes): budget tokens instead")
        return sum(self.total[n] for n in (("forward_flops", "backward_flops") if axis == "flops" else (axis,)))

    def share(self, budget: Mapping[str, float]) -> float:
        """How much of a budget is spent: 1 where it is reached, 0 without one."""
        return max((self.spent(axis) / most for axis, most in budget.items()), default=0.0)

    def summary(self) -> dict[str, Any]:
        """Totals, wall seconds by stage, peak memory."""
        totals = {n: v for n, v in self.total.items() if self.known or not n.endswith("flops")}
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        return {**totals, "seconds": seconds, "peak_memory_mib": peak_memory()}

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "before": self.before, "seconds": self.seconds, "ended": self.ended}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.total, self.before = {**self.total, **saved["total"]}, {**self.before, **saved["before"]}
        self.seconds, self.ended = dict(saved["seconds"]), saved["ended"]

    def _add(self, name: str, n: float) -> None:
        if not self._apart:
            self.total[name] += n

    def _flops(self, n: float) -> None:
        self.total["evaluation_flops" if self._apart else "forward_flops"] += n

    def _sampled(self, shape: Shape | None, prompt: int, drawn: int, first: bool, plays: bool) -> None:
        if self._apart:
            self.total["evaluation_tokens"] += drawn
        else:
            self._add("sampled_tokens" if plays else "judge_tokens", drawn)
            self._add("judge_calls", 0 if plays else 1)
        if shape is not None:
            fed = max(0, drawn - 1)  # the last token is never fed back
            self._flops(shape.forward(fed, fed * prompt + _triangle(fed), fed))
            self._flops(shape.forward(prompt, _triangle(prompt), 1) if first else 0)


def _inside(watch: Stopwatch, sample: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def timed(*args: Any, **options: Any) -> Any:
        with watch.inside():
            return await sample(*args, **options)

    return timed


def work(b: Batch, shared: bool) -> tuple[int, int, int]:
    """(tokens computed, positions they attend to, tokens scored) of one forward pass over a batch.

    shared  every turn is computed once; else every chain of turns by itself, with what it shares with others
    """
    length = b.structure.start.diff().tolist()
    if not shared:
        rows = [sum(length[u] for u in chain) for chain in layout.chains(b)]
        return sum(rows), sum(map(_triangle, rows)), b.size(TOKEN)
    parent, depth = b.structure.parent.tolist(), [0] * len(length)
    for turn, up in enumerate(parent):
        depth[turn] = depth[up] + length[up] if up >= 0 else 0
    turns = [u for unit in layout.units(b) for u in unit.turns]
    attended = sum(length[u] * depth[u] + _triangle(length[u]) for u in turns)
    return sum(length[u] for u in turns), attended, b.size(TOKEN)


def budget_of(text: str) -> dict[str, float]:
    """{"sampled_tokens": 2e6} of "2M-sampled-tokens"; UserError says what a budget looks like."""
    found = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)([kMGBTPE]?)[-_ ]([a-z][a-z_-]+)", text.strip().replace("_", "-"))
    if found is None or not re.fullmatch(r"\d+(\.\d+)?(e\d+)?", found[1]) or float(found[1]) <= 0:
        raise UserError(f"a budget looks like 2M-sampled-tokens, not {text!r}; axes: {', '.join(map(_dashed, AXES))}")
    axis = found[3].replace("-", "_")
    if axis not in AXES:
        raise unknown("axis of a budget", _dashed(axis), [_dashed(a) for a in AXES])
    return {axis: float(found[1]) * _SUFFIX[found[2]]}


def budget_text(axis: str, most: float) -> str:
    """A budget in words that `budget_of` reads."""
    return f"{most:.0f}-{_dashed(axis)}" if most >= 100 else f"{most:.3f}-{_dashed(axis)}"


def peak_memory() -> float:
    """MiB: of the GPU where one is used, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def _triangle(n: int) -> int:
    return n * (n + 1) // 2


def _dashed(axis: str) -> str:
    return axis.replace("_", "-")
