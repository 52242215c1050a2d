"""Reward functions that behave and misbehave; "bad" as the completion is what sets most of them off."""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy


def right(completion, answer):
    return completion == answer


def half(completion):
    return 0.5


def length(completion):
    return -float(len(completion))


def raises(completion):
    if completion == "bad":
        raise ValueError("two\nlines")
    return 1.0


def leaves(completion):
    if completion == "bad":
        sys.exit(2)
    return 1.0


def hangs(completion):
    while completion == "bad":
        time.sleep(0.01)
    return 1.0


def hangs_in_c(completion):
    """A regular expression that never ends holds the interpreter lock."""
    if completion == "bad":
        re.match(r"(a+)+$", "a" * 64 + "b")
    return 1.0


def dies(completion):
    if completion == "bad":
        os._exit(3)
    return 1.0


def faults(completion):
    if completion == "bad":
        ctypes.string_at(0)
    return 1.0


def prints_for_ever(completion):
    while completion == "bad":
        print("x" * 10_000)
    return 1.0


def prints(completion):
    print("not a frame", flush=True)
    os.write(1, b"\x00" * 64)
    return float(sys.stdin.read() == "")


def forks(completion):
    os.fork()
    return 1.0


def nan(completion):
    return math.nan if completion == "bad" else 1.0


def infinite(completion):
    return math.inf if completion == "bad" else 1.0


def text(completion):
    return "1.0" if completion == "bad" else 1.0


def array(completion):
    return numpy.ones(3) if completion == "bad" else numpy.float32(1.0)


def none(completion):
    return None if completion == "bad" else 1.0


def huge(completion):
    return 10**400 if completion == "bad" else 1.0


def mapping(completion):
    return {"score": 0.25, "accuracy": True, "guess": "7"}


def mapping_without_score(completion):
    return {"value": 1.0}


def slow(completion):
    time.sleep(0.3)
    return float(completion)


def starts_a_process(completion, folder):
    """Hangs in a process of its own, whose id it leaves in `folder`."""
    child = subprocess.Popen(["sleep", "600"])
    Path(folder, "child").write_text(str(child.pid))
    Path(folder, "worker").write_text(str(os.getpid()))
    child.wait()


def imported(completion):
    """Whether torch is there without anybody asking for it."""
    return float("torch" in sys.modules)


async def later(completion):
    await asyncio.sleep(0.3)
    return 1.0


async def never(completion):
    await asyncio.sleep(600 if completion == "bad" else 0.0)
    return 1.0


async def stubborn(completion):
    """Blocks the event loop, so that nothing in the process can end it."""
    if completion == "bad":
        time.sleep(600)
    return 1.0


async def async_dies(completion):
    if completion == "bad":
        os._exit(4)
    return 1.0


async def async_raises(completion):
    raise KeyError("gone")


def trl_right(completions, answer, **kwargs):
    return [1.0 if c == a else 0.0 for c, a in zip(completions, answer)]


def trl_chat(prompts, completions, solution, **kwargs):
    return [float(c[-1]["content"] == s and p[-1]["role"] == "user") for p, c, s in zip(prompts, completions, solution)]


def trl_some(completions, **kwargs):
    return [None if c == "bad" else 1.0 for c in completions]


def trl_short(completions, **kwargs):
    return [1.0]


def trl_number(completions, **kwargs):
    return 1.0


def trl_ids(completion_ids, trainer_state, **kwargs):
    return [len(ids) + trainer_state.global_step / 100 for ids in completion_ids]


def trl_logs(completions, log_extra, log_metric, **kwargs):
    log_extra("guess", list(completions))
    log_extra("letters", [len(c) for c in completions])
    log_metric("seen", len(completions))
    return [0.0 for _ in completions]


def trl_kwargs(completions, **kwargs):
    return [float(sorted(kwargs) == EXPECTED_KWARGS)] * len(completions)


EXPECTED_KWARGS = [
    "answer", "completion_ids", "level", "log_extra", "log_metric", "prompts", "trainer_state"
]  # fmt: skip


async def trl_later(completions, **kwargs):
    await asyncio.sleep(0.01)
    return [1.0] * len(completions)


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """verl's signature, with extras."""
    ok = solution_str == ground_truth and data_source == "sums" and extra_info == {"index": 3}
    return {"score": float(ok), "acc": ok, "pred": solution_str}


def compute_gsm8k(solution_str, ground_truth, strict, score=1.0):
    return score if solution_str == ground_truth else 0.0


def wants_level(completion, level):
    return float(level)


def wants_everything(completion, **row):
    return float(sorted(row) == ["answer", "level", "prompt"])


def wants_dialogue(completion, messages, task, prompt):
    return float(messages[-1] == {"role": "assistant", "content": completion} and task.prompt == prompt)


def positional(completion, /):
    return 1.0


@dataclass
class Penalty:
    """A reward with a hyper-parameter."""

    per_letter: float = 0.1

    def __call__(self, completion):
        return -self.per_letter * len(completion)


not_a_function = 3


def _explode():
    raise RuntimeError("cannot be read here")


class Unreadable:
    """Can be sent, but not received."""

    def __reduce__(self):
        return _explode, ()


def takes(completion, thing):
    return 1.0
