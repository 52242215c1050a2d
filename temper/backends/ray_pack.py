"""What travels between the driver and actors: weights as plain arrays, terms and sources without their modules."""

from __future__ import annotations

import io
import pickle
import sys
import warnings
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import cloudpickle
from torch import Tensor, nn

from temper.backends.base import Weights, fingerprint

Frozen = dict[str, tuple[str, tuple[int, ...], np.ndarray[Any, Any]]]


def freeze(weights: Weights) -> Frozen:
    """{name: (dtype, shape, bytes)}: arrays that the object store shares between processes without a copy."""
    return {
        name: (str(t.dtype).removeprefix("torch."), tuple(t.shape), _flat(t.detach()).view(torch.uint8).numpy())
        for name, t in weights.items()
    }


def thaw(frozen: Frozen) -> dict[str, Tensor]:
    """The tensors again; they share the arrays' memory and must not be written to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch: the array is not writable
        return {
            name: torch.from_numpy(x).view(getattr(torch, dtype)).reshape(shape)
            for name, (dtype, shape, x) in frozen.items()
        }


def _flat(t: Tensor) -> Tensor:
    return t.cpu().contiguous().reshape(-1)


class _Items(ItemsView[str, Tensor]):
    """What `temper.backends.base.fingerprint` need not look at."""

    def __init__(self, pushed: Pushed):
        super().__init__(pushed)
        self.fingerprint = pushed.fingerprint


class Pushed(Mapping[str, Tensor]):
    """Weights in the object store. The driver gets them only when it looks inside.

    ref          of the frozen weights, for actors
    fingerprint  as their owner computed it
    """

    def __init__(self, ref: Any, fingerprint: str, get: Callable[[Any], Frozen]):
        self.ref, self.fingerprint, self._get = ref, fingerprint, get
        self._tensors: dict[str, Tensor] | None = None

    @staticmethod
    def of(weights: Weights) -> Pushed:
        """`weights` as they are if they are in the store already, else put there once."""
        import ray

        return weights if isinstance(weights, Pushed) else Pushed(
            ray.put(freeze(weights)), fingerprint(weights.items()), ray.get
        )  # fmt: skip

    @property
    def tensors(self) -> dict[str, Tensor]:
        if self._tensors is None:
            self._tensors = thaw(self._get(self.ref))
        return self._tensors

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def items(self) -> _Items:
        return _Items(self)


def pack(value: Any, modules: Sequence[nn.Module] = ()) -> bytes:
    """Pickled, with `modules` replaced by their position: the actor puts its own in their place."""
    by_value()
    place = {id(m): n for n, m in enumerate(modules)}

    class Pickler(cloudpickle.CloudPickler):
        def persistent_id(self, x: Any) -> int | None:
            return place.get(id(x))

    out = io.BytesIO()
    pickler: Any = Pickler
    pickler(out, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return out.getvalue()


def unpack(blob: bytes, modules: Sequence[nn.Module] = ()) -> Any:
    class Unpickler(pickle.Unpickler):
        def persistent_load(self, n: Any) -> nn.Module:
            found: nn.Module = modules[n]
            return found

    return Unpickler(io.BytesIO(blob)).load()


def by_value() -> None:
    """What files outside any package define (a recipe of the user's own) travels with the values."""
    register: Any = cloudpickle.register_pickle_by_value
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and "." not in name and file.endswith(".py") and Path(file).stem not in (name, "__init__"):
            register(module)
