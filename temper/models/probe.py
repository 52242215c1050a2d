"""Measured, not believed: what a model's forward takes, and whether branches behind a plan leave its results alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from temper.models.plan import Unit, moved, planned

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}  # of the largest hidden state; other types: 0.05


def accepted(module: Any, **inputs: Any) -> dict[str, Any]:
    """Those of `inputs` that the module's forward takes by name (ALiBi models have no position_ids)."""
    names, anything = _parameters(type(module))
    return {k: v for k, v in inputs.items() if k in names or (anything and k != "position_ids")}


@lru_cache
def _parameters(kind: Any) -> tuple[frozenset[str], bool]:
    parameters = inspect.signature(kind.forward).parameters
    return frozenset(parameters), any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def branches_apart(base: Any) -> bool:
    """Whether a stem with two branches in one row gives each branch the hidden states that it has in a row of its own.

    So a model whose positions come from columns, or whose layers carry a state from column to column, is found out.
    """
    if "position_ids" not in accepted(base, position_ids=None):
        return False
    one, two = [1, 2, 3, 4, 5], [1, 2, 6, 7, 8]
    position = torch.tensor([0, 1, 2, 3, 4, 2, 3, 4])
    plan = planned([Unit(-1, length=2), Unit(0, length=3), Unit(0, length=3)])
    try:
        alone = _hidden(base, torch.tensor([one, two]), torch.arange(5).expand(2, 5), None)
        packed = _hidden(base, torch.tensor([one + two[2:]]), position[None], plan)
    except (TypeError, ValueError, RuntimeError, NotImplementedError, IndexError):
        return False  # it does not take such a mask
    expected = torch.cat([alone[0], alone[1, 2:]])
    limit = TOLERANCE.get(expected.dtype, 0.05) * float(expected.abs().max())
    return bool((expected - packed[0]).abs().max() <= limit)


def _hidden(base: Callable[..., Any], ids: Tensor, position: Tensor, mask: Tensor | None) -> Tensor:
    device = next(base.parameters()).device  # type: ignore[attr-defined]
    with torch.no_grad():
        out = base(
            input_ids=ids.to(device), position_ids=position.to(device), use_cache=False,
            attention_mask=None if mask is None else moved(mask, device),
        )  # fmt: skip
    hidden: Tensor = out.last_hidden_state
    return hidden
