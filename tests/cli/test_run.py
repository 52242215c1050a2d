"""`temper run`: from a command line to a run directory, and what is said when it does not get there."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cli.calls import ROOT, TINY, Temper, program

MINE = '''
"""A recipe outside the repository."""
from temper.recipe import extends
from temper.recipes.base import base
from temper.run import Run


@extends(base, without=("model",))
def mine(breaks: str = "", phases: int = 1, **options) -> Run:
    """A short pre-training.

    breaks  the exception that a stage raises
    """
    runs = [base(model=MODEL, **options) for _ in range(phases)]
    for run in runs:
        if breaks:
            run.on_batch.append(Breaks(breaks))
    return runs if phases > 1 else runs[0]


class Breaks:
    reads, writes = (), ()

    def __init__(self, how):
        self.how = how

    async def __call__(self, batch):
        raise {"runtime": RuntimeError("the stage\\nbroke"), "interrupt": KeyboardInterrupt()}[self.how]
'''
SHORT = ("--steps", "1", "--groups", "2", "--threads", "1")


@pytest.fixture
def mine(tmp_path: Path, toy_model: str) -> str:
    """A recipe in a file."""
    file = tmp_path / "mine.py"
    file.write_text(MINE.replace("MODEL", repr(toy_model)))
    return str(file)


def test_a_recipe_in_a_file_outside_the_repository_runs_and_resumes(temper: Temper, mine: str, tmp_path: Path) -> None:
    told = temper("run", mine, "--help")
    assert told.status == 0 and "--breaks TEXT" in told.out and "--lr FLOAT" in told.out and "--model" not in told.out
    done = temper("run", mine, *SHORT, "--seed", "3")
    assert done.status == 0, done
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name.startswith("base-") and out.name.endswith("-s3")
    record = json.loads((out / "run.json").read_text())
    assert record["argv"] == ["run", f"{mine}:mine", "--steps", "1", "--groups", "2", "--seed", "3"]
    assert (out / "checkpoints" / "latest" / "model" / "config.json").exists()

    again = temper("run", mine, *SHORT, "--out", str(out))
    assert "holds a run already" in again.error and "--resume" in again.error
    on = temper("run", "--resume", str(out), "--steps", "2", "--threads", "1")
    assert on.status == 0 and "resumed at step 1" in on.out, on
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert json.loads((out / "run.json").read_text())["resolved"]["groups"] == 2  # as it was started
    assert "is at step 2 already" in temper("run", "--resume", str(out), "--steps", "1").error
    assert f"is a run of {mine}:mine, not of grpo" in temper("run", "grpo", "--resume", str(out)).error


def test_the_method_in_the_readme_runs(temper: Temper, toy_model: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for name in ("brief.py", "my_reward.py"):
        (code,) = [b for b in blocks if b.startswith(f"# {name}\n")]
        assert len(code.splitlines()) <= 40
        Path(name).write_text(code)
    rows = [{"question": f"{i} + 1 =", "answer": str(i + 1)} for i in range(8)]
    Path("train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    done = temper(
        *("run", "brief.py", "--bonus", "0.5", "--model", toy_model, "--data", "train.jsonl"),
        *("--reward", "my_reward.py:right", "--max-tokens", "4", "--attempts", "2", "--eval-attempts", "1", *SHORT),
        *("--out", "here"),
    )
    assert done.status == 0, done
    resolved = json.loads(Path("here/run.json").read_text())["resolved"]
    assert next(s for s in resolved["on_group"] if s["class"].endswith("Brief"))["bonus"] == 0.5
    assert "rewards/right/mean" in json.loads(Path("here/metrics.jsonl").read_text().splitlines()[-1])
    assert Path("here/report.html").exists()


def test_phases_have_a_directory_each(temper: Temper, mine: str) -> None:
    done = temper("run", mine, "--phases", "2", *SHORT, "--out", "both")
    assert done.status == 0, done
    assert sorted(p.name for p in Path("both").iterdir()) == ["1-base", "2-base"]
    on = temper("run", "--resume", "both", "--threads", "1")
    assert on.status == 0 and on.out.count("resumed at step 1") == 2


def test_a_recipe_that_takes_out_finds_the_model_of_an_earlier_phase(temper: Temper, toy_model: str) -> None:
    Path("chain.py").write_text(
        f"""
from pathlib import Path
from temper.recipes.base import base

def chain(out: Path = Path("runs/chain"), steps: int = 1, seed: int = 0):
    first = base(model={toy_model!r}, steps=steps, groups=2, seed=seed)
    return [first, base(model=str(out / "1-base/checkpoints/latest/model"), steps=steps, groups=2, seed=seed + 1)]
"""
    )
    done = temper("run", "chain.py", "--threads", "1")
    assert done.status == 0, done
    assert sorted(p.name for p in Path("runs/chain-s0").iterdir()) == ["1-base", "2-base"]


def test_a_dry_run_estimates_and_writes_nothing(
    temper: Temper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from temper.cli import estimate

    monkeypatch.setattr(estimate, "SECONDS", 0.0)
    sizes = ("--groups", "5", "--attempts", "6", "--minibatches", "2", "--max-tokens", "8", "--eval-tasks", "4")
    done = temper("run", "grpo", *sizes, "--model", TINY, "--threads", "1", "--dry-run")
    assert done.status == 0, done
    for units in (" 5  groups per step", " 30  trajectories per step", " 15  trajectories per optimiser step"):
        assert units in done.out
    for told in ("tokens (as now)   of 8 (the limit)", "the whole run", "peak memory", "from 2 of 5 groups, played"):
        assert told in done.out
    assert "nothing was written" in done.out


def test_a_dry_run_fetches_no_model(temper: Temper, tmp_path: Path) -> None:
    done = temper("run", "grpo", "--model", "nobody/has-this-model", "--dry-run")
    assert done.status == 0, done
    assert "no estimate of time and memory: nobody/has-this-model is not on this machine yet" in done.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("run quickstrat", "unknown recipe 'quickstrat'; did you mean quickstart?"),
        ("run grpo --stepz 3", "unknown option '--stepz'; did you mean --steps"),
        ("run grpo --steps many", "--steps wants a whole number, not 'many'"),
        ("run grpo --steps -1 --dry-run", "steps must not be negative, got -1"),
        ("run grpo --temperature -1 --dry-run", "temperature must not be negative"),
        ("run grpo --attempts 0 --dry-run", "attempts must be at least 1, got 0"),
        ("run grpo --lr -1 --dry-run", "lr must be a finite number that is not negative"),
        ("run grpo --lr nan --dry-run", "lr must be a finite number that is not negative"),
        ("run grpo --warmup -1 --dry-run", "warmup must not be negative, got -1"),
        ("run grpo --eval-every -1 --dry-run", "eval_every must not be negative, got -1"),
        ("run grpo --eval-tasks -1 --dry-run", "eval_tasks must not be negative, got -1"),
        ("run grpo --save-every -1 --dry-run", "save_every must not be negative, got -1"),
        ("run grpo --token-budget 0 --dry-run", "token_budget must be at least 1, got 0"),
        ("run grpo --max-rows 0 --dry-run", "max_rows must be at least 1, got 0"),
        ("run grpo --lora -4 --dry-run", "must be at least 1, got -4"),
        ("run grpo --threads -1 --dry-run", "--threads must not be negative, got -1"),
        ("run grpo --weights nan --dry-run", "reward weights must be finite numbers"),
        ("run grpo --device tpu --out x", "unknown device 'tpu'"),
        ("run grpo --model good.jsonl --out x", "'good.jsonl' is a file"),
        ("run grpo --model nobody/nothing --out x", "no directory 'nobody/nothing' here, and the hub"),
        ("run grpo --model . --out x", "'.' is no model directory: it has no config.json"),
        ("run sft --data good.jsonl --eval-tasks -1 --dry-run", "eval_tasks must not be negative"),
        ("run grpo --data half.jsonl --reward exact_match", "half.jsonl, line 1: question holds half a character"),
        ("run grpo --data good.jsonl --reward exact_match --reward exact_match", "exact_match is given twice"),
        ("run leaving.py", "leaving.py (line 1) cannot be imported: SystemExit"),
        ("run grpo --data good.jsonl --reward leaving.py:f", "leaving.py cannot be imported: SystemExit"),
        ("run grpo --data nothere.jsonl --reward exact_match", "no file nothere.jsonl"),
        ("run grpo --data rg:chain_summ --dry-run", "chain_sum"),
        ("run grpo --data bad.jsonl --reward exact_match", "bad.jsonl, line 2"),
        ("run grpo --data empty.jsonl --reward exact_match", "empty.jsonl holds no tasks"),
        ("run grpo --data good.jsonl --dry-run", "how is an answer judged?"),
        ("run grpo --data good.jsonl --reward exact_mach", "did you mean exact_match"),
        ("run grpo --data good.jsonl --reward my.py:right", "no file my.py"),
        ("run grpo --model no/such/model --out x", "no model at 'no/such/model'"),
        ("run grpo --resume", "--resume DIR"),
        ("run --resume nowhere", "there is no directory nowhere"),
        ("run --resume .", "it has no run.json"),
        ("run --steps 3", "which recipe?"),
        ("run nothere.py", "no file nothere.py"),
        ("run broken.py", "broken.py is not Python"),
        ("run failing.py", "failing.py (line 2) cannot be imported: ModuleNotFoundError"),
        ("run two.py", "which recipe? two.py:one or two.py:other"),
        ("run two.py:third", "unknown function in two.py 'third'"),
        ("run two.py:one", "returned int, not a Run"),
        ("run two.py:other --x 1", "two.py (line 7): ZeroDivisionError"),
        ("run two.py:other", "needs --x"),
        ("run none.py", "no function that could be a recipe"),
        ("quickstart", "did you mean temper run quickstart?"),
        ("rnu", "unknown command 'rnu'; did you mean run?"),
        ("--help-me", "unknown option '--help-me'"),
    ],
)
def test_a_users_mistake_is_one_line(temper: Temper, line: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Path("good.jsonl").write_text('{"question": "1 + 1 =", "answer": "2"}\n' * 4)
    Path("bad.jsonl").write_text('{"question": "1 + 1 =", "answer": "2"}\n{"question": \n')
    Path("empty.jsonl").write_text("")
    Path("broken.py").write_text("def f(:\n")
    Path("failing.py").write_text("\nimport nothing_of_this_name\n\ndef failing():\n    pass\n")
    Path("two.py").write_text("def one():\n    return 1\n\n\ndef other(x: int):\n    del x\n    return 1 / 0\n")
    Path("none.py").write_text("x = 1\n")
    Path("half.jsonl").write_text('{"question": "a \\ud83e b", "answer": "2"}\n')
    Path("leaving.py").write_text("raise SystemExit(5)\ndef leaving():\n    pass\n")
    assert why in temper(*line.split()).error


def test_what_a_run_breaks_on_is_in_a_file(temper: Temper, mine: str) -> None:
    done = temper("run", mine, "--breaks", "runtime", *SHORT, "--out", "here")
    assert done.status == 1
    assert (
        done.err
        == "temper: error: RuntimeError: the stage broke, in stage Breaks; the traceback is in here/crash.log\n"
    )
    assert "Traceback" in Path("here/crash.log").read_text()


def test_an_interrupted_run_says_how_it_goes_on(temper: Temper, mine: str) -> None:
    done = temper("run", mine, "--breaks", "interrupt", *SHORT, "--out", "here")
    assert done.status == 130
    assert done.err == "temper: interrupted; continue with: temper run --resume here\n"


def test_a_resumption_that_fails_leaves_the_run_as_it_was(temper: Temper, toy_model: str) -> None:
    Path("good.jsonl").write_text('{"question": "1 + 1 =", "answer": "2"}\n' * 4)
    sizes = ("--attempts", "2", "--max-tokens", "4", "--eval-tasks", "0", "--data", "good.jsonl")
    done = temper("run", "grpo", "--model", toy_model, "--out", "x", *SHORT, *sizes, "--reward", "exact_match")
    assert done.status == 0, done
    before = Path("x/run.json").read_text()
    assert "does not fit this run" in temper("run", "--resume", "x", "--steps", "2", "--model", TINY).error
    assert Path("x/run.json").read_text() == before
    assert temper("run", "--resume", "x", "--steps", "2", "--threads", "1").status == 0


def test_a_damaged_run_directory_says_how_it_goes_on(temper: Temper, mine: str) -> None:
    assert temper("run", mine, "--out", "x", *SHORT[2:], "--steps", "2", "--save-every", "1").status == 0
    Path("x/run.json").write_text("{")
    assert "x/run.json does not say what was run" in temper("run", "--resume", "x").error
    assert temper("run", mine, "--resume", "x", *SHORT[2:], "--steps", "3", "--save-every", "1").status == 0
    for name in ("training.pt", "state.pt"):
        Path("x/checkpoints/latest", name).write_bytes(b"junk")
        why = temper("run", "--resume", "x", "--steps", "4").error
        assert f"step_3/{name} is damaged" in why and "ln -sfn step_2 x/checkpoints/latest" in why
    Path("x/checkpoints/latest").unlink()
    Path("x/checkpoints/step_3/state.pt").unlink()
    resumed = temper("run", "--resume", "x", "--steps", "3")
    assert resumed.status == 0 and "resumed at step 2" in resumed.out
    Path("x/metrics.jsonl").write_text("junk\n")
    assert "x/metrics.jsonl is damaged" in temper("run", "--resume", "x", "--steps", "4").error


def test_debugging_shows_the_traceback(temper: Temper, mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_DEBUG", "1")
    with pytest.raises(RuntimeError, match="broke"):
        temper("run", mine, "--breaks", "runtime", *SHORT, "--out", "here")


def test_as_a_program(tmp_path: Path) -> None:
    done = program("run", "nothing-like-this", cwd=tmp_path)
    assert "unknown recipe" in done.error
    assert "Traceback" not in done.err
    assert shutil.which("python") is None or program("--version", cwd=tmp_path).out.startswith("temper ")


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """Neither the overview, nor a recipe's options, nor the lists need torch."""
    import subprocess
    import sys

    code = """
import sys
from temper.cli import main
for argv in (["--help"], ["--version"], ["run"], ["run", "grpo", "--help"], ["eval", "--help"], ["list", "recipes"],
             ["list", "methods", "--json"], ["list", "parts"], ["show", "recipe:grpo"], ["run", "grpo", "--nonsense"]):
    main(argv)
heavy = {"torch", "transformers", "numpy", "reasoning_gym"} & set(sys.modules)
assert not heavy, heavy
"""
    env = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
