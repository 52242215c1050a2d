"""The fingerprint of weights: it sees every bit, and nothing of how a tensor lies in memory."""

import pytest
import torch
from torch import Tensor

from temper.backends.base import fingerprint

SHAPES = [(4, 6), (3, 5), (8,), (7,), (), (2, 3, 4)]
KINDS = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int8]


def of(x: Tensor) -> str:
    return fingerprint([("w", x)])


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_bit_counts(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.arange(1, 1 + torch.Size(shape).numel()).view(shape).to(dtype)
    for at in range(x.numel()):
        y = x.clone()
        y.view(-1)[at] += 1
        assert of(y) != of(x)
    assert fingerprint([("v", x)]) != of(x)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_where_a_tensor_lies_does_not(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.arange(1, 1 + torch.Size(shape).numel()).view(shape).to(dtype)
    inside = torch.zeros(x.numel() + 1, dtype=dtype)
    inside[1:] = x.view(-1)
    assert of(inside[1:].view(shape)) == of(x), "one number further in its storage"
    assert of(x.t().contiguous().t() if x.dim() == 2 else x) == of(x), "in another order"
    wider = torch.zeros(*shape, 2, dtype=dtype)
    wider[..., 0] = x
    assert of(wider[..., 0]) == of(x), "with gaps"
