"""Flow of Reasoning: games end in proportion to R^β whoever plays; the loss is 0 there; log-probs are of actions."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from temper.backends.base import SamplingParams
from temper.bridge import BEHAVIOUR
from temper.carrier import Batch
from temper.columns import ALLOWED, FINISH, GROUP, INFO, LOGP, REWARD, TEMPERATURE, TOKEN, TRAJECTORY
from temper.envs.flow import Climb, Flow, climbs, paths
from temper.episode import ENV, Completion
from temper.errors import UserError
from temper.methods.objectives.flow_of_reasoning import Balance, VarGrad, flow_of_reasoning
from temper.models.tiny import tiny_tokenizer
from temper.objective import Term
from temper.parts.flows import DIFFERENT, TARGET, Explore, FlowTarget
from temper.parts.logprobs import REFERENCE
from temper.parts.schedules import Constant
from temper.policy import Policy, Seat
from temper.tasks.task import Task
from temper.testing import check_term

TASK = Task("grid", "Go.")


class Grid:
    """Right (1), up (2) or stop (0) in a square of three by three; a cell's reward falls with its place."""

    def start(self, task: Task) -> Any:
        return (0, 0, False)

    def actions(self, task: Task, state: Any) -> Mapping[str, Any]:
        x, y, over = state
        moves = {"1": (x + 1, y, False)} if x < 2 else {}
        moves |= {"2": (x, y + 1, False)} if y < 2 else {}
        return {} if over else {**moves, "0": (x, y, True)}

    def parents(self, task: Task, state: Any) -> int:
        x, y, over = state
        return 1 if over else (x > 0) + (y > 0)

    def reward(self, task: Task, state: Any) -> float:
        return 1 / (1 + state[0] + 3 * state[1])


class Words:
    """Two actions of several tokens that begin alike, then the end."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def start(self, task: Task) -> Any:
        return ""

    def actions(self, task: Task, state: Any) -> Mapping[str, Any]:
        return {} if state else {w: w for w in self.words}

    def parents(self, task: Task, state: Any) -> int:
        return 1

    def reward(self, task: Task, state: Any) -> float:
        return float(state == self.words[0])


class Uniform:
    """A policy that draws evenly from what is allowed."""

    def __init__(self) -> None:
        self.tokenizer, self.sampler, self.asked = tiny_tokenizer(), self, list[SamplingParams]()

    async def sample(self, ids: tuple[int, ...], params: SamplingParams) -> Completion:
        self.asked.append(params)
        assert params.allowed is not None
        said = params.allowed[params.seed % len(params.allowed)]
        logp = -math.log(len(params.allowed))
        return Completion((said,), (logp,), temperature=params.temperature, allowed=params.allowed, text="?")


def seat(policy: Any = None) -> Seat:
    return Seat("solver", policy or Uniform(), SamplingParams(), 0, ("t",))


def played(game: Any, task: Task, every: Sequence[Sequence[str]]) -> Batch:
    return Batch.of([asyncio.run(Flow(game).walk(task, seat(), path)) for path in every])


class Table:
    """A policy with a number for each (state, action); log-probs of all plays of a game."""

    def __init__(self, game: Any, task: Task) -> None:
        self.rows = dict[Any, tuple[int, list[str]]]()
        self.plays, self.index, size = list[tuple[str, ...]](), list[list[tuple[int, int, int]]](), 0
        self.ends = list[Any]()
        for path, end in paths(game, task):
            state, steps = game.start(task), []
            for action in path:
                options = game.actions(task, state)
                if state not in self.rows:
                    self.rows[state], size = (size, list(options)), size + len(options)
                first, names = self.rows[state]
                if len(options) > 1:
                    steps.append((first, first + len(names), first + names.index(action)))
                state = options[action]
            self.plays.append(path)
            self.index.append(steps)
            self.ends.append(end)
        self.theta = torch.zeros(size, requires_grad=True)

    def logp(self, plays: Sequence[int]) -> Tensor:
        """[tokens] of those plays, one after another."""
        each = {s: self.theta[s[2]] - self.theta[s[0] : s[1]].logsumexp(0) for n in plays for s in self.index[n]}
        return torch.stack([each[s] for n in plays for s in self.index[n]])

    def distribution(self) -> dict[Any, float]:
        out = Counter[Any]()
        for n, end in enumerate(self.ends):
            out[end] += float(self.logp([n]).sum().exp().detach())
        return dict(out)


def far(p: Mapping[Any, float], q: Mapping[Any, float]) -> float:
    """Total variation."""
    return sum(abs(p[x] - q[x]) for x in q) / 2


def wanted(game: Any, task: Task, beta: float) -> dict[Any, float]:
    r = {end: (100 * game.reward(task, end) + 1) ** beta for _, end in paths(game, task)}
    return {end: v / sum(r.values()) for end, v in r.items()}


@pytest.mark.parametrize(("beta", "skewed"), [(1.0, False), (2.0, True)])
def test_games_end_in_proportion_to_the_reward_whoever_plays(beta: float, skewed: bool) -> None:
    game, table, g = Grid(), Table(Grid(), TASK), torch.Generator().manual_seed(0)
    whole = asyncio.run(FlowTarget(Constant(beta))(played(game, TASK, table.plays)))
    term = Term("balance", VarGrad(), where=DIFFERENT)
    optimizer = torch.optim.Adam([table.theta], lr=0.1)
    odds = torch.arange(1, len(table.plays) + 1).float() if skewed else torch.ones(len(table.plays))
    for _ in range(250):
        some = sorted(torch.multinomial(odds, 8, generator=g).tolist())
        kept = torch.zeros(len(odds), dtype=torch.bool)
        kept[some] = True
        live = whole.select(kept).put(LOGP, table.logp(some))
        optimizer.zero_grad()
        term.values(live)[0].sum().backward()
        optimizer.step()
    assert far(table.distribution(), wanted(game, TASK, beta)) < 0.02


def test_reinforcement_collapses_to_one_mode() -> None:
    game, table = Grid(), Table(Grid(), TASK)
    reward = torch.tensor([game.reward(TASK, end) for end in table.ends])
    optimizer = torch.optim.Adam([table.theta], lr=0.1)
    for _ in range(100):
        p = torch.stack([table.logp([n]).sum() for n in range(len(table.plays))]).exp()
        optimizer.zero_grad()
        (-(p * reward).sum()).backward()
        optimizer.step()
    found = table.distribution()
    assert found[(0, 0, True)] > 0.95 and far(found, wanted(game, TASK, 1.0)) > 0.5


def test_the_loss_is_zero_at_balance_and_only_there() -> None:
    every = [path for path, _ in paths(Grid(), TASK)]
    b = asyncio.run(FlowTarget(Constant(1.5))(played(Grid(), TASK, every)))
    tokens = b.count(TOKEN, TRAJECTORY)
    balanced = b.put(LOGP, b.spread((b[TARGET] - 7.25) / tokens, TRAJECTORY, TOKEN).double().requires_grad_())
    values, metrics = VarGrad()(balanced)
    assert float(values.detach()) < 1e-9 and float(metrics["flow/log_z"]) == pytest.approx(7.25, rel=1e-5)
    loss = Balance()
    loss.log_z.start = 7.25
    assert float(loss(balanced).detach().max()) < 1e-9
    assert float(VarGrad()(b.put(LOGP, torch.zeros(b.size(TOKEN))))[0]) > 0.1
    (gradient,) = torch.autograd.grad(loss(b.put(LOGP, torch.zeros(b.size(TOKEN)))).sum(), loss.log_z.theta)
    assert gradient.item() == pytest.approx(2 * loss.log_z.pace * float((7.25 - b[TARGET]).sum()), rel=1e-4)


def test_targets_by_hand() -> None:
    b = played(Climb(), Task("c", "?", info={"goal": 3, "part": 2, "most": 2}), [["1", "2"], ["2", "1"], ["1", "1"]])
    assert [i["terminal"] for i in b[INFO]] == ["(3, 2)", "(3, 2)", "(2, 2)"]
    back = [i["log_backward"] for i in b[INFO]]
    assert back == pytest.approx([-math.log(2), -math.log(2), 0.0])  # (3, 2) comes from (1, 1) and from (2, 1)
    stage = FlowTarget(Constant(2.0))
    r = [101.0, 101.0, 100 * 0.1 * (2 / 3) + 1]
    assert asyncio.run(stage(b))[TARGET].tolist() == pytest.approx([2 * math.log(x) + p for x, p in zip(r, back)])
    known = b.put(REFERENCE, torch.full((b.size(TOKEN),), -0.5))
    prior = asyncio.run(FlowTarget(Constant(1.0), prior=3.0)(known))[TARGET]
    n = b.count(TOKEN, TRAJECTORY).tolist()
    assert prior.tolist() == pytest.approx([math.log(x + 3 * 2 * k) + p for x, p, k in zip(r, back, n)])
    none = asyncio.run(FlowTarget(Constant(1.0))(b.put(REWARD, torch.tensor([0.0, torch.nan, 1.0]))))[TARGET]
    assert none[0].item() == pytest.approx(back[0]) and bool(none[1].isnan())  # log(0 + 1): finite
    with pytest.raises(UserError, match="above 0"):
        FlowTarget(floor=0.0)


def test_beta_rises_with_the_batches_and_is_restored() -> None:
    b = played(Grid(), TASK, [["0"], ["1", "0"]])
    stage = FlowTarget()
    first = asyncio.run(stage(b))[TARGET]
    for _ in range(30):
        last = asyncio.run(stage(b))[TARGET]
    back = torch.tensor([i["log_backward"] for i in b[INFO]])
    assert torch.allclose(last - back, 2 * (first - back))
    other = FlowTarget()
    other.load_state_dict(stage.state_dict())
    assert other.calls == 31


def test_equal_plays_count_once_and_one_play_is_no_group() -> None:
    b = played(Grid(), TASK, [["0"], ["0"], ["1", "0"]])
    out = asyncio.run(FlowTarget()(b))
    assert out[TARGET].isnan().tolist() == [False, True, False] and out[DIFFERENT].tolist() == [True]
    same = asyncio.run(FlowTarget()(played(Grid(), TASK, [["0"], ["0"]])))
    assert same[DIFFERENT].tolist() == [False]
    live = Term("balance", VarGrad(), where=DIFFERENT).live(same)
    assert live.tolist() == [0.0]


def test_losses_do_not_depend_on_the_cut() -> None:
    for term in (Term("v", VarGrad(), where=DIFFERENT), Term("z", Balance())):
        check_term(term)


def test_probabilities_are_of_the_allowed_actions(exact_model: str) -> None:
    """Over all plays of a game they sum up to 1, also with actions of several tokens; over the vocabulary not."""
    policy = Policy(model=exact_model, dtype="float64")
    policy.open()
    for game, task in ((Climb(), climbs()[1]), (Words("go on", "go back", "stop"), TASK)):
        b = Batch.of([asyncio.run(Flow(game).walk(task, seat(policy), path)) for path, _ in paths(game, task)])
        total = b.sum(policy.learner.read(b, {LOGP: LOGP})[LOGP], TOKEN, TRAJECTORY).exp().sum()
        assert float(total) == pytest.approx(1.0, abs=1e-9)
        bare = b.put(ALLOWED, [None] * len(b[ALLOWED]))
        assert float(b.sum(policy.learner.read(bare, {LOGP: LOGP})[LOGP], TOKEN, TRAJECTORY).exp().sum()) < 0.1
    policy.close()


def test_a_token_without_alternative_is_not_the_policys() -> None:
    b = played(Words("go on", "go back", "stop"), TASK, [["go on"], ["stop"]])
    assert b.count(TOKEN, TRAJECTORY).tolist() == [2.0, 1.0]  # g or s; o or b
    assert [f for f in b[FINISH] if f] == ["stop", "stop"]
    with pytest.raises(UserError, match="beginning of another"):
        played(Words("go", "gone"), TASK, [["go"]])


def explored(policy: Any, n: int = 2, **how: Any) -> tuple[Batch, Explore]:
    stage = Explore(policy, Flow(), **how)
    b = Batch.of([asyncio.run(Flow().walk(climbs()[0], Seat("solver", policy, SamplingParams(), n, ("own", n))))
                  for n in range(n)])  # fmt: skip
    return asyncio.run(stage(b)), stage


def test_noisy_plays_are_nobodys() -> None:
    policy = Uniform()
    b, _ = explored(policy, noisy=6, search=0, replay=Constant(0.0), epsilon=Constant(0.0), hot=0.5)
    assert b.size(TRAJECTORY) == 8 and b.size(GROUP) == 1
    own = b.spread((torch.arange(8) < 2).float(), TRAJECTORY, TOKEN) > 0
    assert torch.equal(own, ~b[BEHAVIOUR].isnan())
    assert {p.temperature for p in policy.asked} == {1.0, 2.0}
    assert set(b[TEMPERATURE].tolist()) == {1.0}  # P_F is the policy's own
    assert all(a is not None for u, a in enumerate(b[ALLOWED]) if bool(b.structure.sampled[u]))
    quiet = Uniform()
    explored(quiet, noisy=6, search=0, replay=Constant(0.0), epsilon=Constant(1.0))
    assert len(quiet.asked) < len(policy.asked) / 2  # ε = 1 asks nobody


def test_neighbours_keep_the_first_half_and_are_better() -> None:
    b, _ = explored(Uniform(), n=1, noisy=0, search=32, replay=Constant(0.0))
    reward, path = b[REWARD].tolist(), [i["path"].split(" ") for i in b[INFO]]
    assert len(reward) > 1 or reward[0] == 1.0
    assert all(r > reward[0] for r in reward[1:])
    assert all(p[: len(path[0]) // 2] == path[0][: len(path[0]) // 2] for p in path[1:])


def test_the_memory_holds_different_plays_and_is_restored() -> None:
    policy = Uniform()
    _, stage = explored(policy, n=12, noisy=8, size=3, replay=Constant(0.0))
    (kept,) = stage.memory.values()
    found = [(e["trajectories"][0]["info"]["path"], e["trajectories"][0]["reward"]) for e in kept]
    assert len(kept) == 3 and len({p for p, _ in found}) == 3
    assert [r for _, r in found] == sorted((r for _, r in found), reverse=True)
    assert all(t["logp"] is None for e in kept for t in e["turns"] if t["author"] != ENV)
    other = Explore(policy, Flow(), replay=Constant(1.0), draw=5, noisy=0, search=0, size=3)
    other.load_state_dict(stage.state_dict())
    b = Batch.of([asyncio.run(Flow().walk(climbs()[0], seat(policy)))])
    out = asyncio.run(other(b))
    assert out.size(TRAJECTORY) == 6 and out.size(GROUP) == 1
    assert {i["path"] for i in out[INFO][1:]} <= {p for p, _ in found} | {b[INFO][0]["path"]}


def test_forms() -> None:
    assert flow_of_reasoning(Uniform(), form="logz").terms[0].loss.modules
    assert not getattr(flow_of_reasoning(Uniform()).terms[0].loss, "modules", ())
