"""`temper plan`: seconds of a step and idle shares for devices that nobody has yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path


def plan(
    parameters: float = 7.0,
    samplers: int = 8,
    learners: int = 8,
    groups: int = 64,
    attempts: int = 8,
    tokens: int = 2000,
    prompt: int = 300,
    sigma: float = 0.8,
    slots: int = 128,
    group: int = 1,
    staleness: tuple[int, ...] = (0, 1, 2, 4),
    tflops: float = 990.0,
    bandwidth: float = 3300.0,
    link: float = 50.0,
    latencies: Path | None = None,
    seed: int = 0,
) -> int:
    """What a step of asynchronous training would take, by staleness.

    parameters  billions that a token uses
    samplers    replicas that sample; group: devices of one replica; slots: answers that it decodes at once
    learners    devices that train
    groups      tasks in a step; attempts: answers to each
    tokens      of an answer, mean; sigma: of its lognormal duration (0.8: one in a hundred takes 4.7 times the mean)
    prompt      tokens before it
    staleness   how many updates old rows may be; several are compared
    tflops      peak of one device; bandwidth: of its memory, in GB/s; link: between devices, in GB/s
    latencies   a run directory: durations spread as its attempts' did, instead of sigma
    seed        of the durations that are drawn
    """
    from temper.simulate.measured import Measured
    from temper.simulate.plan import Device, Load, forecast, world_of

    device = Device(tflops * 1e12, bandwidth * 1e9, link * 1e9)
    world = world_of(parameters * 1e9, samplers, learners, device, slots=slots, sigma=sigma, group=group)
    if latencies is not None:
        world = replace(world, tail=Measured.of(latencies).latencies)
    load = Load(groups, attempts, tokens, prompt)
    print(f"{'staleness':>9}  {'s a step':>9}  {'speed':>6}  {'samplers idle':>13}  {'learners idle':>13}")
    first = None
    for ahead in staleness:
        f = forecast(world, load, ahead, seed=seed)
        first = first or f.seconds
        speed, idle = first / f.seconds, f.idle
        print(f"{ahead:>9}  {f.seconds:>9.1f}  {speed:>5.2f}×  {idle['samplers']:>13.0%}  {idle['learners']:>13.0%}")
    return 0
