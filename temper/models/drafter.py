"""A small network that foresees the target's next hidden states, and so its next tokens.

One decoder layer of the target's own kind reads each token's embedding beside the target's last hidden state before it,
and gives the hidden state after it; the target's own head makes logits of that (EAGLE: Li et al. 2024, arXiv
2401.15077; trained beside reinforcement learning in Hu et al. 2025, arXiv 2511.16665). Embedding, rotary angles and
head are the target's as they are at the moment, and are not trained.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, smooth_l1_loss

from temper.backends.speculate import Guess, Running
from temper.errors import UserError
from temper.models import layout
from temper.models.load import plain, trunk

Sample = tuple[Tensor, Tensor]  # an answer's ids [tokens], and the hidden states [tokens, width] that predicted them


class Foresight(nn.Module):
    """(embedding of a token, hidden state before it) -> the hidden state after it."""

    def __init__(self, module: Any):
        super().__init__()
        like = trunk(plain(module)).layers[0]
        config = copy.deepcopy(plain(module).config.get_text_config())
        config._attn_implementation = "eager"
        self.join = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.layer = type(like)(config, 0)
        self.layer.input_layernorm = nn.Identity()

    def forward(self, embedded: Tensor, hidden: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """[rows, tokens, width] from two of these; angles: (cos, sin) of the positions."""
        x = self.join(torch.cat([embedded, hidden], -1))
        n = x.shape[1]
        mask = torch.full((n, n), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device).triu(1)[None, None]
        out: Tensor = self.layer(x, attention_mask=mask.expand(len(x), 1, n, n), position_embeddings=angles)
        return out


class HiddenDrafter:
    """Guesses with a `Foresight`, each token drawn with the request's own uniform number, and trains it.

    window  tokens of an answer that it looks back on (all are read again for every guess)
    """

    hidden = True

    def __init__(self, window: int = 64):
        self.window = window
        self.net: Foresight | None = None

    def build(self, module: Any, seed: int = 0) -> None:
        """Make the network for this target; one seed makes one network. UserError where it is built in another way."""
        base, head = trunk(plain(module)), layout.head_of(module)
        if head is None or not all(hasattr(base, n) for n in ("layers", "embed_tokens", "rotary_emb")):
            raise UserError(f"a drafter cannot be made for {type(plain(module)).__name__}: use n-grams, Ngrams()")
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            weight = plain(module).get_input_embeddings().weight
            self.net = Foresight(module).to(weight.device, weight.dtype)
        self.embed, self.rotary, self.head = base.embed_tokens, base.rotary_emb, head

    def foresee(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """[rows, tokens, width] hidden states after `ids` [rows, tokens], from those before them."""
        assert self.net is not None
        position = torch.arange(ids.shape[1], device=ids.device)[None]
        out: Tensor = self.net(self.embed(ids), hidden, self.rotary(hidden, position))
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
        hidden = hidden.to(next(self.net.parameters()).dtype)
        known = (torch.arange(2, width)[None] < torch.tensor([len(i) for i, _ in samples])[:, None]).to(device)
        foreseen, actual = self.foresee(ids[:, 1:-1], hidden[:, 1:-1]), hidden[:, 2:]
        wanted, said = self.head(actual).detach(), self.head(foreseen)
        near = smooth_l1_loss(foreseen, actual, reduction="none").mean(-1)
        alike = -(wanted.softmax(-1) * log_softmax(said, -1)).sum(-1)
        hit = (wanted.argmax(-1) == said.argmax(-1)).to(near.dtype)
        total = known.sum().clamp(min=1)
        return ((regression * near + imitation * alike) * known).sum() / total, (hit * known).sum() / total
