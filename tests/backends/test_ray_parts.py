"""What the Ray backend decides without a cluster: places, snapshots, who is waited for. Nothing is started here."""

from __future__ import annotations

import asyncio
import socket
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from studies import kills
from temper.backends.base import Lora
from temper.backends.ray import Ray
from temper.backends.ray_actors import listening
from temper.backends.ray_crew import Crew
from temper.backends.ray_gang import Gang
from temper.errors import UserError
from temper.fleet import Replica
from temper.policy import Policy
from temper.supervision import Faults, Lost, StartAgain, Supervisor, started_again


class Cluster:
    """What `ray` says of one, and the placement groups that it was asked for."""

    def __init__(self, has: dict[str, float], roomy: bool = True):
        self.has, self.roomy = has, roomy
        self.asked: list[list[dict[str, float]]] = []

    def placement_group(self, bundles: list[dict[str, float]], strategy: str) -> Any:
        self.asked.append(bundles)
        return types.SimpleNamespace(wait=lambda seconds: self.roomy)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cluster]:
    def made(has: dict[str, float], roomy: bool = True) -> Cluster:
        there = Cluster(has, roomy)
        fakes: dict[str, dict[str, Any]] = {
            "ray": {"cluster_resources": lambda: has, "available_resources": lambda: has, "__path__": [],
                    "__spec__": ModuleSpec("ray", None)},
            "ray.util": {"__path__": []},
            "ray.util.placement_group": {
                "placement_group": there.placement_group, "remove_placement_group": lambda group: None,
            },
            "ray.util.scheduling_strategies": {"PlacementGroupSchedulingStrategy": lambda group: group},
        }  # fmt: skip
        for name, content in fakes.items():
            module = types.ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
        return there

    return made


class Fleeting:
    """A Ray backend whose actors are noted, not made: {role: options of each}."""

    def __init__(self, ray: Ray, monkeypatch: pytest.MonkeyPatch):
        self.ray = ray
        self.made: list[tuple[str, dict[str, Any]]] = []
        monkeypatch.setattr(ray, "_actor", lambda body, blob, options: self.made.append((body.__name__, options)))
        monkeypatch.setattr(ray, "_connect", lambda user: None)

    def open(self, policy: Policy) -> Any:
        """The crew of its samplers, as far as `open` comes before it waits for actors."""
        with pytest.raises(_Waits):
            self.ray.open(policy)
        return self.ray._crews[-1]


class _Waits(Exception):
    pass


@pytest.mark.parametrize(
    ("given", "policy", "learners", "samplers"),
    [
        ({"samplers": 8, "learners": 8}, Policy(), 8, 8),
        ({"samplers": 8, "learners": 8}, Policy(name="reference", trainable=False), 1, 0),
        ({}, Policy(learners=4), 4, 1),
        ({"samplers": 2, "learners": 2}, Policy(learners=4), 4, 2),
    ],
)
def test_what_is_reserved_is_what_is_started(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    given: dict[str, Any], policy: Policy, learners: int, samplers: int,
) -> None:  # fmt: skip
    there = cluster({"GPU": 16, "CPU": 128})
    ray = Ray(**given, scratch=tmp_path)
    fleeting = Fleeting(ray, monkeypatch)

    def waits(*args: Any, **options: Any) -> None:
        raise _Waits

    monkeypatch.setattr(Gang, "open", waits)
    monkeypatch.setattr(Policy, "tokenizer", None)
    crew = fleeting.open(policy)
    assert [len(bundles) for bundles in there.asked] == [learners + samplers] == [len(fleeting.made)]
    assert all(options["num_gpus"] == 1 for _, options in fleeting.made)
    crew.hire()  # as when it is first asked for a sample: a frozen policy's claims its place now
    assert sum(map(len, there.asked)) == learners + (samplers or 1) == len(fleeting.made)


def test_colocated_actors_share_bundles_and_cpus_alone_are_claimed_without_gpus(cluster: Any) -> None:
    there = cluster({"GPU": 16, "CPU": 128})
    Ray(samplers=2, learners=4, colocate=True)._bundles(Policy(), 4, 2)
    Ray(samplers=2)._bundles(Policy(device="cpu"), 1, 2)
    assert there.asked == [[{"CPU": 2, "GPU": 1}] * 4, [{"CPU": 1}] * 3]


def test_a_run_that_has_no_place_says_so_before_it_waits(cluster: Any, tmp_path: Path) -> None:
    """The whole run is counted, with its reference; the group that is not met says what it lacks."""
    there = cluster({"GPU": 16, "CPU": 128}, roomy=False)
    run = kills.made("temper-tiny", tmp_path / "run", 1)
    policy = run.updates[0].policy
    lora = Policy("adapted", lora=Lora())
    run.others = [Policy("reference", trainable=False), lora, lora.reference("base")]
    ray = Ray(samplers=8, learners=8, environments=2, bus=True)
    said: list[str] = []
    ray.supervisor.say = lambda text: said.append(f"{len(there.asked)}: {text}")
    ray.place(run)
    with pytest.raises(
        UserError, match=r"'policy' needs 16 CPU, 16 GPU for 8 learners and 8 samplers, and the cluster "
    ):
        ray._bundles(policy, 8, 8)
    assert said == [
        "0: this run needs 36 CPU, 33 GPU (8 learners and 8 samplers of 'policy'; 1 learner of 'reference'; 8 learners "
        "and 8 samplers of 'adapted'; 2 environments; 1 bus), and the cluster has 128 CPU, 16 GPU: it waits up to a "
        "minute for more"
    ]
    cluster({"GPU": 64, "CPU": 128})
    fitting = Ray(samplers=8, learners=8)
    fitting.supervisor.say = said.append
    fitting.place(kills.made("temper-tiny", None, 1))
    fitting._bundles(policy, 8, 8)
    assert len(said) == 1


# snapshots ------------------------------------------------------------------------------------------------------------


def test_snapshots_lie_in_the_run_where_machines_are_there(tmp_path: Path) -> None:
    run = kills.made("temper-tiny", tmp_path / "run", 1)
    left = tmp_path / "run/.scratch/of-a-driver-that-was-killed"
    left.mkdir(parents=True)
    ray = Ray(address="auto")
    ray._run = run
    assert ray.folder == tmp_path / "run/.scratch" and ray.folder.stat().st_mode & 0o77 == 0 and not left.exists()
    own = Ray()
    own._run, own._started = run, True  # one machine: it need not be the run's folder, which may be slow
    other = Ray(scratch=tmp_path / "fast/disk")
    other._run = run
    assert other.folder.parent == tmp_path / "fast/disk" and tmp_path not in own.folder.parents
    own.folder.rmdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"no snapshots can be kept in .*file.*: give --scratch"):
        _ = Ray(scratch=tmp_path / "file/in").folder


class FakeLine:
    """An actor with one number, on a machine that sees `root` at `mount` (None: not at all)."""

    def __init__(self, name: str, root: Path, mount: Path | None):
        self.name, self.root, self.mount = name, root, mount
        self.about: dict[str, Any] = {}
        self.number, self.dead = 0, False

    def ask(self, method: str, *args: Any) -> Any:
        return method, args

    def result(self, ref: Any, faults: Faults, what: str, seconds: float | None = None) -> Any:
        if self.dead:
            raise Lost(self.name, "killed")
        method, args = ref
        return getattr(self, f"do_{method}")(*args)

    def end(self) -> None:
        pass

    def _there(self, folder: str) -> Path:
        return (self.mount or Path("/not/there")) / Path(folder).relative_to(self.root)

    def do_about(self) -> dict[str, Any]:
        return {"host": "elsewhere"}

    def do_sees(self, folder: str) -> bool:
        return self._there(folder).is_dir()

    def do_apply(self, op: int, change: int) -> int:
        self.number += change
        return self.number

    def do_save(self, folder: str) -> None:
        (self._there(folder) / "state").write_text(str(self.number))

    def do_renew(self, op: int, folder: str) -> None:
        self.number = int((self._there(folder) / "state").read_text())


def gang(tmp_path: Path, *mounts: Path | None) -> Gang:
    """Each new gang finds itself on the machine with the next mount."""
    left = list(mounts)
    made = Gang.__new__(Gang)

    def hire() -> None:
        made.lines = [FakeLine("learner of 'policy' 0", tmp_path, left.pop(0))]  # type: ignore[list-item]

    made.hire = hire  # type: ignore[method-assign]
    made.__init__("learner of 'policy'", lambda: [], Supervisor(), tmp_path, 2)  # type: ignore[misc]
    return made


def test_a_machine_that_does_not_see_the_scratch_folder_is_named_at_once(tmp_path: Path) -> None:
    why = (
        rf"learner of 'policy' 0 \(on elsewhere\) does not see {tmp_path}: give one that all machines share: --scratch"
    )
    with pytest.raises(UserError, match=why):
        gang(tmp_path, None).open()
    there = gang(tmp_path, tmp_path)
    there.open()
    there.lines[0].mount = None  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"does not see .*checkpoint: --out must be a folder that all machines share"):
        from temper.backends.ray_learner import opened

        opened(there, tmp_path / "checkpoint")


def test_a_snapshot_that_is_gone_starts_the_run_again_from_its_last_checkpoint(tmp_path: Path) -> None:
    """The restart is remembered, and says which folder was not there; a snapshot that is there is taken up."""
    there = gang(tmp_path, tmp_path, tmp_path, tmp_path)
    there.open()
    assert [there.change("count", n)[0] for n in (1, 2, 3)] == [1, 3, 6]  # a snapshot after two
    there.lines[0].dead = True  # type: ignore[attr-defined]
    assert there.change("count", 4) == [10]
    [snapshot] = [p for p in tmp_path.iterdir() if p.is_dir()]
    (snapshot / "state").unlink()
    there.lines[0].dead = True  # type: ignore[attr-defined]
    said: list[str] = []

    def run(resume: bool) -> str:
        return "resumed" if resume else there.ask("count", "apply", 9, 1)[0]

    assert started_again(run, Faults(), lambda: "run/checkpoints/step_10", said.append) == "resumed"
    assert there.supervisor.events[-1]["action"] == "again"
    [line] = said
    assert line.startswith("learner of 'policy' is lost (its snapshot ") and str(snapshot) in line
    assert line.endswith("starting again from run/checkpoints/step_10")
    with pytest.raises(StartAgain):
        there.lines[0].dead = True  # type: ignore[attr-defined]
        gone = gang(tmp_path, tmp_path)
        gone._snapshot = (1, tmp_path / "nowhere")
        gone._recall()


def test_a_port_is_held_from_the_moment_that_it_is_told() -> None:
    with listening("127.0.0.1") as door, socket.socket() as other:
        host, port = door.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(OSError):
            other.bind((host, port))


# fleets that grow and shrink ------------------------------------------------------------------------------------------


def crew_of(size: int, names: list[str]) -> Crew:
    """Members that serve, on no actors; who is made later is noted in `names`."""

    def make() -> Any:
        names.append(f"actor {len(names)}")
        return types.SimpleNamespace()

    crew = Crew("sampler", "sampler", make, size, Supervisor())
    crew.supervisor.say = lambda text: None
    for member in crew.hire():
        crew.admit(member, {"context": 99, "end": (), "vocabulary": 99})
    return crew


def test_a_member_that_leaves_is_not_replaced_also_when_it_falls_meanwhile() -> None:
    made: list[str] = []
    crew = crew_of(2, made)
    first, second = crew.members
    crew.retire(first)
    assert crew.hire() == [] and crew.size == 1
    crew.fell(first, Lost(first.name, "killed"))
    crew.dismiss(first)  # late: it is gone already
    assert crew.members == [second] and crew.size == 1 and len(made) == 2
    assert [(e["action"], e["why"]) for e in crew.supervisor.events] == [("skip", "killed, while it was leaving")]
    assert crew.supervisor.faults.restarts == 3 and not crew.supervisor._restarts.get("sampler")


class Growing:
    """A crew and a sampler that join and leave in a moment."""

    def __init__(self, size: int):
        self.crew: Any = types.SimpleNamespace(size=size, planned=size, faults=Faults(beat=0.01))
        self.replicas = [Replica(None, n) for n in range(size)]
        self.log: list[Any] = []

    async def grow(self, count: int) -> None:
        self.crew.size += count
        await asyncio.sleep(0.01)
        self.replicas += [Replica(None, 10 + n) for n in range(count)]
        self.log.append(("grow", count))

    async def shrink(self, number: int) -> None:
        self.crew.size -= 1
        await asyncio.sleep(0.01)
        self.replicas = [r for r in self.replicas if r.number != number]
        self.log.append(("shrink", number))


def test_wishes_are_taken_up_between_steps_and_the_last_one_counts(tmp_path: Path) -> None:
    from temper.backends.ray_scale import FILE, Scale, taken, wish

    run: Any = types.SimpleNamespace(out=tmp_path)
    sampler, said = Growing(2), list[str]()
    room = {"why": ""}
    serving: Any = lambda: [(Policy(), sampler)]  # noqa: E731

    async def go() -> None:
        scale = Scale(serving, lambda policy, more: room["why"] if more > 0 else "", said.append)
        assert not scale.plays  # the run does not become quiet for it
        await scale(run, 0)
        assert not scale._changing
        wish(tmp_path, 4)
        await scale(run, 1)
        assert not (tmp_path / FILE).exists()
        await asyncio.sleep(0)
        wish(tmp_path, 1)  # while the others still join
        await scale(run, 2)
        await asyncio.gather(*scale._changing.values())
        assert sampler.log == [("grow", 2), ("shrink", 11), ("shrink", 10), ("shrink", 1)]
        room["why"] = "8 more need 8 GPU, and the cluster has 1 of 16 GPU free"
        wish(tmp_path, 10)
        await scale(run, 3)
        await asyncio.gather(*scale._changing.values())
        await scale.aclose()

    asyncio.run(go())
    assert said == ["'policy' has 1 sampler now", f"'policy' keeps its 1 sampler: {room['why']}"]
    (tmp_path / FILE).write_text("{nonsense")
    assert taken(tmp_path / FILE) == 0 and not (tmp_path / FILE).exists()


def test_room_for_more_is_what_the_cluster_has_free(cluster: Any) -> None:
    cluster({"GPU": 3, "CPU": 128})
    assert Ray().room(Policy(), 3) == "" == Ray().room(Policy(), 0)
    assert Ray().room(Policy(), 4) == (
        "4 more need 4 CPU, 4 GPU, and the cluster has 128 of 128 CPU free, 3 of 3 GPU free"
    )
