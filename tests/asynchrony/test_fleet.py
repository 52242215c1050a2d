"""Replicas: where they change their weights, join, leave and fall; samples that are cut and go on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
import torch

from temper import fleet as fleets
from temper.backends.base import Ack, Gone, SamplingParams
from temper.backends.local_sampler import LocalSampler
from temper.backends.own import OwnSampler
from temper.episode import Completion
from temper.errors import UserError
from temper.fleet import OLDEST, Fleet, Torn, visiting
from temper.models import load
from temper.simulate.clock import VirtualLoop
from temper.sync import SYNC, Sync

PARAMS = SamplingParams(max_tokens=10)
WEIGHTS = {"w": torch.zeros(2)}


class Counting:
    """Draws one token a second: its number in the answer. Notes what it served, and when it changed."""

    def __init__(self) -> None:
        self.version, self.loads, self.going = -1, list[tuple[float, int]](), dict[asyncio.Future[bool], None]()
        self.lost = False

    async def sample(self, ids: tuple[int, ...], params: SamplingParams) -> Completion:
        loop = asyncio.get_running_loop()
        began, end = loop.time(), loop.create_future()
        self.going[end] = None
        left = params.max_tokens - params.begun
        timer = loop.call_later(left, lambda: end.done() or end.set_result(True))
        whole = await end
        timer.cancel()
        del self.going[end]
        if self.lost:
            raise Gone("fell")
        n = left if whole else int(loop.time() - began + 1e-6)
        said = tuple(range(params.begun, params.begun + n))
        return Completion(said, tuple(-1.0 - i for i in said), "length" if whole else "abort", self.version)

    async def abort(self) -> None:
        for end in list(self.going):
            if not end.done():
                end.set_result(False)

    async def load(self, weights: Any, version: int) -> Ack:
        from temper.backends.base import fingerprint

        self.version = version
        self.loads.append((asyncio.get_running_loop().time(), version))
        return Ack(version, fingerprint(weights.items()))


def in_virtual_time(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


async def at(seconds: float, work: Coroutine[Any, Any, Any]) -> Any:
    await asyncio.sleep(seconds)
    return await work


async def served(sync: Sync, *, second: float = 4.0) -> tuple[list[Completion], list[Counting], float]:
    """Two replicas, each with a sample from 0 to 10 s; new weights at 4 s; another sample asked for at 5 s."""
    samplers = [Counting(), Counting()]
    fleet = Fleet(samplers, sync=sync)  # type: ignore[arg-type]
    OLDEST.set({"policy": 0})
    await fleet.load(WEIGHTS, 0)
    samples = [asyncio.ensure_future(fleet.sample((1,), PARAMS)) for _ in range(2)]
    samples.append(asyncio.ensure_future(at(5.0, fleet.sample((1,), PARAMS))))
    await asyncio.sleep(second)
    await fleet.load(WEIGHTS, 1)
    waited = asyncio.get_running_loop().time() - second
    done = await asyncio.gather(*samples)
    await asyncio.sleep(50)
    await fleet.aclose()
    return done, samplers, waited


def test_blocking_waits_for_every_sample() -> None:
    done, samplers, waited = in_virtual_time(served(SYNC["blocking"]))
    assert waited == 6.0 and [s.loads for s in samplers] == [[(0, 0), (10, 1)]] * 2
    assert [c.version for c in done] == [0, 0, 1] and all(c.versions is None for c in done)


def test_delayed_does_not_hold_up_the_learner() -> None:
    done, samplers, waited = in_virtual_time(served(SYNC["delayed"]))
    assert waited == 0.0 and [s.loads for s in samplers] == [[(0, 0), (10, 1)]] * 2
    assert [c.version for c in done] == [0, 0, 1]


def test_staggered_replicas_change_one_after_another() -> None:
    """The second goes on serving the old weights meanwhile."""
    done, samplers, waited = in_virtual_time(served(SYNC["staggered"]))
    assert waited == 0.0 and [c.version for c in done] == [0, 0, 0]
    assert [s.loads[1] for s in samplers] == [(10, 1), (15, 1)]  # the late sample went to the second


def test_resumed_samples_keep_what_they_have() -> None:
    done, samplers, waited = in_virtual_time(served(SYNC["resume"]))
    assert waited == 0.0 and [s.loads for s in samplers] == [[(0, 0), (4, 1)]] * 2
    assert done[0].ids == tuple(range(10)) and done[0].logp == tuple(-1.0 - i for i in range(10))
    assert done[0].versions == (0,) * 4 + (1,) * 6 and done[0].version == 0 and done[0].finish == "length"
    assert done[2].version == 1 and done[2].versions is None


def test_an_episode_has_one_version() -> None:
    """Its turns stay on their replica, which changes once no episode is left on it; others wait."""

    async def go() -> list[list[int]]:
        samplers = [Counting()]
        fleet = Fleet(samplers, sync=SYNC["episodes"])  # type: ignore[arg-type]
        OLDEST.set({"policy": 0})
        await fleet.load(WEIGHTS, 0)

        async def play() -> list[int]:
            with visiting():
                return [(await fleet.sample((1,), PARAMS)).version for _ in range(3)]

        plays = [asyncio.ensure_future(play()), asyncio.ensure_future(at(15, play()))]
        await asyncio.sleep(12)
        await fleet.load(WEIGHTS, 1)
        versions = await asyncio.gather(*plays)
        assert samplers[0].loads == [(0, 0), (30, 1)]
        return list(versions)

    assert in_virtual_time(go()) == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("update", [False, True])
def test_an_episode_whose_replica_is_lost_goes_on_under_the_same_weights_or_not_at_all(update: bool) -> None:
    async def go() -> None:
        samplers = [Counting(), Counting()]
        fleet = Fleet(samplers, sync=SYNC["episodes"])  # type: ignore[arg-type]
        OLDEST.set({"policy": 0})
        await fleet.load(WEIGHTS, 0)
        with visiting() as visit:
            assert (await fleet.sample((1,), PARAMS)).version == 0
            if update:  # the other one changes, this one waits for its episode
                await fleet.load(WEIGHTS, 1)
                await asyncio.sleep(1)
                assert [s.version for s in samplers] == [0, 1]
            samplers[0].lost = True
            if not update:
                assert (await fleet.sample((1,), PARAMS)).version == 0
                assert len(samplers[1].loads) == 1
            else:
                for _ in range(2):
                    with pytest.raises(Torn):
                        await fleet.sample((1,), PARAMS)
        assert visit.torn == update and fleet.counts == {"resumed": 0, "lost": 1, "torn": int(update)}
        await fleet.aclose()

    in_virtual_time(go())


def test_the_first_samples_of_an_episode_meet_on_one_replica() -> None:
    async def go() -> None:
        samplers = [Counting(), Counting()]
        fleet = Fleet(samplers, sync=SYNC["episodes"])  # type: ignore[arg-type]
        await fleet.load(WEIGHTS, 0)
        with visiting():
            both = [asyncio.ensure_future(fleet.sample((1,), PARAMS)) for _ in range(2)]
            await asyncio.sleep(1)
            assert sorted(len(s.going) for s in samplers) == [0, 2]
            await asyncio.gather(*both)

    in_virtual_time(go())


def test_episodes_of_two_policies_do_not_wait_for_one_another() -> None:
    """Each began at one policy, and goes on at the other, whose replica waits for the other episode to end."""

    async def go() -> None:
        fleets = [Fleet([Counting()], name, SYNC["episodes"]) for name in "ab"]  # type: ignore[list-item]
        OLDEST.set({"a": 0, "b": 0})
        for f in fleets:
            await f.load(WEIGHTS, 0)

        async def play(first: Fleet, second: Fleet) -> list[int]:
            with visiting():
                return [(await f.sample((1,), PARAMS)).version for f in (first, second, first)]

        plays = [asyncio.ensure_future(play(*fleets)), asyncio.ensure_future(play(*reversed(fleets)))]
        await asyncio.sleep(5)
        for f in fleets:
            await f.load(WEIGHTS, 1)
        plays.append(asyncio.ensure_future(play(*fleets)))
        assert await asyncio.gather(*plays) == [[0, 0, 0], [0, 0, 0], [1, 1, 1]]

    in_virtual_time(go())


def test_samples_go_where_the_weights_are_new_enough() -> None:
    async def go() -> None:
        samplers = [Counting(), Counting()]
        fleet = Fleet(samplers, sync=SYNC["staggered"], slots=1)  # type: ignore[arg-type]
        await fleet.load(WEIGHTS, 0)
        old = asyncio.ensure_future(fleet.sample((1,), PARAMS))  # on the first, until 10
        await asyncio.sleep(1)
        await fleet.load(WEIGHTS, 1)  # the first has its turn, and is not free
        newest = asyncio.ensure_future(fleet.sample((1,), PARAMS))  # outside of training: the newest only
        OLDEST.set({"policy": 0})
        older = asyncio.ensure_future(fleet.sample((1,), PARAMS))
        assert [(await c).version for c in (old, older, newest)] == [0, 0, 1]
        assert asyncio.get_running_loop().time() == 20.0

    in_virtual_time(go())


def test_a_wait_without_end_says_who_waits_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleets, "PATIENCE", 30.0)

    async def go() -> None:
        fleet = Fleet([Counting()])  # type: ignore[list-item]
        await fleet.load(WEIGHTS, 3)
        OLDEST.set({"policy": 5})
        why = r"of 'policy' waits for weights of version 5 or newer: replica 0 serves 3, 0 in flight \(for 30 s\)"
        with pytest.raises(UserError, match=why):
            await fleet.sample((1,), PARAMS)

    in_virtual_time(go())


def test_who_joins_serves_the_newest_weights_only_and_who_leaves_ends_its_samples() -> None:
    async def go() -> None:
        first, second = Counting(), Counting()
        fleet = Fleet([first], slots=1)  # type: ignore[list-item]
        await fleet.load(WEIGHTS, 7)
        one = asyncio.ensure_future(fleet.sample((1,), PARAMS))
        two = asyncio.ensure_future(fleet.sample((1,), PARAMS))
        await asyncio.sleep(1)
        joined = await fleet.join(second)  # type: ignore[arg-type]
        assert second.loads == [(1, 7)] and joined.number == 1
        await fleet.leave(0)
        assert asyncio.get_running_loop().time() == 10.0 and (await one).version == 7
        assert (await two).version == 7 and asyncio.get_running_loop().time() == 11.0
        with pytest.raises(UserError, match="replica 1 of 'policy' cannot leave; there are: 1"):
            await fleet.leave(1)

    in_virtual_time(go())


def test_two_that_leave_at_once_do_not_empty_the_fleet() -> None:
    async def go() -> None:
        fleet = Fleet([Counting(), Counting()])  # type: ignore[list-item]
        await fleet.load(WEIGHTS, 0)
        samples = [asyncio.ensure_future(fleet.sample((1,), PARAMS)) for _ in range(2)]
        await asyncio.sleep(1)
        first, second = await asyncio.gather(fleet.leave(0), fleet.leave(1), return_exceptions=True)
        assert first is None and str(second) == "replica 1 of 'policy' cannot leave; there are: 1"
        assert [r.number for r in fleet.replicas] == [1] and len(await asyncio.gather(*samples)) == 2
        with pytest.raises(UserError, match="replica 0 of 'policy' cannot leave; there are: 1"):
            await fleet.leave(0)

    in_virtual_time(go())


def test_a_replica_that_falls_while_it_leaves_is_gone() -> None:
    async def go() -> None:
        samplers = [Counting(), Counting()]
        fleet = Fleet(samplers)  # type: ignore[arg-type]
        await fleet.load(WEIGHTS, 0)
        samples = [asyncio.ensure_future(fleet.sample((1,), PARAMS)) for _ in range(2)]
        await asyncio.sleep(3)
        leaving = asyncio.ensure_future(fleet.leave(0))
        await asyncio.sleep(1)
        samplers[0].lost = True
        await samplers[0].abort()
        assert await leaving is None and asyncio.get_running_loop().time() == 4.0
        assert [r.number for r in fleet.replicas] == [1]
        assert [len((await s).ids) for s in samples] == [10, 10]

    in_virtual_time(go())


def test_samples_of_a_lost_replica_are_asked_for_elsewhere() -> None:
    async def go() -> None:
        samplers = [Counting(), Counting()]
        fleet = Fleet(samplers)  # type: ignore[arg-type]
        await fleet.load(WEIGHTS, 0)
        samples = [asyncio.ensure_future(fleet.sample((1,), PARAMS)) for _ in range(2)]
        await asyncio.sleep(3)
        samplers[0].lost = True
        await samplers[0].abort()
        assert [len((await s).ids) for s in samples] == [10, 10] and asyncio.get_running_loop().time() == 13.0
        assert fleet.metrics == {"sampler/policy/resumed": 0.0, "sampler/policy/lost": 1.0, "sampler/policy/torn": 0.0}
        samplers[1].lost = True
        alone = asyncio.ensure_future(fleet.sample((1,), PARAMS))
        await asyncio.sleep(1)
        await samplers[1].abort()
        with pytest.raises(UserError, match="every replica of 'policy' is lost: nothing can be sampled"):
            await alone

    in_virtual_time(go())


def test_weights_that_do_not_arrive_are_refused() -> None:
    class Deaf(Counting):
        async def load(self, weights: Any, version: int) -> Ack:
            return Ack(version, "0" * 16 if version else (await super().load(weights, 0)).fingerprint)

    async def go(sync: Sync) -> None:
        fleet = Fleet([Deaf()], sync=sync)  # type: ignore[list-item]
        await fleet.load(WEIGHTS, 0)
        why = r"replica 0 of 'policy' serves version 1 \(0{16}\), not 1 of its learner: new weights do not reach it"
        with pytest.raises(UserError, match=why):
            await fleet.load(WEIGHTS, 1)
            await fleet.sample((1,), PARAMS)

    for sync in (SYNC["blocking"], SYNC["delayed"]):
        in_virtual_time(go(sync))


@pytest.mark.parametrize("params", [{}, {"temperature": 0.0}, {"top_k": 5}, {"stop": ("ab",)}], ids=str)
def test_a_cut_sample_under_the_same_weights_is_the_uncut_one(toy_model: str, params: dict[str, Any]) -> None:
    """Cut again and again, at any token: ids, log-probs (float64), support, finish and text are those of one piece."""
    module, tokenizer = load.load_model(toy_model, dtype="float64", device="cpu"), load.load_tokenizer(toy_model)
    asked = SamplingParams(max_tokens=24).but(**params)

    async def go(sampler: LocalSampler, cuts: list[int]) -> Completion:
        fleet = Fleet([sampler], sync=SYNC["resume"])
        await fleet.load({n: p.detach() for n, p in module.named_parameters()}, 0)
        sample = asyncio.ensure_future(fleet.sample((3, 4, 5), asked.but(seed=11)))
        for n in cuts:
            while sampler.tokens < n and not sample.done():
                await asyncio.sleep(0)
            await sampler.abort()
        return await sample

    whole = asyncio.run(go(OwnSampler(module, tokenizer), []))
    cut = asyncio.run(go(OwnSampler(module, tokenizer), [1, 2, 7, 19]))
    assert (cut.ids, cut.support, cut.finish, cut.text) == (whole.ids, whole.support, whole.finish, whole.text)
    torch.testing.assert_close(torch.tensor(cut.logp), torch.tensor(whole.logp), rtol=0, atol=1e-9)
    assert cut.versions is None
