"""A small network that foresees the target's next hidden states, and so its next tokens.

One decoder layer reads each token's embedding beside the target's last hidden state before it, and gives the hidden
state after it; the target's own head makes logits of that (EAGLE: Li et al. 2024, arXiv 2401.15077; trained beside
reinforcement learning in Hu et al. 2025, arXiv 2511.16665). Embedding and head are the target's as they are at the
moment, and are not trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, scaled_dot_product_attention, silu, smooth_l1_loss

from temper.backends.speculate import Guess, Running
from temper.errors import UserError
from temper.models import layout
from temper.models.load import hidden_width, plain

Sample = tuple[Tensor, Tensor]  # an answer's ids [tokens], and the hidden states [tokens, width] that predicted them


class Foresight(nn.Module):
    """(embedding of a token, hidden state before it) -> the hidden state after it: one decoder layer."""

    def __init__(self, embedded: int, width: int, heads: int):
        super().__init__()
        self.heads = heads if width % (2 * heads) == 0 else 1
        self.join = nn.Linear(embedded + width, width, bias=False)
        self.qkv, self.o = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.norm = nn.RMSNorm(width)
        self.gate_up, self.down = nn.Linear(width, 6 * width, bias=False), nn.Linear(3 * width, width, bias=False)

    def forward(self, embedded: Tensor, hidden: Tensor) -> Tensor:
        """[rows, tokens, width] from two of these; each token looks at those up to itself."""
        x = self.join(torch.cat([embedded, hidden], -1))
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(_turned(q), _turned(k), v, is_causal=True)
        x = x + self.o(seen.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norm(x)).chunk(2, -1)
        out: Tensor = x + self.down(silu(gate) * up)
        return out


def _turned(x: Tensor) -> Tensor:
    """Rotary positions 0, 1, … of x [rows, heads, tokens, width]."""
    half = x.shape[-1] // 2
    rate = 10000.0 ** (-torch.arange(half, device=x.device, dtype=x.dtype) / half)
    angle = torch.arange(x.shape[2], device=x.device, dtype=x.dtype)[:, None] * rate
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


@dataclass
class HiddenDrafter:
    """Guesses with a `Foresight`, each token drawn with the request's own uniform number, and trains it.

    window  tokens of an answer that it looks back on (all are read again for every guess)
    """

    window: int = 64
    hidden = True

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UserError(f"window must be at least 1, got {self.window}")
        self.net: Foresight | None = None

    def build(self, module: Any, seed: int = 0) -> None:
        """Make the network for this target; one seed makes one network. UserError where there is no plain head."""
        head, self.embed = layout.head_of(module), plain(module).get_input_embeddings()
        if head is None:
            raise UserError(f"a drafter cannot be made for {type(plain(module)).__name__}: use n-grams, Ngrams()")
        self.head, weight = head, self.embed.weight
        heads = getattr(plain(module).config.get_text_config(), "num_attention_heads", 1)
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Foresight(weight.shape[1], hidden_width(module), heads)
            self.net = net.to(weight.device, weight.dtype)

    def foresee(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """[rows, tokens, width] hidden states after `ids` [rows, tokens], from those before them."""
        assert self.net is not None
        out: Tensor = self.net(self.embed(ids), hidden.to(self.embed.weight.dtype))
        return out

    @torch.no_grad()
    def draft(self, requests: Sequence[Running], most: int) -> list[list[Guess]]:
        out: list[list[Guess]] = [[] for _ in requests]
        ready = [i for i, r in enumerate(requests) if len(r.drawn) > 1 and sum(map(len, r.hidden)) == len(r.drawn) - 1]
        if self.net is None or not ready or not most:
            return out
        rows = [requests[i] for i in ready]
        states = [torch.cat(r.hidden[-self.window :])[-self.window :] for r in rows]
        length = torch.tensor([len(s) for s in states])
        every = torch.arange(len(rows))
        width = int(length.max())
        ids = torch.zeros((len(rows), width + most), dtype=torch.int64, device=states[0].device)
        hidden = states[0].new_zeros((len(rows), width + most, states[0].shape[1]))
        for i, (r, s) in enumerate(zip(rows, states)):
            ids[i, : len(s)] = torch.tensor(r.drawn[-len(s) :])
            hidden[i, : len(s)] = s
        for ahead in range(most):
            end = length + ahead
            after = self.foresee(ids[:, : width + ahead], hidden[:, : width + ahead])[every, end - 1]
            tokens, sure = self._draw(self.head(after), rows, ahead)
            for i, token, p in zip(ready, tokens, sure):
                out[i].append((token, (ahead, int(10 * p))))
            if ahead + 1 < most:
                ids[every, end], hidden[every, end] = torch.tensor(tokens, device=ids.device), after
        return out

    def ended(self, request: Running) -> None:
        """Nothing: it learns from the learner's hidden states."""

    def _draw(self, logits: Tensor, rows: Sequence[Running], ahead: int) -> tuple[list[int], list[float]]:
        """One token a row as the sampler would draw it, and the largest probability."""
        heat = torch.tensor([r.params.temperature or 1.0 for r in rows], dtype=logits.dtype)
        p = torch.softmax(logits.cpu() / heat[:, None], -1)
        u = torch.tensor([(r.uniform[len(r.drawn) + ahead :] or [-1.0])[0] for r in rows], dtype=torch.float64)
        total = p.cumsum(-1, dtype=torch.float64)
        drawn = torch.searchsorted(total, (u * total[:, -1])[:, None], right=True).squeeze(1).clamp(max=p.shape[1] - 1)
        sure, favourite = p.max(-1)
        return torch.where(u < 0, favourite, drawn).tolist(), sure.tolist()

    def loss(self, samples: Sequence[Sample], regression: float = 0.5, imitation: float = 0.5) -> tuple[Tensor, Tensor]:
        """(loss, how often its favourite is the target's favourite), means over the tokens of the answers.

        regression · smooth L1 of the hidden state + imitation · cross-entropy to the target's distribution
        """
        assert self.net is not None
        device = next(self.net.parameters()).device
        samples = [(i[-self.window - 2 :], h[-self.window - 2 :]) for i, h in samples]
        width = max(len(i) for i, _ in samples)
        ids = torch.stack([nn.functional.pad(i, (0, width - len(i))) for i, _ in samples]).to(device)
        hidden = torch.stack([nn.functional.pad(h, (0, 0, 0, width - len(h))) for _, h in samples]).to(device)
        hidden = hidden.to(self.embed.weight.dtype)
        known = (torch.arange(2, width)[None] < torch.tensor([len(i) for i, _ in samples])[:, None]).to(device)
        foreseen, actual = self.foresee(ids[:, 1:-1], hidden[:, 1:-1]), hidden[:, 2:]
        wanted, said = self.head(actual).detach(), self.head(foreseen)
        near = smooth_l1_loss(foreseen, actual, reduction="none").mean(-1)
        alike = -(wanted.softmax(-1) * log_softmax(said, -1)).sum(-1)
        hit = (wanted.argmax(-1) == said.argmax(-1)).to(near.dtype)
        total = known.sum().clamp(min=1)
        return ((regression * near + imitation * alike) * known).sum() / total, (hit * known).sum() / total
