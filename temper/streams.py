"""Randomness is a function of (seed, who, when): any process, worker or resumed run draws the same numbers."""

from __future__ import annotations

import hashlib

import numpy as np


def key(seed: int, *who: object) -> int:
    """A 63-bit number that depends on the seed and on every part of `who`."""
    text = "\x1f".join(str(w) for w in (seed, *who))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *who: object) -> np.random.Generator:
    """An independent NumPy generator for `who`."""
    return np.random.Generator(np.random.Philox(key(seed, *who)))
