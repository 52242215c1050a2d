"""ASearcher: its advantage and loss by hand, and the recipe. What episodes record: tests/envs/test_search.py."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest
import torch

from temper.bridge import BEHAVIOUR
from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP, REWARD, TOKEN, VERSION
from temper.envs.search import Research
from temper.episode import Completion, Recorder
from temper.errors import UserError
from temper.methods.environments.asearcher import PROMPT, VALIDITY, asearcher
from temper.objective import LIVE
from temper.parts.logprobs import OLD
from temper.parts.ratios import TIS_WEIGHT, truncate
from temper.policy import Policy
from temper.recipes.asearcher import asearcher as recipe
from temper.recipes.asearcher import says
from temper.simulate import Lognormal, World, simulate
from temper.sync import SYNC
from temper.tasks.knowledge import World as Knowledge
from temper.tasks.knowledge import chains
from temper.tasks.task import Task
from temper.tools.search import Search
from tests.asynchrony.parts import Ages
from tests.envs.test_search import Library, play
from tests.seams import toys


def group(rewards: list[float], lengths: list[int] | None = None) -> Batch:
    """A trajectory for each reward, of so many sampled tokens."""
    episodes = []
    for r, n in zip(rewards, lengths or [1] * len(rewards), strict=True):
        record = Recorder(Task("t", "?"))
        prompt = record.add((1, 2))
        record.judge([prompt, record.sampled(Completion((3,) * n, (-1.0,) * n), prompt)], reward=r)
        episodes.append(record.episode())
    return Batch.of(episodes)


def advantages(b: Batch, **options: object) -> list[float]:
    m = asearcher(Policy(), engine=Library(), **options)  # type: ignore[arg-type]
    for stage in [*m.on_group, *(s for s in m.on_batch if ADVANTAGE in s.writes)]:
        b = asyncio.run(stage(b))
    return b[ADVANTAGE].tolist()


def test_advantage_without_whitening_by_hand() -> None:
    # r − mean is 0.75 and −0.25; then (· − 0.5) · 10, within ±20
    assert advantages(group([1, 0, 0, 0]), whiten=False) == pytest.approx([2.5, -7.5, -7.5, -7.5])
    assert advantages(group([1, -0.5]), whiten=False, bias=0.0, scale=1.0) == pytest.approx([0.75, -0.75])
    assert min(advantages(group([1, -0.5]), whiten=False, scale=100.0)) == -20.0


def test_whitening_takes_scale_and_bias_back() -> None:
    b = group([1, 0, 0, 0], [3, 1, 2, 2])
    plain = advantages(b, scale=1.0, bias=0.0)
    assert advantages(b) == pytest.approx(plain, rel=1e-5)
    x = torch.tensor([0.75] * 3 + [-0.25] * 5)  # tokens
    assert plain == pytest.approx(((x - x.mean()) / x.std()).tolist(), rel=1e-5)


def test_a_group_of_one_has_its_own_reward_and_equal_ones_no_signal() -> None:
    assert advantages(group([0.4]), whiten=False, bias=0.0, scale=10.0) == pytest.approx([4.0])
    signal = asearcher(Policy(), engine=Library()).signal
    assert signal is not None and signal(group([0.5, 0.5])) is False and signal(group([0.5, 0.4])) is True
    unjudged = group([1.0, 0.0, 0.0]).put(REWARD, torch.tensor([1.0, math.nan, 0.0]))
    assert advantages(unjudged, whiten=False, bias=0.0, scale=1.0) == pytest.approx([0.5, math.nan, -0.5], nan_ok=True)


def weighted(prox: float, behaviour: float, live: float, a: float, **options: object) -> tuple[float, float]:
    """(loss, dloss/dlog π) of one token."""
    m = asearcher(Policy(), engine=Library(), **options)  # type: ignore[arg-type]
    b = group([1.0]).put(ADVANTAGE, torch.tensor([a])).put(OLD, torch.tensor([prox]))
    b = b.put(BEHAVIOUR, torch.tensor([behaviour])).put(LIVE, torch.ones(1))
    if m.on_batch and TIS_WEIGHT in m.on_batch[-1].writes:
        b = asyncio.run(m.on_batch[-1](b))
    logp = torch.tensor([live], requires_grad=True)
    loss, _ = m.terms[0].loss(b.put(LOGP, logp))  # type: ignore[misc]
    loss.sum().backward()
    assert logp.grad is not None and b.size(TOKEN) == 1
    return float(loss.detach()), float(logp.grad)


def test_decoupled_loss_by_hand() -> None:
    # ρ = π/π_prox = e^0.1 within 1 ± 0.4; weight π_prox/π_behaviour = e^0.5
    w = math.exp(0.5)
    assert weighted(-1.0, -1.5, -0.9, 2.0) == pytest.approx((-2 * math.exp(0.1) * w,) * 2, rel=1e-5)
    assert weighted(-1.0, -1.5, -0.5, 2.0) == pytest.approx((-2 * 1.4 * w, 0.0), rel=1e-5)  # clipped at 1.4
    assert weighted(-1.0, -1.5, -2.0, -2.0) == pytest.approx((2 * 0.6 * w, 0.0), rel=1e-5)  # and at 0.6
    assert weighted(-1.0, -1.5, -0.5, -2.0)[1] == pytest.approx(2 * math.exp(0.5) * w, rel=1e-5)  # not on this side


def test_the_behaviour_weight_is_a_mask_above_the_cap_or_truncated() -> None:
    far = (-1.0, -3.0, -1.0, 1.0)  # e² = 7.4
    assert weighted(*far) == (0.0, 0.0)
    assert weighted(*far, cut=truncate) == pytest.approx((-5.0, -5.0))
    assert weighted(*far, cap=8.0)[0] == pytest.approx(-math.exp(2.0), rel=1e-5)


def test_coupled_ppo_clips_against_the_sampler() -> None:
    assert weighted(-1.0, -1.5, -1.0, 2.0, decoupled=False) == pytest.approx((-2 * 1.4, 0.0), rel=1e-5)  # e^0.5 > 1.4


def test_the_environment_is_the_papers() -> None:
    env = asearcher(Policy(), engine=Library()).env
    assert isinstance(env, Research) and env.prompt == PROMPT and env.validity == VALIDITY
    assert (env.turns, env.top, env.document, env.page, env.pages, env.short) == (32, 5, 5000, 25_000, 10, 100)


# the recipe -----------------------------------------------------------------------------------------------------------


def test_demonstrations_reach_the_answer_in_one_hop_and_in_two() -> None:
    pytest.importorskip("bm25s")
    shown = recipe(hops=(1, 2))[0]
    engine = Search(Knowledge().pages(), top=1)
    assert isinstance(shown.env.env.engine, Search) and shown.env.env.short == 12  # type: ignore[attr-defined]
    right = 0
    for task in chains(Knowledge(), (1, 2))[:60]:
        text, found = f"{task.prompt}\n", ""
        for _ in range(12):
            said = says(task, text)
            text += said
            if said.startswith("<answer>"):
                found = said.removeprefix("<answer>").removesuffix("</answer>")
                break
            if said.startswith("<search>"):
                (d,) = asyncio.run(engine.search(said[8:-9], 1))
                text += f"\n\n<information>\n[Doc 1]({d.url}):\n{d.title}\n</information>\n<think>\n"
            if said.startswith("<access>"):
                page = asyncio.run(engine.access(said[8:-9]))
                text += f"\n\n<information>\n>>>> Page 1 >>>>\n\n{page}\n</information>\n<think>\n"
        right += found == task.answer
    assert 30 < right < 58


def test_a_share_of_the_prompts_says_that_there_is_an_answer() -> None:
    def says_so(n: int, valid: float = 0.3) -> bool:
        e, _, _ = play("x", task=Task(str(n), "?"), valid=valid)
        return bool(e.trajectories[0].info["valid"])

    drawn = [says_so(n) for n in range(200)]
    assert 0.2 < sum(drawn) / 200 < 0.4 and drawn == [says_so(n) for n in range(200)]
    assert says_so(0, 1.0) and not says_so(0, 0.0)
    assert not any(t.info["valid"] for t in recipe(cold_start=0)[-1].probes[0].tasks)


def test_the_recipe_searches_in_ones_own_corpus(tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    rows, corpus = tmp_path / "rows.jsonl", tmp_path / "corpus.jsonl"
    rows.write_text("".join(json.dumps({"question": f"q{n}?", "answer": "a"}) + "\n" for n in range(12)))
    corpus.write_text(json.dumps({"title": "One", "text": "1", "url": "u"}))
    (run,) = recipe(questions=str(rows), corpus=str(corpus), eval_tasks=2)
    assert run.ahead == 4 and len(run.curriculum.tasks) == 10  # type: ignore[attr-defined]
    assert asyncio.run(run.env.engine.access("u")) == "One\n1"  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="searched in"):
        recipe(questions=str(rows))


def test_worlds_have_one_answer_to_every_chain() -> None:
    world = Knowledge(20)
    tasks = chains(world, (1, 2))
    assert len({t.id for t in tasks}) == len(tasks) and {t.source for t in tasks} == {"1-hop", "2-hop"}
    assert len(world.facts) == len([t for t in tasks if t.source == "1-hop"]) == 80
    assert chains(Knowledge(20)) == chains(Knowledge(20)) != chains(Knowledge(20, seed=1))


def test_asynchronous_in_virtual_time(toy_model: str, tmp_path: Path) -> None:
    """Samplers go on while a step is trained: sooner done, calls of one episode under several weights, none too old."""
    pytest.importorskip("bm25s")
    totals = []
    for ahead in (0, 4):
        run = recipe(
            out=tmp_path / str(ahead), cold_start=0, model=toy_model, steps=7, groups=2, attempts=3, max_tokens=6,
            turns=4, eval_tasks=0, ahead=ahead,
        )[-1]  # fmt: skip
        run.out, run.on_group = None, [toys.ShareOf(), *run.on_group[1:]]  # a random model finds nothing
        ages = Ages(run.roles["solver"])
        run.on_batch.append(ages)
        assert run.sync == SYNC["resume"] and recipe(sync="episodes")[-1].sync == SYNC["episodes"]
        totals.append(simulate(run, World(samplers=2, slots=3, token=1.0, train=0.1, tail=Lognormal(1.0))).total)
        gaps = [max(g) for g in ages.gaps]
        assert len(gaps) == 7 and max(gaps) <= ahead and (max(gaps) >= 2) == (ahead == 4)
        played = [
            {b[VERSION][u].item() for u in path if b[VERSION][u] >= 0}
            for b in ages.batches
            for path in b.structure.paths
        ]
        assert any(len(versions) > 1 for versions in played) == (ahead == 4)
    assert totals[1] < 0.8 * totals[0], totals
