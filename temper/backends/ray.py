"""Policies, environments and rewards as Ray actors: on this machine, or on a cluster that is there.

    temper run RECIPE --backend ray --samplers 2 --learners 2 [--environments 4] [--reward-actors 2] [--address auto]

`Ray.place(run)` is all that it takes: the recipe, its methods and the loop do not know.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from temper.backends.ray_places import actors, bundles_of, counted, fits, free_words, total, words
from temper.errors import UserError
from temper.supervision import Faults, Supervisor

if TYPE_CHECKING:
    from temper.policy import Policy
    from temper.run import Run

INSTALL = "the Ray backend needs Ray: pip install 'ray>=2.50'"
CALLS = 512  # of the bus, between two snapshots
SCRATCH = ".scratch"  # in the run directory
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
    scratch       folder for the snapshots, shared by all machines (default: the run's own folder; a temporary one where
                  the run has none, or the cluster is started here)
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
        self._served: list[tuple[Policy, Any]] = []  # those that are trained, with their samplers
        self._players: list[Any] = []  # crews of environments and rewards
        self._groups: list[Any] = []
        self._folder: Path | None = None
        self._run: Run | None = None
        self._told = False  # whether what the whole run needs was compared with the cluster

    # what a run becomes --------------------------------------------------------------------------------------------

    def place(self, run: Run) -> None:
        """Move the run's policies, environment and rewards into actors, once it is opened."""
        from temper.backends.ray_bus import RayBus
        from temper.backends.ray_pool import RayEnv, RayPool
        from temper.backends.ray_scale import Scale
        from temper.bus import Line
        from temper.parts.rewards import Rewards

        installed()
        self._run = run
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
        run.probes += [Whereabouts(self), Scale(lambda: self._served, self.room, self.supervisor.say)]

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
        learners, samplers = self._sizes(policy)
        seed, bundles = torch.initial_seed(), self._bundles(policy, learners, samplers)
        here = replace(policy, backend=None, learners=1, sharding=None)
        served = bundles if samplers else self._later(policy)
        crew = self._crew("sampler", f"sampler of {policy.name!r}", (here, [], seed), samplers or 1, served)
        if policy.trainable:
            crew.hire()  # they start while the learner does
        learner = self._learner(policy, modules, seed, learners, bundles)
        about = crew.open() if policy.trainable else None
        sampler = RaySampler(crew, policy.name, about or of_model(policy))
        self._served += [(policy, sampler)] if policy.trainable else []
        return learner, sampler

    def _learner(self, policy: Policy, modules: list[Any], seed: int, many: int, bundles: Any) -> Any:
        from temper.backends.ray_actors import LearnerBody, RankBody
        from temper.backends.ray_gang import Gang
        from temper.backends.ray_learner import RayLearner, RayRanks, RayShardedLearner
        from temper.backends.ray_pack import pack

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

    def _sizes(self, policy: Policy) -> tuple[int, int]:
        """How many learners and samplers start with a policy; a frozen one is sampled from when it is first asked."""
        return (max(self.learners, policy.learners), self.samplers) if policy.trainable else (1, 0)

    def _claims(self, policy: Policy) -> tuple[float, float]:
        """CPUs and GPUs of each of a policy's actors."""
        ray: Any = importlib.import_module("ray")
        gpus = self.gpus if ray.cluster_resources().get("GPU") and policy.device != "cpu" else 0.0
        return (0.0 if self._started else self.cpus), gpus

    def _later(self, policy: Policy) -> Callable[[bool], dict[str, Any]]:
        """`_bundles` for the sampler of a frozen policy, claimed when it is first asked for."""
        claimed = functools.cache(lambda: self._bundles(policy, 0, 1))
        return lambda planned: claimed()(planned)

    def _bundles(self, policy: Policy, learners: int, samplers: int) -> Callable[[bool], dict[str, Any]]:
        """Options that put an actor into a free bundle of the policy's, or (more than planned) anywhere.

        UserError when the cluster has no room for them within a minute.
        """
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        ray: Any = importlib.import_module("ray")
        self._compare(ray.cluster_resources())
        cpus, gpus = self._claims(policy)
        shared = self.colocate and policy.trainable
        bundles = bundles_of(learners, samplers, cpus, gpus, shared)
        if not bundles:
            return lambda planned: {}
        group = placement_group(bundles, strategy="SPREAD" if self.spread else "PACK")
        if not group.wait(min(self.faults.patience, 60)):
            have = free_words(ray.available_resources(), ray.cluster_resources())
            remove_placement_group(group)
            raise UserError(
                f"policy {policy.name!r} needs {words(total(bundles))} for {actors(learners, samplers)}, and the "
                f"cluster has {have}: fewer actors, fewer --actor-cpus, or --colocate"
            )
        self._groups.append(group)

        def options(planned: bool) -> dict[str, Any]:
            share = gpus / 2 if shared else gpus
            where = {"scheduling_strategy": PlacementGroupSchedulingStrategy(group)} if planned else {}
            return {"num_cpus": cpus, "num_gpus": share, **where}

        return options

    def _compare(self, has: Mapping[str, float]) -> None:
        """Say once, before anything is waited for, when the run needs more than the whole cluster has."""
        if self._run is None or self._told:
            return
        self._told, wanted, who = True, [], []
        playing = list(self._run.roles.values())
        for policy in self._run.policies.values():
            learners, samplers = self._sizes(policy)
            samplers = samplers or int(any(policy is p for p in playing))
            if not hasattr(policy, "policy"):  # the base of a LoRA policy lives in its actors
                shared = self.colocate and policy.trainable
                wanted += bundles_of(learners, samplers, *self._claims(policy), shared)
                who.append(f"{actors(learners, samplers)} of {policy.name!r}")
        others = {"environment": self.environments, "reward actor": self.rewards, "bus": int(self.bus)}
        wanted += bundles_of(0, sum(others.values()), 0.0 if self._started else self.cpus, 0.0)
        who += [counted(n, what) for what, n in others.items() if n]
        if not fits(total(wanted), has):
            self.supervisor.say(
                f"this run needs {words(total(wanted))} ({'; '.join(who)}), and the cluster has "
                f"{words(has) or 'none of it'}: it waits up to a minute for more"
            )

    def room(self, policy: Policy, more: int) -> str:
        """Why so many further samplers of a policy have no place; "" when they have."""
        ray: Any = importlib.import_module("ray")
        cpus, gpus = self._claims(policy)
        wanted = total(bundles_of(0, more, cpus, gpus / 2 if self.colocate else gpus))
        if fits(wanted, free := ray.available_resources()):
            return ""
        return f"{more} more need {words(wanted)}, and the cluster has {free_words(free, ray.cluster_resources())}"

    @property
    def folder(self) -> Path:
        """Where learners and the bus keep their snapshots."""
        if self._folder is None:
            out = self._run.out if self._run is not None and not self._started else None
            try:
                self._folder = _in_run(Path(out)) if self.scratch is None and out else _beneath(self.scratch)
            except OSError as error:
                raise UserError(f"no snapshots can be kept in {self.scratch or out} ({error.strerror}): give --scratch")
        return self._folder

    def release(self, policy: Policy) -> None:
        """A policy is closed; with the last one everything here ends."""
        self._users.discard(id(policy))
        if self._users:
            return
        import ray

        for part in (*self._crews, *self._gangs):
            part.close()
        for parts in (self._crews, self._gangs, self._served):
            parts.clear()
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


def _in_run(out: Path) -> Path:
    """A folder in the run directory; what a driver that was killed left there goes."""
    folder = out.absolute() / SCRATCH
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    return folder


def _beneath(scratch: Path | None) -> Path:
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="temper-", dir=scratch)).absolute()


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
    plays = False

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
