"""What a step would take on devices that nobody has yet: a forecast from sizes, without a model.

Samples queue for the samplers' slots in the order of asking; a step's may begin when the weights of `ahead` steps
before are out; groups are judged as they land; a step is trained once it is whole (at staleness 0 in eighths, in order,
as they land); new weights are out after the transfer. Samples go on under new weights ("resume"): nothing is drained.
The times are those of a `World`, which `world_of` estimates from a model's size and a device's speed.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from statistics import mean

from temper import streams
from temper.errors import UserError
from temper.simulate.world import Lognormal, World
from temper.streaming import PARTS

USED = 0.4  # share of a device's peak that training reaches


@dataclass(frozen=True)
class Load:
    """One step: groups × attempts answers of so many tokens (mean), behind prompts of so many."""

    groups: int = 64
    attempts: int = 8
    tokens: float = 1000.0
    prompt: float = 200.0

    def __post_init__(self) -> None:
        if min(self.groups, self.attempts) < 1 or min(self.tokens, self.prompt) <= 0:
            raise UserError("a step has at least one group, one attempt, and answers and prompts of some tokens")


@dataclass(frozen=True)
class Forecast:
    """seconds of a step (mean, without the first ones); idle: shares of samplers' slots, learners and judges."""

    seconds: float
    idle: dict[str, float]


def forecast(world: World, load: Load, ahead: int, steps: int = 16, seed: int = 0) -> Forecast:
    """The mean of the later half of `steps` steps. Deterministic."""
    free = [0.0] * (world.samplers * world.slots)
    judges = [0.0] * world.judges
    out, trained, n = [0.0], 0.0, load.groups * load.attempts
    for step in range(steps):
        gate, landed = out[max(0, step - ahead)], list[float]()
        for group in range(load.groups):
            last = 0.0
            for attempt in range(load.attempts):
                factor = world.tail(streams.key(seed, step, group, attempt))
                begin = max(heapq.heappop(free), gate)
                end = begin + world.prompt * load.prompt + world.token * load.tokens * factor
                heapq.heappush(free, end)
                last = max(last, end)
            landed.append(last)
        judged = _judged(judges, landed, world.judge * load.attempts, world.streamed)
        train = world.train * n * load.tokens / world.learners
        parts = PARTS if ahead == 0 and world.streamed else 1
        size = -(-load.groups // parts)
        for k in range(0, load.groups, size):
            mine = judged[k : k + size]
            trained = max(trained, *mine) + train * len(mine) / load.groups
        trained += world.step
        out.append(trained + world.transfer)
    half = steps // 2
    seconds = (out[-1] - out[half]) / (steps - half)
    slots = world.samplers * world.slots * seconds
    busy = {
        "samplers": n * (world.prompt * load.prompt + world.token * load.tokens) / slots,
        "learners": (world.train * n * load.tokens / world.learners + world.step) / seconds,
        "judges": world.judge * n / (world.judges * seconds),
    }
    return Forecast(seconds, {who: 1 - share for who, share in busy.items()})


def _judged(judges: list[float], landed: list[float], seconds: float, streamed: bool) -> list[float]:
    """When each group is judged: as it lands, or all once the last has."""
    done = [0.0] * len(landed)
    for at, group in sorted((t if streamed else max(landed), g) for g, t in enumerate(landed)):
        done[group] = max(heapq.heappop(judges), at) + seconds
        heapq.heappush(judges, done[group])
    return done


@dataclass(frozen=True)
class Device:
    """flops: peak, of the arithmetic in use; bandwidth: bytes a second from its memory; link: to another device."""

    flops: float = 990e12
    bandwidth: float = 3.3e12
    link: float = 50e9


def world_of(
    parameters: float, samplers: int, learners: int, device: Device, *, slots: int = 128, sigma: float = 1.0,
    group: int = 1, bytes_each: float = 2.0,
) -> World:  # fmt: skip
    """A first estimate: one decoding step reads the weights once, and computes 2 FLOPs a parameter for every slot; a
    trained token takes 6; a sampler is a group of devices that share them. Attention and the cache are left out.

    parameters  that a token uses; bytes_each: of one parameter in memory
    """
    if parameters <= 0:
        raise UserError(f"a model has some parameters, got {parameters:g}")
    size, devices = parameters * bytes_each, float(group)
    token = size / (device.bandwidth * devices) + 2 * parameters * slots / (device.flops * USED * devices)
    return World(
        samplers=samplers, learners=learners, slots=slots, token=token,
        prompt=2 * parameters / (device.flops * USED * devices), tail=Lognormal(sigma),
        train=6 * parameters / (device.flops * USED), transfer=size / (device.link * devices),
    )  # fmt: skip


def error(predicted: list[float], measured: list[float]) -> float:
    """Mean relative error of predictions, in absolute terms."""
    return mean(abs(p / m - 1) for p, m in zip(predicted, measured, strict=True))
