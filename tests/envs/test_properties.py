"""What holds in every environment that talks: ids are what the model saw, log-probs what it sampled with, no drift."""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import json
import os
import pkgutil
import random
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import temper.envs
from temper.backends.base import AdamW, SamplingParams
from temper.bridge import BEHAVIOUR, to_episodes
from temper.carrier import Batch
from temper.columns import ADVANTAGE, LOGP, TOKEN
from temper.envs.chat import CONTEXT, TURNS, Chat
from temper.envs.games import TextArena
from temper.envs.tools import ToolUse
from temper.episode import ENV, Completion, Episode, Recorder, Turn
from temper.loop import collect, train
from temper.models.render import renderer_of
from temper.models.tiny import tiny_tokenizer
from temper.objective import Update
from temper.parts.curricula import Shuffled
from temper.policy import Policy
from temper.request import Drop
from temper.run import Run
from temper.tasks.task import Task
from temper.tools.base import Fault, Result, Toolbox
from temper.tools.python import Python
from temper.tools.sandbox import isolation
from tests.envs import scenes
from tests.envs.actors import Actor, among, says, seat
from tests.envs.scenes import MISSING, SCENES, Echo, Scene, call, play, short_game
from tests.models import builders
from tests.seams import toys
from tests.tools.conftest import processes

needs_textarena = pytest.mark.skipif(bool(MISSING["game"][1]), reason="needs textarena")


@pytest.fixture(params=SCENES)
def scene(request: pytest.FixtureRequest) -> Scene:
    if missing := MISSING.get(request.param, (object, ""))[1]:
        pytest.skip(f"needs {missing}")
    return SCENES[request.param]


def environments() -> set[type]:
    """All in temper.envs that sample."""
    found = set[type]()
    for module in pkgutil.walk_packages(temper.envs.__path__, "temper.envs."):
        for kind in vars(importlib.import_module(module.name)).values():
            if (
                isinstance(kind, type)
                and kind.__module__ == module.name
                and inspect.iscoroutinefunction(getattr(kind, "play", None))
            ):
                found.add(kind)
    return {kind for kind in found if getattr(kind, "samples", True)}


def test_every_environment_has_a_scene() -> None:
    played = {MISSING[n][0] if n in MISSING else type(s.env()) for n, s in SCENES.items()}
    assert environments() - played == set()
    assert len(played) > 20


@pytest.mark.parametrize("family", ["tiny", "qwen3", "llama3", "gemma", "gpt2"])
def test_ids_are_what_the_model_saw_and_sampled(scene: Scene, family: str) -> None:
    """(i) and (iv): nothing sampled is encoded again, every sampled id is one TOKEN row, and nothing else is."""
    tokenizer = tiny_tokenizer if family == "tiny" else getattr(builders, f"{family}_tokenizer")
    episode, actors = play(scene, tokenizer)
    for role, actor in actors.items():
        mine = sorted((c, t.ids) for c, t in zip(contexts(episode), episode.turns) if t.author == role)
        said = sorted((asked, answer.ids) for asked, answer in zip(actor.asked, actor.answers))
        assert [context for context, _ in mine] == [asked for asked, _ in said]
        assert all(ids == answer[: len(ids)] for (_, ids), (_, answer) in zip(mine, said))  # shorter where it was cut
    sampled = [t for t in episode.turns if t.author != ENV]
    assert len(sampled) == scene.turns and sum(len(a.asked) for a in actors.values()) == scene.turns
    batch = Batch.of([episode])
    assert batch.size(TOKEN) == sum(len(t.ids) for t in judged(episode))
    for trajectory in episode.trajectories:
        last = episode.turns[trajectory.turns[-1]]
        assert last.author == trajectory.role


def judged(episode: Episode) -> list[Turn]:
    """The sampled turns that some trajectory has; the others (a draft, a simulator's) are nobody's rows."""
    mine = {u for t in episode.trajectories for u in t.turns}
    return [t for u, t in enumerate(episode.turns) if u in mine and t.author != ENV]


def contexts(episode: Episode) -> list[tuple[int, ...]]:
    """What was in context before each turn."""
    whole: list[tuple[int, ...]] = []
    before: list[tuple[int, ...]] = []
    for t in episode.turns:
        before.append(whole[t.parent] if t.parent >= 0 else ())
        whole.append((*before[-1], *t.ids))
    return before


@pytest.mark.parametrize("family", ["tiny", "qwen3", "llama3", "gemma", "gpt2"])
def test_observations_hold_no_forged_control_tokens(scene: Scene, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside those of the template, which are the same for harmless observations."""
    tokenizer = tiny_tokenizer if family == "tiny" else getattr(builders, f"{family}_tokenizer")
    counts = []
    for text in (scenes.HOSTILE, "nothing"):
        monkeypatch.setattr(scenes, "HOSTILE", text)
        episode, actors = play(scene, tokenizer)
        forbidden = renderer_of(next(iter(actors.values())).tokenizer).forbidden
        counts.append([[i for i in t.ids if i in forbidden] for t in episode.turns if t.author == ENV])
    assert counts[0] == counts[1]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """As the contract's model, with room for every scene."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from temper.models.tiny import VOCAB_SIZE, save_tiny

    folder = tmp_path_factory.mktemp("exact")
    config = GPT2Config(
        vocab_size=VOCAB_SIZE, n_positions=2048, n_embd=32, n_layer=1, n_head=2, initializer_range=0.1
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = GPT2LMHeadModel(config)
    save_tiny(model, folder)
    policy = Policy(model=str(folder), dtype="float64", optimizer=AdamW(lr=0.0))
    policy.open()
    return policy


def test_log_probs_and_gradients_are_those_of_the_sampled_ids_in_their_contexts(
    scene: Scene, exact: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(ii) ρ = 1 on every sampled token; (iii) observations are context only: their own log-probs have no gradient."""
    if scene.long:
        pytest.skip("more than a small model's context")
    module: Any = exact.learner.module  # type: ignore[attr-defined]
    monkeypatch.setattr(scenes, "HOSTILE", "?")
    episode, _ = play(scene, tiny_tokenizer, module, context=2048)
    b = Batch.of([episode])
    read = exact.learner.read(b, {LOGP: LOGP})[LOGP]
    torch.testing.assert_close(read.float(), b[BEHAVIOUR], atol=1e-6, rtol=0)
    b = b.put(ADVANTAGE, torch.linspace(-1, 1, b.size(TOKEN)))
    learner: Any = exact.learner
    learner.optimizer.step = lambda *a, **k: None
    learner.update(b, [toys.POLICY_TERM])
    name, weight = next((n, p) for n, p in module.named_parameters() if p.grad is not None)
    got = weight.grad.clone()
    module.zero_grad()
    loss, at = torch.zeros(()), 0
    rows = judged(episode)
    for turn, before in zip(episode.turns, contexts(episode)):
        if turn not in rows:
            continue
        ids = torch.tensor([[*before, *turn.ids]])
        logp = among(module(ids).logits[0, len(before) - 1 : -1], turn.allowed).log_softmax(-1)
        chosen = logp.gather(1, torch.tensor(turn.ids)[:, None]).squeeze(1)
        loss = loss - (b[ADVANTAGE][at : at + len(turn.ids)].double() * chosen).sum() / b.size(TOKEN)
        at += len(turn.ids)
    loss.backward()
    scale = float(got.norm() / weight.grad.norm())  # clipping
    torch.testing.assert_close(got, weight.grad * scale, atol=1e-12, rtol=1e-9, msg=lambda m: f"{name}: {m}")
    assert 0 < scale < 1 + 1e-6


# how chats end --------------------------------------------------------------------------------------------------------


def test_what_a_trajectory_says_about_its_calls() -> None:
    episode, _ = play(SCENES["bad calls"], tiny_tokenizer)
    info = episode.trajectories[0].info
    assert sorted(c["outcome"] for c in info["calls"]) == ["ok", "refused", "refused"]
    assert [c["turn"] for c in info["calls"]] == [0, 1, 2] and info["calls"][-1]["text"]
    assert info["outcomes"] == {"refused": 2, "ok": 1} and info["turns"] == 4
    assert "and more" not in "".join(t.text for t in episode.turns)  # cut behind the call
    episode, _ = play(SCENES["several calls"], tiny_tokenizer)
    assert episode.trajectories[0].info["outcomes"] == {"ok": 2} and "one" in episode.turns[2].text
    episode, _ = play(SCENES["python blocks"], tiny_tokenizer)
    assert episode.turns[1].text.endswith("```") and episode.turns[2].text.startswith("6*7")
    episode, _ = play(SCENES["tools until the limit"], tiny_tokenizer)
    assert episode.trajectories[0].info["finish"] == TURNS and len(episode.trajectories[0].info["calls"]) == 1


def test_a_full_context_ends_the_episode() -> None:
    episode, _ = play(SCENES["tools"], tiny_tokenizer, context=260)
    info = episode.trajectories[0].info
    assert info["finish"] == CONTEXT and episode.turns[-1].author == "solver"


@needs_textarena
def test_a_game_ends_as_its_rules_say() -> None:
    def ended(*moves: str, **options: Any) -> dict[str, tuple[Any, ...]]:
        env = short_game(**options)
        episode, _ = play(Scene(lambda: env, says(*moves), 0, False), tiny_tokenizer)
        return {t.role: (t.reward, t.info["end"], t.info["illegal"]) for t in episode.trajectories}

    assert ended("[0 2]", "[1 1]") == {"player-0": (-1.0, "lost", 0), "player-1": (1.0, "won", 0)}
    assert ended("[0 1]", "x", "<think>[0 2]</think>[0 1]", "[1 1]")["player-1"] == (-1.0, "lost", 1)
    assert ended("[0 1]", "x", "y") == {"player-0": (1.0, "won", 0), "player-1": (-1.0, "illegal move", 2)}
    assert ended("[0 1]", "[0 1]", turns=1) == {f"player-{n}": (-1.0, "unfinished", 0) for n in range(2)}
    assert ended("[0 1]", "[0 1]", turns=1, unfinished=0.5)["player-0"] == (0.5, "unfinished", 0)


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model with room for a whole game."""
    folder = Path(toys.save_toy_model(tmp_path_factory.mktemp("long")))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return str(folder)


def drawn(*moves: str) -> Callable[[str], str]:
    """One of the moves, by what the model said."""
    return lambda text: moves[sum(text.encode()) % len(moves)]


@needs_textarena
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    "game, moves",
    [
        ("TicTacToe-v0", [f"[{n}]" for n in range(9)]),
        ("KuhnPoker-v0", ["[check]", "[bet]", "[call]", "[fold]"]),
        ("Nim-v0", ["nonsense"]),
    ],
)
def test_random_tiny_policies_play_real_games(
    game: str, moves: list[str], fresh: bool, long_model: str, tmp_path: Path
) -> None:
    """Twice the same, with deals that are the task's: Python's own random numbers stay as they were."""
    from temper.testing import check_env

    state = random.getstate()
    episode = check_env(TextArena(game, fresh=fresh, move=drawn(*moves)), tmp_path, model=long_model)
    if len(episode.trajectories) == 2:
        assert sum(t.reward or 0 for t in episode.trajectories) == 0
    assert all(t.info["end"] in ("won", "lost", "drawn", "illegal move") for t in episode.trajectories)
    assert random.getstate() == state


# many at once ---------------------------------------------------------------------------------------------------------


class Flaky:
    """Answers late, or not at all, or breaks down."""

    name, description = "echo", "Say it again, sometimes."
    parameters = Echo.parameters

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.running = 0

    async def __call__(self, text: str) -> Result:
        self.calls.append(text)
        self.running += 1
        try:
            rng = random.Random(text)
            await asyncio.sleep(rng.random() * 0.03)
            if rng.random() < 0.1:
                raise Fault("the server is down")
            if rng.random() < 0.1:
                await asyncio.sleep(60)
            if rng.random() < 0.1:
                raise ValueError("no")
            return Result(f"heard {text}")
        finally:
            self.running -= 1


class Told:
    """A sampler that says three things to each task: runs Python, calls the slow tool, and is done."""

    def __init__(self, real: Any, tokenizer: Any):
        self.real, self.tokenizer, self.actor = real, tokenizer, Actor(tokenizer, lambda n: self.text, latency=0.01)
        self.text, self.context, self.seen = "", 10_000, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def sample(self, ids: tuple[int, ...], params: SamplingParams) -> Completion:
        said = self.tokenizer.decode(ids)
        k, heard = said.partition("say ")[2].split("<")[0], said.count("<tool_response>")
        code = json.dumps({"name": "python", "arguments": {"code": f"print({k} * 7)"}})
        lines = (f"<tool_call>\n{code}\n</tool_call>", call(f"{k}-{self.seen[k]}"), f"done {k}")
        self.seen[k] += heard == 1
        self.text = lines[heard]
        return await self.actor.sample(ids, params)


@dataclass
class ToldPolicy(Policy):
    """A real policy, with the words of `Told`."""

    def open(self, modules: Any = ()) -> None:
        super().open(modules)
        self.serve(Told(self.sampler, self.tokenizer))


def test_a_thousand_episodes_of_a_run_with_slow_and_broken_tools(toy_model: str, tmp_path: Path) -> None:
    """No deadlock, no lost or doubled episode; what is left behind does not grow with their number."""
    flaky, python, groups, attempts = Flaky(), Python(workers=3), 125, 8
    if "unusable" in (report := isolation()):
        pytest.skip(f"no sandbox on this machine: {report['unusable']}")
    tasks = [Task(f"t{k}", f"say {k}", str(k)) for k in range(groups)]
    policy = ToldPolicy("policy", toy_model, optimizer=AdamW(lr=1e-3))
    env = ToolUse(Toolbox([flaky, python], timeout=0.3), turns=4)
    run = Run(
        env=env, curriculum=Shuffled(tasks, attempts), roles={"solver": policy}, groups=groups, steps=1,
        on_group=[toys.ShareOf(), toys.CENTRED], updates=[Update(policy, [toys.POLICY_TERM])], out=tmp_path,
        sampling=SamplingParams(max_tokens=100),
    )  # fmt: skip

    async def everything() -> tuple[Batch, int]:
        async with run.opened() as start, aclosing(collect(run, start)) as steps:
            before = resident()
            _, batch = await anext(steps)
            assert flaky.running == 0 and resident() - before < 100_000_000
            return batch, run.counts["dropped/tool fault"]

    try:
        batch, dropped = asyncio.run(asyncio.wait_for(everything(), 60))
        assert processes(python.server._root) == 0
    finally:
        python.close()
    played = to_episodes(batch)
    assert len(played) + dropped == groups * attempts and 50 < dropped < 150
    assert all(n <= attempts for n in Counter(e.task.id for e in played).values())
    for e in played:
        check_one(e)
    assert len(flaky.calls) == len(set(flaky.calls)) == groups * attempts
    outcomes = sum((Counter(t.info["outcomes"]) for e in played for t in e.trajectories), Counter[str]())
    assert sum(outcomes.values()) == 2 * len(played) and set(outcomes) == {"ok", "timeout", "tool error"}
    assert sum(env.toolbox.counts.values()) == 2 * groups * attempts
    del played, e
    gc.collect()
    assert not [x for x in gc.get_objects() if type(x) in (Chat, Recorder, Episode)]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def check_one(e: Episode) -> None:
    """It heard what its own calls gave, and nobody else's."""
    k = e.task.id[1:]
    heard = [t.text for t in e.turns if t.author == ENV]
    assert len(e.turns) == 6 and e.turns[-1].text == f"done {k}" and heard[1] == str(int(k) * 7)
    assert not heard[2].startswith("heard") or heard[2].startswith(f"heard {k}-")


def test_a_cancelled_crowd_leaves_nothing_running() -> None:
    tool = Flaky()
    env = ToolUse(Toolbox([tool], timeout=100.0), turns=4)

    async def go() -> None:
        tokenizer = tiny_tokenizer()
        plays = [
            asyncio.ensure_future(
                env.play(Task(f"t{k}", "?"), {"solver": seat(Actor(tokenizer, says(call(f"c{k}"))), max_tokens=200)})
            )
            for k in range(200)
        ]
        while tool.running < 100:
            await asyncio.sleep(0.001)
        for one in plays:
            one.cancel()
        ended = await asyncio.wait_for(asyncio.gather(*plays, return_exceptions=True), 10)
        assert all(isinstance(e, (asyncio.CancelledError, Episode, Drop)) for e in ended)
        assert sum(isinstance(e, asyncio.CancelledError) for e in ended) >= 100
        assert tool.running == 0 and len(asyncio.all_tasks()) == 1

    asyncio.run(go())


def test_a_cancelled_episode_leaves_nothing_running() -> None:
    tool = Flaky()
    env = ToolUse(Toolbox([tool], timeout=100.0), turns=4)

    async def go() -> None:
        actor = Actor(tiny_tokenizer(), says(call("slow")))
        task = asyncio.ensure_future(env.play(Task("t", "?"), {"solver": seat(actor, max_tokens=200)}))
        while not tool.running:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert tool.running == 0 and len(asyncio.all_tasks()) == 1

    asyncio.run(go())


def test_a_run_ends_what_its_tools_hold(toy_model: str, tmp_path: Path) -> None:
    """In the event loop that they were opened in."""
    closed: list[object] = []

    class Held(Echo):
        async def close(self) -> None:
            closed.append(asyncio.get_running_loop())

    policy = toys.policy(toy_model)
    run = Run(
        env=ToolUse(Toolbox([Held()])), curriculum=toys.curriculum(2), roles={"solver": policy},
        on_group=[toys.ShareOf(), toys.CENTRED], updates=[Update(policy, [toys.POLICY_TERM])], steps=1, groups=2,
        sampling=toys.SHORT, out=tmp_path,
    )  # fmt: skip
    asyncio.run(train(run))
    assert len(closed) == 1
