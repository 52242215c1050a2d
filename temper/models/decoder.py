"""A few tokens a row, straight from the weights: the decoding step of a standard decoder without its bookkeeping.

transformers' forward serves every case; with one token a row that costs as much as the arithmetic. A `Decoder` knows
the usual layer (RMSNorm, rotary positions, grouped attention, gated MLP: Llama, Mistral, Qwen2, Qwen3 and their like),
reads the module's own weights at every step, and is made only where it gives what the module itself gives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from temper.models import layout
from temper.models.load import plain, trunk

LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
ROTARY = ("default", "linear", "llama3", "yarn")  # those whose angles depend on the position alone
SMALL = 1 << 22  # weights of a layer's products that are copied to be one
TOLERANCE = 1e-4  # of the largest logit, for float32; 1e-9 for float64


class Decoder:
    """`step(ids, position, stores, bias)`: see there."""

    def __init__(self, module: Any, head: Callable[[Tensor], Tensor]):
        base = trunk(plain(module))
        self.embed, self.rotary, self.norm, self.head = base.embed_tokens, base.rotary_emb, _Norm(base.norm), head
        self.layers = [_Layer(layer) for layer in base.layers]
        self._angles: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def of(module: Any, head: Callable[[Tensor], Tensor] | None) -> Decoder | None:
        """None where the module is built in another way, or gives other logits."""
        if head is None or not _is_standard(trunk(plain(module))) or not layout.sees_all(module):
            return None
        try:
            decoder = Decoder(module, head)
            return decoder if decoder._agrees(module) else None
        except (AttributeError, RuntimeError, TypeError, ValueError):
            return None

    @torch.inference_mode()
    def renew(self) -> None:
        """To be called before the first step with other weights."""
        self.norm.renew()
        for layer in self.layers:
            layer.renew()

    def step(self, ids: Tensor, position: Tensor, stores: list[Any], bias: Tensor | None) -> Tensor:
        """[rows, vocabulary] logits after `ids` [rows] at `position` [rows]. stores, bias: see `hidden`."""
        return self.head(self.hidden(ids, position, stores, bias))

    def hidden(self, ids: Tensor, position: Tensor, stores: list[Any], bias: Tensor | None, columns: int = 1) -> Tensor:
        """[rows · columns, width]: what the head reads after each of `ids` [rows · columns] at `position`, row by row.

        stores  of keys and values, one a layer, that take the new ones
        bias    [rows, 1, columns, 1, filled] that is added to scores: −inf where a token may not look; None: everywhere
        """
        x = self.embed(ids)
        cos, sin = self._angle(position, x)
        for layer, store in zip(self.layers, stores, strict=True):
            x = layer(x, cos, sin, store, bias, columns)
        return self.norm(x)

    def _angle(self, position: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """(cos, sin) [rows, 1, width], sin with the sign of the half-turn; the table grows with the positions seen.

        position  in the host's memory, so that nobody waits for a device to know the largest
        """
        need = int(position.max()) + 1
        if self._angles is None or len(self._angles[0]) < need:
            columns = torch.arange(-(-need // 256) * 256, device=x.device)
            cos, sin = (a[0] for a in self.rotary(x, columns[None]))
            half = sin.shape[-1] // 2
            self._angles = cos, torch.cat((-sin[:, :half], sin[:, half:]), -1)
        position = position.to(x.device)
        cos, sin = (a.index_select(0, position).unsqueeze(1) for a in self._angles)
        return cos, sin

    @torch.inference_mode()
    def _agrees(self, module: Any) -> bool:
        """Whether seven steps of two rows give the logits of the module's own forward."""
        device = next(module.parameters()).device
        vocabulary = self.embed.weight.shape[0]
        ids = torch.arange(3, 3 + 14, device=device).view(2, 7) * 31 % vocabulary
        expected = plain(module)(input_ids=ids).logits
        self.renew()
        stores: list[Any] = [_Grown() for _ in self.layers]
        got = [self.step(ids[:, t], torch.full((2,), t), stores, None) for t in range(7)]
        gap = (torch.stack(got, 1) - expected).abs().max() / expected.abs().max()
        return bool(gap <= (1e-9 if expected.dtype == torch.float64 else TOLERANCE))


class _Layer:
    """What a layer computes for a few tokens a row; products with the same input are one where weights are small."""

    def __init__(self, layer: Any):
        attention, self.mlp = layer.self_attn, layer.mlp
        self.width, self.scaling = attention.head_dim, attention.scaling
        self.before, self.between = _Norm(layer.input_layernorm), _Norm(layer.post_attention_layernorm)
        self.qkv = [getattr(attention, f"{n}_proj") for n in "qkv"]
        self.o, self.down = _linear(attention.o_proj), _linear(self.mlp.down_proj)
        self.norms = [getattr(attention, f"{n}_norm") for n in "qk" if hasattr(attention, f"{n}_norm")]
        self.apart = [_Norm(m) for m in self.norms]
        self.heads = self.kv_heads = 0
        inputs = [*self.qkv, self.mlp.gate_proj, self.mlp.up_proj]
        norms = [layer.input_layernorm, layer.post_attention_layernorm, *self.norms]
        self.sources = [p for m in (*inputs, *norms) for p in m.parameters()]
        small = sum(p.numel() for p in self.sources) <= SMALL
        self.joined = small and all(type(m) is nn.Linear for m in inputs)
        self.versions: list[int] = []

    def renew(self) -> None:
        """Join the weights again where they have changed; what scales their input is a part of them."""
        versions = [p._version for p in self.sources]
        if versions == self.versions:
            return
        self.versions = versions
        for norm in (self.before, self.between, *self.apart):
            norm.renew()
        if not self.joined:
            return
        q, k, _ = self.qkv
        self.heads, self.kv_heads = q.out_features // self.width, k.out_features // self.width
        self.wide, self.bias = torch.cat([m.weight for m in self.qkv]) * self.before.gain, _biases(self.qkv)
        self.twofold, self.twofold_bias = (
            torch.cat([self.mlp.gate_proj.weight, self.mlp.up_proj.weight]) * self.between.gain,
            _biases([self.mlp.gate_proj, self.mlp.up_proj]),
        )
        n = self.heads, self.kv_heads
        self.scale = torch.ones(sum(n), self.width, dtype=self.wide.dtype, device=self.wide.device)
        if self.norms:
            self.scale = torch.cat([m.gain.expand(k, -1) for m, k in zip(self.apart, n)])
        self.scale[: self.heads] *= self.scaling

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, store: Any, bias: Tensor | None, columns: int) -> Tensor:
        x = x + self.o(self._looked(*self._queries(x, cos, sin), store, bias, columns))
        if not self.joined:
            y = self.between(x)
            return x + self.down(self.mlp.act_fn(self.mlp.gate_proj(y)).mul_(self.mlp.up_proj(y)))
        both = linear(self.between.divided(x), self.twofold, self.twofold_bias)
        inner = both.shape[1] // 2
        return x + self.down(self.mlp.act_fn(both.narrow(1, 0, inner)).mul_(both.narrow(1, inner, inner)))

    def _looked(self, q: Tensor, k: Tensor, v: Tensor, store: Any, bias: Tensor | None, columns: int) -> Tensor:
        """[rows · columns, heads · width]: values by the softmax of scores; the store takes keys and values."""
        kv_heads, width = k.shape[1], self.width
        if columns == 1:
            keys, values = store.update(k.unsqueeze(2), v.unsqueeze(2))
        else:
            keys, values = store.update(*(t.view(-1, columns, kv_heads, width).transpose(1, 2) for t in (k, v)))
            q = q.reshape(-1, columns, kv_heads, q.shape[1] // kv_heads, width).transpose(1, 2)
        flat = len(keys) * kv_heads, -1
        scores = torch.bmm(q.reshape(*flat, width), keys.flatten(0, 1).transpose(1, 2))
        if bias is not None:
            scores.view(len(keys), kv_heads, columns, -1, keys.shape[2]).add_(bias)
        if store.stem is not None:
            return store.stem.merged(q, scores, values.flatten(0, 1)).view(len(k), -1)
        seen = torch.bmm(torch.softmax(scores, -1), values.flatten(0, 1))
        if columns > 1:
            seen = seen.view(len(keys), kv_heads, columns, -1, width).transpose(1, 2)
        return seen.reshape(len(k), -1)

    def _queries(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries, keys [rows, heads, width] at their positions, and values."""
        rows = len(x)
        if not self.joined:
            y = self.before(x)
            q, k, v = (m(y).view(rows, -1, self.width) for m in self.qkv)
            if self.norms:
                q, k = (norm(y) for norm, y in zip(self.apart, (q, k)))
            return _turn(q, cos, sin).mul_(self.scaling), _turn(k, cos, sin), v
        every = linear(self.before.divided(x), self.wide, self.bias).view(rows, -1, self.width)
        both = every.narrow(1, 0, self.heads + self.kv_heads)
        if self.norms:
            both = self.apart[0].divided(both)
        both = _turn(both * self.scale, cos, sin)
        q, k = both.narrow(1, 0, self.heads), both.narrow(1, self.heads, self.kv_heads)
        return q, k, every.narrow(1, self.heads + self.kv_heads, self.kv_heads)


def _biases(modules: list[Any]) -> Tensor | None:
    return None if modules[0].bias is None else torch.cat([m.bias for m in modules])


class _Grown:
    """Keys and values of a few steps."""

    stem = None

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, Tensor]] = []

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.kept.append((keys, values))
        return torch.cat([k for k, _ in self.kept], 2), torch.cat([v for _, v in self.kept], 2)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position of x [rows, heads, width]."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


class _Norm:
    """RMSNorm by the vector's length: x / √(Σx² + n·eps), times √n and the weight. PyTorch's takes seven passes."""

    def __init__(self, norm: Any):
        self.weight = norm.weight
        self.least = torch.tensor((len(norm.weight) * norm.variance_epsilon) ** 0.5).to(norm.weight)

    def renew(self) -> None:
        self.gain = self.weight * len(self.weight) ** 0.5

    def __call__(self, x: Tensor) -> Tensor:
        return self.divided(x).mul_(self.gain)

    def divided(self, x: Tensor) -> Tensor:
        """All but `gain`, which what comes after may have taken in."""
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.least)


def _linear(module: Any) -> Callable[[Tensor], Tensor]:
    """The product alone where it is a plain layer; adapters and the like are called as they are."""
    if type(module) is not nn.Linear:
        return module  # type: ignore[no-any-return]
    return partial(linear, weight=module.weight, bias=module.bias)


def _is_standard(base: Any) -> bool:
    """Whether the names of its modules are those of the usual decoder, and its weights all float32 or all float64."""
    layers = getattr(base, "layers", None)
    if not layers or not all(hasattr(base, n) for n in ("embed_tokens", "norm", "rotary_emb")):
        return False
    wide = {p.dtype for p in base.parameters()} in ({torch.float32}, {torch.float64})
    return wide and getattr(base.rotary_emb, "rope_type", None) in ROTARY and all(map(_is_usual, layers))


def _is_usual(layer: nn.Module) -> bool:
    if _names(layer) != LAYER or _names(layer.mlp) != MLP:
        return False
    return _names(layer.self_attn) in (ATTENTION, ATTENTION | {"q_norm", "k_norm"})


def _names(module: Any) -> set[str]:
    return {name for name, _ in module.named_children()}
