"""`temper run grpo --model DIR --data FILE --reward FILE.py:function`: a user's own task, with no other code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from temper.cli import main
from tests.models import builders
from tests.models.test_architectures import reference
from tests.seams.toys import save_toy_model

REWARDS = '''
"""Three functions about the same thing, one in each house's signature; each checks what reaches it."""


def digits(completion, answer, level):
    assert answer.isdigit() and level in (1, 2)
    return sum(c.isdigit() for c in completion) / max(1, len(completion))


def trl_style(prompts, completions, level, completion_ids, **kwargs):
    assert len(prompts) == len(completions) == len(level) == len(completion_ids)
    assert isinstance(completions[0], list) == isinstance(prompts[0], list) and "answer" in kwargs
    texts = [c[0]["content"] if isinstance(c, list) else c for c in completions]
    return [None if n == 2 else float(len(t) % 3) for t, n in zip(texts, level)]


async def slow(completion, **kwargs):
    return 0.5 if kwargs["level"] == 1 else 0.25


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    assert data_source == "sums" and extra_info["index"] >= 0
    return {"score": float(str(ground_truth) in solution_str), "length": len(solution_str)}
'''
ROWS = [{"prompt": f"What is {a} + {a}?", "answer": str(2 * a), "level": 1 + a % 2} for a in range(12)]
SMALL = ["--steps", "2", "--groups", "2", "--attempts", "3", "--max-tokens", "8", "--eval-attempts", "1", "--seed", "3"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return builders.save("qwen3", tmp_path_factory.mktemp("model"))


def run(folder: Path, model: str, data: str | Path, *options: str, recipe: str = "grpo") -> list[dict[str, Any]]:
    """Metrics of the training steps."""
    out = folder / "run"
    assert main(["run", recipe, "--model", model, "--data", str(data), "--out", str(out), *SMALL, *options]) == 0
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"run.json", "summary.json", "report.html"} <= {p.name for p in out.iterdir()}
    return [r for r in records if r["step"] > 0]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_own_rewards_in_three_signatures_on_jsonl(model: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REWARDS)
    named = [w for f in ("digits", "trl_style", "slow") for w in ("--reward", f"{tmp_path / 'mine.py'}:{f}")]
    metrics = run(tmp_path, model, jsonl(tmp_path / "rows.jsonl", ROWS), *named, "--weights", "1,0.5,2")
    assert len(metrics) == 2 and metrics[0]["frac_not_judged"] == 0
    assert {"rewards/digits/mean", "rewards/trl_style/mean", "rewards/slow/mean"} <= set(metrics[0])
    assert all(0.25 <= m["rewards/slow/mean"] <= 0.5 for m in metrics)
    saved = tmp_path / "run" / "checkpoints" / "latest" / "model"
    before, after = reference(model).state_dict(), reference(str(saved)).state_dict()
    assert any(not before[n].equal(w) for n, w in after.items())
    episodes = (tmp_path / "run" / "episodes" / "step_000001.jsonl").read_text()
    assert "What is" in episodes


def test_verl_rows_with_its_score_function_from_parquet(model: str, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {
            "data_source": "sums", "prompt": [{"role": "user", "content": r["prompt"]}], "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": r["answer"]}, "extra_info": {"index": i},
        }
        for i, r in enumerate(ROWS)
    ]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "mine.py").write_text(REWARDS)
    metrics = run(tmp_path, model, tmp_path / "rows.parquet", "--reward", f"{tmp_path / 'mine.py'}:compute_score")
    assert metrics[0]["frac_not_judged"] == 0 and "by_source/sums/reward" in metrics[0]


def test_a_hugging_face_data_set_saved_to_disk_with_adapters(model: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("peft")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    (tmp_path / "mine.py").write_text(REWARDS)
    metrics = run(
        tmp_path, model, tmp_path / "saved", "--reward", f"{tmp_path / 'mine.py'}:digits", "--lora", "4",
        "--checkpointing", "--beta", "0.05",
    )  # fmt: skip
    assert metrics[0]["frac_not_judged"] == 0
    saved = tmp_path / "run" / "checkpoints" / "latest" / "model"
    assert (saved / "adapter_model.safetensors").exists() and not (saved / "model.safetensors").exists()


def test_gsm8k_with_math_verify(gsm8k: Path, tmp_path: Path) -> None:
    """Word problems as they are published; a random model solves none, and every answer is judged."""
    pytest.importorskip("math_verify")
    metrics = run(
        tmp_path, save_toy_model(tmp_path / "toy"), gsm8k / "train.jsonl", "--eval-data", str(gsm8k / "test.jsonl"),
        "--reward", "math_verify", "--eval-tasks", "4",
    )  # fmt: skip
    assert [m["frac_not_judged"] for m in metrics] == [0, 0] and metrics[-1]["reward"] is not None
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [t["tasks"] for t in summary["before"]["tasks"].values()] == [4] and summary["before"]["pass@1"] < 0.5


def test_fine_tuning_from_the_command_line(model: str, tmp_path: Path) -> None:
    small = ["--steps", "2", "--groups", "2", "--eval-every", "1"]
    data = jsonl(tmp_path / "rows.jsonl", [{**r, "chosen": r["answer"], "rejected": "no"} for r in ROWS])
    for recipe in ("sft", "dpo"):
        out = tmp_path / recipe
        assert main(["run", recipe, "--model", model, "--data", str(data), "--out", str(out), *small]) == 0
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert [r["step"] for r in records] == [0, 1, 2] and any(k.startswith("eval/loss/") for k in records[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "{tmp}/nothing"], "no model at"),
        (["--data", "{tmp}/nothing.jsonl"], "no file"),
        (["--reward", "{tmp}/mine.py:nothing"], "unknown function"),
        (["--reward", "{tmp}/none.py:digits"], "no file"),
    ],
)
def test_mistakes_are_one_line(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    (tmp_path / "mine.py").write_text(REWARDS)
    given = {
        "--model": model, "--data": str(jsonl(tmp_path / "rows.jsonl", ROWS)), "--reward": f"{tmp_path}/mine.py:digits",
    }  # fmt: skip
    given[options[0]] = options[1].format(tmp=tmp_path)
    words = [w for pair in given.items() for w in pair]
    assert main(["run", "grpo", *words, "--out", str(tmp_path / "run"), *SMALL]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and len(err.splitlines()) == 1
