"""Options that say where the parts of a run live; they are the same for every recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from temper.errors import UserError
from temper.recipe import signature
from temper.supervision import Faults

if TYPE_CHECKING:
    from temper.run import Run


def backend(
    *,
    backend: Literal["local", "ray"] = "local",
    learners: int = 1,
    samplers: int = 1,
    environments: int = 0,
    reward_actors: int = 0,
    bus_actor: bool = False,
    address: str = "",
    actor_cpus: float = 1.0,
    colocate: bool = False,
    spread: bool = False,
    faults: tuple[str, ...] = (),
    restarts: int = 3,
    patience: float = 600.0,
    silence: float = 60.0,
    journal: int = 16,
    scratch: Path | None = None,
) -> None:
    """Where the parts of a run live.

    backend        local: in this process; ray: in actors, of a cluster on this machine or of the one at --address
    learners       processes that share each policy's weights, gradients and optimiser (FSDP2)
    samplers       with ray: actors that serve each policy
    environments   with ray: actors that play (0: in this process)
    reward_actors  with ray: actors that judge (0: in processes of this machine)
    bus_actor      with ray: the data bus in an actor of its own
    address        with ray: of a cluster that is there, as in auto, or ray://HOST:10001
    actor_cpus     with ray: CPUs that each actor claims of it
    colocate       with ray: a sampler and a learner share each GPU
    spread         with ray: actors over as many machines as there are (else on as few as possible)
    faults         with ray: what happens when an actor dies, where it is not restarted in place, as in learner=again
                   (the run starts again from its last checkpoint), or environment=skip
    restarts       with ray: in place, of one role within ten minutes; one more starts the run again
    patience       with ray: seconds that a wait for an actor may take
    silence        with ray: seconds without a heartbeat after which an actor is taken for dead
    journal        with ray: optimiser steps between two snapshots of a learner, which a new one makes again
    scratch        with ray: folder for these snapshots, which all machines share (default: in the run directory; on a
                   cluster of this machine a temporary one)
    """


OPTIONS = signature(backend)


def place(phases: list[Run], own: Mapping[str, Any]) -> None:
    """Put the phases where the options say. UserError for options of no effect."""
    given = {o.name: own[o.name] for o in OPTIONS if o.name in own}
    if given.pop("backend", "local") == "local":
        idle = [o.flag for o in OPTIONS if o.name in given and o.name != "learners"]
        if idle:
            raise UserError(f"{idle[0]} has no effect in one process: add --backend ray")
        for phase in phases:
            for each in phase.policies.values():
                if each.trainable and "learners" in given:
                    each.learners = given["learners"]
        return
    from temper.backends.ray import Ray

    names = {"reward_actors": "rewards", "bus_actor": "bus", "actor_cpus": "cpus"}
    policy: Faults = faults(
        given.pop("faults", ()), **{k: given.pop(k) for k in ("restarts", "patience", "silence") if k in given}
    )
    settings = Ray(**{names.get(k, k): v for k, v in given.items()}, faults=policy)
    for phase in phases:
        replace(settings).place(phase)


def faults(words: tuple[str, ...], **limits: Any) -> Faults:
    """Of "role=action" words, dashes for spaces."""
    pairs = [w.partition("=") for w in words]
    return Faults({role: action.replace("-", " ") for role, _, action in pairs}, **limits)
