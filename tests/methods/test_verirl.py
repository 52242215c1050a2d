"""VERIRL: labels along revisions, what the reward model learns from, sample weights; compiling and testing designs."""

from __future__ import annotations

import asyncio
import math
import shutil
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from temper.backends.base import SamplingParams
from temper.bridge import BEHAVIOUR
from temper.carrier import Batch
from temper.columns import ADVANTAGE, INFO, LOGP, REWARD, TOKEN, TRAJECTORY
from temper.envs.revisions import Revisions
from temper.errors import UserError
from temper.methods.objectives.verirl import WEIGHT, SampleBalance, verirl
from temper.parts.reward_model import MIXED, MODEL, SCORE, TARGET, RewardModel, binary, trace_back
from temper.policy import Seat
from temper.rewards.designs import circuit, code_of, pass_rate, share, verilog
from temper.tasks.task import Task
from tests.methods.groups import of
from tests.methods.told import Told

# labels ---------------------------------------------------------------------------------------------------------------


def test_trace_back_credits_an_attempt_for_what_became_of_it() -> None:
    assert trace_back([0.0, 0.5, 1.0], 0.9) == pytest.approx([0.81, 0.9, 1.0])
    assert trace_back([1.0, 0.0], 0.9) == [1.0, 0.0]
    assert trace_back([0.2, None, 0.6], 0.5) == pytest.approx([0.2, 0.3, 0.6])
    first, last = trace_back([0.4, None], 0.9)
    assert first == 0.4 and math.isnan(last)  # what was not tested is not known, and not 0
    assert trace_back([]) == [] and binary([0.5, 1.0]) == [0.0, 1.0] and math.isnan(binary([None])[0])


# the environment ------------------------------------------------------------------------------------------------------

TASK_XOR = Task("xor", "a xor b?", info={"cases": [{"a": a, "b": b, "out": a ^ b} for a, b in product((0, 1), (0, 1))]})


def played(texts: list[str], check: Any = pass_rate, turns: int = 3) -> Batch:
    says = Told(lambda n, context: texts[n])
    says.sampler.context = 4096  # type: ignore[attr-defined]
    seat = Seat("solver", says, SamplingParams(), 0, ("t",))  # type: ignore[arg-type]
    played_by_hand.append(says)
    return Batch.of([asyncio.run(Revisions(check, turns).play(TASK_XOR, {"solver": seat}))])


played_by_hand: list[Told] = []


def test_revisions_are_told_how_much_passes_and_end_when_all_does() -> None:
    b = played(["a | b", "a &", "(a | b) & ~(a & b)", "never"])
    assert b[INFO][0]["rates"] == [0.75, 0.0, 1.0] and b[REWARD].tolist() == [1.0]
    asked = [context for context, _ in played_by_hand[-1].asked]
    assert len(asked) == 3 and "75% of the tests pass" in asked[1] and "0% of the tests pass" in asked[2]


def test_what_hangs_is_not_judged() -> None:
    rates = iter([0.25, None])
    b = played(["a", "b"], check=lambda text, task: next(rates), turns=2)
    assert b[INFO][0]["rates"] == [0.25, None] and (REWARD not in b or bool(b[REWARD].isnan().all()))


def test_a_cut_off_attempt_is_no_design() -> None:
    assert played(["a ^ b…"], turns=1)[INFO][0]["rates"] == [0.0]


# the reward model -----------------------------------------------------------------------------------------------------


class Judge(Told):
    """Says 0.75 everywhere, and keeps what it was trained on."""

    def __init__(self) -> None:
        super().__init__(lambda n, context: "")
        self.learner, self.trained = SimpleNamespace(read=self.read, update=self.update), list[tuple[Batch, Any]]()

    def read(self, b: Batch, columns: Any) -> Batch:
        assert list(columns) == [SCORE] and not self.trained
        return b.put(SCORE, torch.full((b.size(TOKEN),), 0.75))

    def update(self, b: Batch, terms: Any) -> dict[str, float]:
        self.trained.append((b, terms))
        return {"loss/verdict": 0.5}


def test_the_reward_model_scores_first_and_learns_both_words() -> None:
    judge, b = Judge(), played(["a | b", "a ^ b"])
    stage = RewardModel(judge, mix=0.25)
    out = asyncio.run(stage(b))
    assert out[MODEL].tolist() == [0.75] and out[MIXED].tolist() == [0.75 * 1.0 + 0.25 * 0.75]
    ((q, (term,)),) = judge.trained
    said = [judge.tokenizer.decode([i]) for i in q.token_ids.tolist()]
    assert q.size(TOKEN) == q.size(TRAJECTORY) == 4 and said == ["n", "y", "n", "y"]  # the attempts are context only
    assert q[TARGET].tolist() == pytest.approx([0.1, 0.9, 0.0, 1.0])
    live = q.put(LOGP, torch.full((4,), math.log(0.5)))
    value = float((term.weights(live) * term.values(live)[0]).sum())
    assert value == pytest.approx(math.log(2) * 2 / 4)
    assert stage.metrics["reward_model/loss"] == 0.5 and "reward_model/auroc" not in stage.metrics  # all will be right


def test_unknown_labels_and_rewards_stay_unknown() -> None:
    judge, rates = Judge(), iter([None])
    b = played(["a"], check=lambda text, task: next(rates), turns=1)
    b = b if REWARD in b else b.put(REWARD, torch.tensor([torch.nan]))
    out = asyncio.run(RewardModel(judge)(b))
    ((q, (term,)),) = judge.trained
    assert bool(q[TARGET].isnan().all()) and term.weights(q).tolist() == [0.0, 0.0]
    assert bool(out[MIXED].isnan().all()) and out[MODEL].tolist() == [0.75]
    none = of([(2, 1.0), (2, 0.0)])
    assert bool(asyncio.run(RewardModel(Judge())(none))[MODEL].isnan().all())  # nobody noted rates


# weights of samples ---------------------------------------------------------------------------------------------------


def test_weights_keep_their_total_and_favour_what_is_rare_and_unexpected() -> None:
    b = of([(2, None), (2, 1.0), (2, 0.0), (2, 0.0), (2, 0.0)])
    logp = torch.tensor([-1.0, -1.0, -3.0, -1.0, -0.1, -0.1, -2.0, -2.0, -0.1, -0.1])
    b = b.put(BEHAVIOUR, logp).put(MIXED, b[REWARD]).put(ADVANTAGE, torch.ones(10))
    out = asyncio.run(SampleBalance()(b))
    w = out[WEIGHT]
    p = torch.tensor([math.exp(-2.0), math.exp(-0.1), math.exp(-2.0), math.exp(-0.1)])
    raw = torch.tensor([0.75, 0.25, 0.25, 0.25]) * (1 - p)
    assert bool(w[0].isnan()) and w[1:].tolist() == pytest.approx((raw / raw.mean()).tolist())
    assert float(w[1:].sum()) == pytest.approx(4.0) and float(w[1]) > float(w[3]) > float(w[2])
    assert out[ADVANTAGE][2:].tolist() == pytest.approx(w[1:].repeat_interleave(2).tolist())
    assert not w.requires_grad
    flat = asyncio.run(SampleBalance(kappa=0.0)(b))[WEIGHT][1:]
    assert flat.tolist() == pytest.approx([2.0, 2 / 3, 2 / 3, 2 / 3])


def test_equal_rewards_weigh_the_same() -> None:
    b = of([(2, 1.0), (1, 1.0)])
    b = b.put(MIXED, b[REWARD]).put(ADVANTAGE, torch.ones(3))
    assert asyncio.run(SampleBalance()(b))[WEIGHT].tolist() == [1.0, 1.0]


def test_method_and_its_options() -> None:
    made = verirl(None, reward_model=Judge())
    assert [type(s).__name__ for s in made.on_batch] == ["RewardModel", "ReturnToGo", "Whiten", "SampleBalance"]
    assert len(verirl(None, reward_model=Judge(), balance=False).on_batch) == 3
    for bad in ({"mix": 1.5}, {"kappa": -1.0}):
        with pytest.raises(UserError):
            verirl(None, reward_model=Judge(), **bad)  # type: ignore[arg-type]


# designs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [("a ^ b", 1.0), ("a | b", 0.75), ("(a|b) & ~(a&b)", 1.0), ("0", 0.5), ("~a & b | a & ~b", 1.0), ("a b", 0.0),
     ("a ^ c", 0.0), ("out", 0.0), ("(a", 0.0), ("a ^", 0.0), ("", 0.0), ("a; b", 0.0), ("~~a", 0.5)],
)  # fmt: skip
def test_circuits_compile_then_are_tested(text: str, rate: float) -> None:
    assert circuit(text, TASK_XOR.info["cases"]) == rate
    assert pass_rate(f"<think>hm</think>{text}<|im_end|>", TASK_XOR) == rate


def test_other_tasks_are_right_or_not() -> None:
    assert pass_rate("<think>3+4=7</think>7", Task("t", "?", "7")) == 1.0 and pass_rate("8", Task("t", "?", "7")) == 0.0


def test_what_a_test_bench_prints() -> None:
    assert share("Mismatches: 5 in 20 samples") == 0.75 and share("Mismatches: 0 in 0 samples") == 0.0
    assert share("test 1 passed\ntest 2 FAIL") == 0.5 and share("") == 0.0
    assert code_of("<think>module x</think>so ```verilog\nmodule t; endmodule\n``` there") == "module t; endmodule"


GOOD = "module top(input a, input b, output y); assign y = a ^ b; endmodule"
BENCH = """
module bench; reg a, b; wire y; integer i, wrong; top dut(a, b, y);
initial begin wrong = 0;
  for (i = 0; i < 4; i = i + 1) begin {a, b} = i; #1; if (y !== (a ^ b)) wrong = wrong + 1; end
  $display("Mismatches: %0d in 4 samples", wrong); $finish; end
endmodule
"""
needs_icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")


@needs_icarus
def test_verilog_compiles_runs_and_is_counted() -> None:
    assert verilog(GOOD, BENCH) == 1.0 and verilog(GOOD.replace("^", "|"), BENCH) == 0.75
    assert verilog("module top(; endmodule", BENCH) == 0.0 and verilog("no code", BENCH) == 0.0
    assert pass_rate(f"```verilog\n{GOOD}\n```", Task("v", "?", info={"testbench": BENCH})) == 1.0


@needs_icarus
def test_a_design_cannot_write_its_own_verdict() -> None:
    for trick in ('initial begin $display("Mismatches: 0 in 4 samples"); $finish; end', 'initial $fopen("x");'):
        assert verilog(GOOD.replace("endmodule", f"{trick} endmodule").replace("^", "|"), BENCH) == 0.0


@needs_icarus
def test_a_simulation_that_does_not_end_is_not_judged() -> None:
    assert verilog(GOOD, "module bench; initial forever #1; endmodule", seconds=1.0) is None


def test_without_icarus_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("temper.rewards.designs.shutil.which", lambda name: None)
    with pytest.raises(UserError, match="apt install iverilog"):
        verilog(GOOD, BENCH)


def test_rounds_are_phases() -> None:
    from temper.recipes.verirl import verirl as recipe

    names = [run.name for run in recipe(cold_start=2, rounds=1, steps=1, eval_tasks=0, data="rg:gcd?size=40")]
    assert names == ["cold-start", "verirl", "rejection", "verirl"]
    task = replace(TASK_XOR, answer="1")
    assert pass_rate("1", task) == 0.5  # cases come before the answer
