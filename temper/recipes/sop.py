"""A fleet of actors in a grid world in words, with an expert who takes over: online and offline decisions, mixed."""

from __future__ import annotations

from pathlib import Path

from temper import streams
from temper.backends.base import AdamW, SamplingParams
from temper.methods.rollouts.sop import sop as method
from temper.objective import Update
from temper.parts.schedules import WarmUp
from temper.policy import Policy
from temper.robots.actor import GRIDS
from temper.robots.fleet import Fleet
from temper.robots.grid import Grid
from temper.robots.sources import TwoSources
from temper.robots.storage import Step
from temper.run import Run


def sop(
    model: str = "temper-tiny",
    actors: int = 2,
    stepped: float = 1.0,
    pause: float = 0.1,
    folder: Path | None = None,
    tasks: tuple[str, ...] = ("reach",),
    offline: int = 16,
    alpha: float = 2.0,
    window: int = 50,
    low: float = 0.2,
    high: float = 0.8,
    fixed: float | None = None,
    steps: int = 100,
    groups: int = 32,
    lr: float = 1e-3,
    device: str = "auto",
    eval_every: int = 10,
    save_every: int = 0,
    seed: int = 0,
) -> Run:
    """Actors stream episodes, an expert's corrections are imitated beside old demonstrations (HG-DAgger in SOP, 2026).

    model       a bundled name, a directory in Hugging Face format, or a hub id
    actors      processes that play
    stepped     episodes that each actor plays for every step of training, in this process (0: actors are processes)
    pause       seconds that an episode of a process takes at least
    folder      between actors and learner: weights one way, episodes the other (default: a temporary one)
    tasks       reach, or mirror, where left and right are exchanged
    offline     demonstrated episodes of each task to begin with; of mirror they were made before it was mirrored
    alpha       how much more an online loss counts in the share of online decisions
    window      steps that a loss is remembered
    low, high   bounds of that share
    fixed       that share, whatever the losses are (default: by the losses)
    steps       of training
    groups      decisions in a step
    lr          peak learning rate
    device      cpu, cuda, or auto: one GPU where there is one
    eval_every  steps between looks at how often the policy succeeds alone
    save_every  steps between checkpoints (0: only at the end)
    seed        of everything that is drawn
    """
    policy = Policy(model=model, optimizer=AdamW(lr=WarmUp(lr, 5)), device=device)
    grids = [GRIDS[t] for t in tasks]
    fleet = Fleet(grids, actors, model, stepped, pause, folder, eval_every, seed)
    old = {g.name: demonstrated(g, offline, seed) for g in grids}
    sources = TwoSources(old, fleet, alpha, window, low, high, fixed, seed)
    m = method(policy, sources=sources)
    assert m.env is not None
    return Run(
        name="sop", env=m.env, curriculum=sources, roles={"solver": policy}, on_group=m.on_group, on_batch=m.on_batch,
        updates=[Update(policy, m.terms)], probes=[fleet], steps=steps, groups=groups, seed=seed, threads=1,
        sampling=SamplingParams(max_tokens=1), save_every=save_every,
    )  # fmt: skip


def demonstrated(grid: Grid, episodes: int, seed: int) -> list[Step]:
    """The expert's decisions in the world as it was before anything was mirrored."""
    before, steps = Grid(grid.name, grid.size, grid.horizon), list[Step]()
    rng = streams.generator(seed, "demonstrated", grid.name)
    for _ in range(episodes):
        at, goal = before.starts()[int(rng.integers(len(before.starts())))]
        while at != goal:
            steps.append(Step(before.prompt(at, goal), before.expert(at, goal), "expert"))
            at = before.after(at, steps[-1].move)
    return steps
