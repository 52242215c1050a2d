"""Terms, batches and sources as bytes for the ranks of a learner: pickles that travel between our own processes only.

Classes and functions go by name, with the files that must be run first where an import would not find them. Modules
that terms own go by number: a rank has its own of each.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from temper.carrier import Structure
from temper.errors import UserError
from temper.rewards.reference import _found
from temper.rewards.worker import import_file


def dumps(content: Any, modules: Sequence[nn.Module] = ()) -> bytes:
    """UserError for what no other process can find: lambdas, nested functions, an interactive session's."""
    body = io.BytesIO()
    pickler = _Pickler(body, modules)
    try:
        pickler.dump(content)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            "a loss, a source or a column of the batch cannot be sent to the learner's ranks "
            f"({' '.join(str(error).split())}): "
            "define it at the top level of a file, or train with learners=1"
        )
    return pickle.dumps((sorted(pickler.files), body.getvalue()), pickle.HIGHEST_PROTOCOL)


def loads(data: bytes, modules: Sequence[nn.Module] = ()) -> Any:
    files, body = pickle.loads(data)
    for name, file in files:
        import_file(name, Path(file))
    return _Unpickler(io.BytesIO(body), modules).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: Any, modules: Sequence[nn.Module]):
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.numbers = {id(m): n for n, m in enumerate(modules)}
        self.files: set[tuple[str, str]] = set()

    def persistent_id(self, x: Any) -> int | None:
        return self.numbers.get(id(x)) if isinstance(x, nn.Module) else None

    def reducer_override(self, x: Any) -> Any:
        if isinstance(x, (type, FunctionType)):
            self.files |= _file_of(x.__module__)
        elif type(x) is Tensor and x.device.type == "cpu" and not x.requires_grad:
            raw = x.contiguous().reshape(-1).view(torch.uint8).numpy()
            return _tensor, (bytearray(raw), x.dtype, tuple(x.shape))
        elif isinstance(x, Structure):  # without what it has worked out
            return Structure, tuple(getattr(x, f.name) for f in fields(x))
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, modules: Sequence[nn.Module]):
        super().__init__(file)
        self.modules = modules

    def persistent_load(self, number: int) -> nn.Module:
        return self.modules[number]


def _tensor(raw: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return (torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)).view(shape)


@lru_cache
def _file_of(module: str) -> frozenset[tuple[str, str]]:
    """(module, file) where importing the module by its name would not lead to its file."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or (module != "__main__" and _found(module) == Path(file).resolve()):
        return frozenset()
    return frozenset({(module, str(Path(file).resolve()))})
