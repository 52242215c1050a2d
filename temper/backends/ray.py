"""Policies, environments and rewards as Ray actors: on this machine, or on a cluster that is there.

    temper run RECIPE --backend ray --samplers 2 --learners 2 [--environments 4] [--reward-actors 2] [--address auto]

`Ray.place(run)` is all that it takes: the recipe, its methods and the loop do not know.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from temper.errors import UserError
from temper.supervision import Faults, Supervisor

if TYPE_CHECKING:
    from temper.policy import Policy
    from temper.run import Run

INSTALL = "the Ray backend needs Ray: pip install 'ray>=2.50'"
CALLS = 512  # of the bus, between two snapshots
STORE = 256 * 2**20  # bytes of the object store of a cluster that is started here; weights pass through it


def installed() -> None:
    """UserError where the package is not there; nothing is imported."""
    if find_spec("ray") is None:
        raise UserError(INSTALL)


@dataclass
class Ray:
    """Where the parts of a run live, and what becomes of them when they fall.

    samplers      actors that serve each policy that plays; learners: that train each policy
    environments  actors that play (0: the driver plays); rewards: actors that judge (0: processes of the driver)
    bus           whether the data bus is an actor of its own too
    address       of a cluster that is there: "auto", or "ray://HOST:10001" ("": one is started on this machine)
    cpus          of every actor, on a cluster that is there; gpus: of every sampler and learner where it has any
    colocate      sampler n and learner n share a bundle, and its GPU
    spread        over machines, as far as there are several; else packed on as few as possible
    faults        what is done about failures
    journal       optimiser steps between two snapshots of a learner
    scratch       folder for the snapshots, shared by all machines (default: a temporary one)
    store         bytes of the object store of a cluster that is started here
    """

    samplers: int = 1
    learners: int = 1
    environments: int = 0
    rewards: int = 0
    bus: bool = False
    address: str = ""
    cpus: float = 1.0
    gpus: float = 1.0
    colocate: bool = False
    spread: bool = False
    faults: Faults = field(default_factory=Faults)
    journal: int = 16
    scratch: Path | None = None
    store: int = STORE

    def __post_init__(self) -> None:
        for name, least in (("samplers", 1), ("learners", 1), ("environments", 0), ("rewards", 0), ("journal", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
        self.supervisor = Supervisor(self.faults)
        self._started = False
        self._users: set[int] = set()
        self._crews: list[Any] = []
        self._gangs: list[Any] = []
        self._players: list[Any] = []  # crews of environments and rewards
        self._groups: list[Any] = []
        self._folder: Path | None = None

    # what a run becomes --------------------------------------------------------------------------------------------

    def place(self, run: Run) -> None:
        """Move the run's policies, environment and rewards into actors, once it is opened."""
        from temper.backends.ray_bus import RayBus
        from temper.backends.ray_pool import RayEnv, RayPool
        from temper.bus import Line
        from temper.parts.rewards import Rewards

        installed()
        for policy in run.policies.values():
            policy.backend = self
        if self.environments:
            run.env = RayEnv(run.env, self._crew("environment", "environment", run.env, self.environments))
        for stage in (*run.on_group, *run.on_batch):
            if self.rewards and isinstance(stage, Rewards) and stage.functions:
                judged = (stage.pool.functions, stage.pool.timeout)
                pool: Any = RayPool(self._crew("reward", "reward actor", judged, self.rewards))
                stage.pool = pool
        if self.bus:
            here = run.bus.bus
            run.bus = Line(RayBus(lambda: self._bus((here.consumers, here.capacity))))
        run.probes.append(Whereabouts(self))

    def open(self, policy: Policy, modules: Iterable[Any] = ()) -> tuple[Any, Any]:
        """(learner, sampler) of a policy, in actors."""
        from temper.backends.ray_learner import RayBase
        from temper.backends.ray_sampler import RaySampler
        from temper.policy import BaseOf

        if isinstance(policy, BaseOf):
            return RayBase(policy.policy.learner), _Unsampled(policy.name)
        self._connect(policy)
        for crew in self._players:  # they start while the policy does
            crew.hire()
        modules = list(modules)
        seed, bundles = torch.initial_seed(), self._bundles(policy)
        here = replace(policy, backend=None, learners=1, sharding=None)
        samplers = self.samplers if policy.trainable else 1
        crew = self._crew("sampler", f"sampler of {policy.name!r}", (here, [], seed), samplers, bundles)
        if policy.trainable:
            crew.hire()  # they start while the learner does
        learner = self._learner(policy, modules, seed, bundles)
        about = crew.open() if policy.trainable else None
        return learner, RaySampler(crew, policy.name, about or of_model(policy))

    def _learner(self, policy: Policy, modules: list[Any], seed: int, bundles: Any) -> Any:
        from temper.backends.ray_actors import LearnerBody, RankBody
        from temper.backends.ray_gang import Gang
        from temper.backends.ray_learner import RayLearner, RayRanks, RayShardedLearner
        from temper.backends.ray_pack import pack

        many = max(self.learners, policy.learners) if policy.trainable else 1
        sharded = many > 1 or (policy.trainable and policy.sharding is not None)
        here = replace(policy, backend=None, learners=1, sharding=None, engine="local", drafts=None)
        blob = b"" if sharded else pack((here, modules, seed))
        body = RankBody if sharded else LearnerBody

        def make() -> list[Any]:
            return [self._actor(body, blob, bundles(True)) for _ in range(many)]

        gang = Gang(f"learner of {policy.name!r}", make, self.supervisor, self.folder, self.journal)
        self._gangs.append(gang)
        if not sharded:
            learner = RayLearner(gang, policy.optimizer, modules)
            learner.open()
            return learner
        setup = replace(sharded_setup(policy, modules), modules=tuple(modules))
        return RayShardedLearner(setup, RayRanks(gang, policy.device, setup.sharding.timeout), policy.tokenizer)

    def _bus(self, settings: Any) -> Any:
        from temper.backends.ray_actors import BusBody
        from temper.backends.ray_gang import Gang
        from temper.backends.ray_pack import pack

        def make() -> list[Any]:
            return [self._actor(BusBody, pack(settings), {})]

        gang = Gang("bus", make, self.supervisor, self.folder, CALLS, role="bus")
        self._gangs.append(gang)
        return gang

    def _crew(self, role: str, title: str, what: Any, size: int, bundles: Any = None) -> Any:
        from temper.backends import ray_actors as bodies
        from temper.backends.ray_crew import Crew
        from temper.backends.ray_judge import RewardBody
        from temper.backends.ray_pack import pack

        body = {"sampler": bodies.SamplerBody, "environment": bodies.EnvironmentBody, "reward": RewardBody}[role]

        def make() -> Any:
            self._connect(None)
            return self._actor(body, pack(what), bundles(len(crew.present) < size) if bundles else {})

        crew = Crew(role, title, make, size, self.supervisor)
        self._crews.append(crew)
        if role != "sampler":
            self._players.append(crew)
        return crew

    def _actor(self, body: Any, blob: bytes, options: dict[str, Any]) -> Any:
        import ray

        threads = max(1, int(self.cpus)) if not self._started else torch.get_num_threads()
        remote: Any = ray.remote
        made = remote(concurrency_groups={"beat": 1})(body)
        asked = {"num_cpus": 0 if self._started else self.cpus, "max_restarts": 0, "max_task_retries": 0, **options}
        if body.__name__ not in ("LearnerBody", "RankBody", "BusBody"):
            asked["max_concurrency"] = 10_000  # coroutines
        return made.options(**asked).remote(blob, threads)

    # the cluster ---------------------------------------------------------------------------------------------------

    def _connect(self, user: Any) -> None:
        """Use the cluster that is there, or start one on this machine."""
        import ray

        if user is not None:
            self._users.add(id(user))
        if ray.is_initialized():
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not self.address:
            with environment():
                ray.init(
                    address="local",  # never somebody else's that runs here too
                    num_cpus=1,
                    include_dashboard=False,
                    object_store_memory=self.store,
                    **quiet,
                )
            self._started = True
            return
        try:
            ray.init(address=self.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            said = str(error).splitlines()[0]
            raise UserError(f"no Ray cluster answers at {self.address!r} ({said}): start one with ray start --head")

    def _bundles(self, policy: Policy) -> Callable[[bool], dict[str, Any]]:
        """Options that put an actor into a free bundle of the policy's, or (more than planned) anywhere."""
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        ray: Any = importlib.import_module("ray")
        gpus = self.gpus if ray.cluster_resources().get("GPU") and policy.device != "cpu" else 0.0
        cpus = 0.0 if self._started else self.cpus
        if not (gpus or cpus):
            return lambda planned: {}
        shared = self.colocate and policy.trainable
        samplers = self.samplers if policy.trainable else 1
        pairs = max(self.learners, samplers)
        one = {"CPU": cpus * (2 if shared else 1), "GPU": gpus}
        bundles = [{k: v for k, v in one.items() if v}] * (pairs if shared else self.learners + samplers)
        group = placement_group(bundles, strategy="SPREAD" if self.spread else "PACK")
        if not group.wait(self.faults.patience if self.faults.patience < 60 else 60):
            has, free = ray.cluster_resources(), ray.available_resources()
            have = ", ".join(f"{free.get(k, 0):g} of {has.get(k, 0):g} {k} free" for k in ("CPU", "GPU") if has.get(k))
            wants = ", ".join(f"{sum(b.get(k, 0) for b in bundles):g} {k}" for k in ("CPU", "GPU") if k in bundles[0])
            remove_placement_group(group)
            raise UserError(
                f"policy {policy.name!r} needs {wants} for {self.learners} learners and {samplers} samplers, and the "
                f"cluster has {have}: fewer actors, or fewer --actor-cpus"
            )
        self._groups.append(group)

        def options(planned: bool) -> dict[str, Any]:
            share = gpus / 2 if shared else gpus
            where = {"scheduling_strategy": PlacementGroupSchedulingStrategy(group)} if planned else {}
            return {"num_cpus": cpus, "num_gpus": share, **where}

        return options

    @property
    def folder(self) -> Path:
        """Where learners keep their snapshots."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="temper-", dir=self.scratch))
        return self._folder

    def release(self, policy: Policy) -> None:
        """A policy is closed; with the last one everything here ends."""
        self._users.discard(id(policy))
        if self._users:
            return
        import ray

        for part in (*self._crews, *self._gangs):
            part.close()
        self._crews.clear()
        self._gangs.clear()
        for group in self._groups:
            ray.util.remove_placement_group(group)
        self._groups.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._started:
            ray.shutdown()
            self._started = False

    def where(self) -> list[dict[str, Any]]:
        """{"who", "host", "pid", "gpus"} of every actor that serves."""
        lines = [line for gang in self._gangs for line in gang.lines]
        lines += [m.line for crew in self._crews for m in crew.members]
        return [
            {"who": line.name, **{k: line.about[k] for k in ("host", "pid", "gpus")}} for line in lines if line.about
        ]


def of_model(policy: Policy) -> dict[str, Any]:
    """What samplers of a policy say about its model, before there is one."""
    return {"context": 1 << 30, "end": (), "vocabulary": 1 << 30}


def sharded_setup(policy: Policy, modules: list[Any]) -> Any:
    """What the ranks of a policy are opened with. Terms' own parameters are built here, as they are in one process."""
    from temper.backends.fsdp import setup_of
    from temper.models import load

    random = torch.get_rng_state()
    if modules:
        module = load.load_model(policy.model, dtype=policy.dtype, device="cpu", lora=policy.lora)
        for m in modules:
            if hasattr(m, "build"):
                m.build(load.hidden_width(module))
            if policy.dtype == "float64":
                m.double()
    return setup_of(policy, modules, random)


@contextlib.contextmanager
def environment(alone: bool = True) -> Iterator[None]:
    """What a cluster that is started here inherits: its processes find the packages that this one finds.

    alone  it listens to this machine only, as Ray does by itself where it has no clusters (macOS, Windows)
    """
    from ray._private import ray_constants

    paths = [p for p in dict.fromkeys([str(Path(__file__).parents[2]), *sys.path]) if p]
    given = {"PYTHONPATH": os.pathsep.join(paths), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if alone:
        given[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, not alone
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Unsampled:
    """The base of a LoRA policy is read where the policy learns, and not sampled."""

    def __init__(self, name: str):
        self.name = name

    async def sample(self, *args: Any) -> Any:
        raise UserError(
            f"{self.name!r} is a LoRA policy's own base, which is not sampled on Ray: give it a model of its own"
        )

    load = sample


@dataclass
class Whereabouts:
    """Says once who is where, keeps it in placement.json, and counts what fell."""

    ray: Ray = field(repr=False)

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        import json

        found = self.ray.where()
        if run.out is not None:
            supervisor = self.ray.supervisor
            supervisor.path = Path(run.out) / "events.jsonl"
            (Path(run.out) / "placement.json").write_text(json.dumps(found, indent=1) + "\n")
        if step == 0:
            print("\n".join(summary(found)), flush=True)
        return {f"faults/{role}/{action}": float(n) for (role, action), n in self.ray.supervisor.counts.items()}


def summary(found: list[dict[str, Any]]) -> list[str]:
    """One line a machine."""
    hosts: dict[str, list[str]] = {}
    for each in found:
        gpus = f" gpu {','.join(map(str, each['gpus']))}" if each["gpus"] else ""
        hosts.setdefault(each["host"], []).append(f"{each['who']} ({each['pid']}{gpus})")
    return [f"ray  {host}: {', '.join(who)}" for host, who in hosts.items()]
