"""`temper eval`: numbers, and mistakes."""

import json
from pathlib import Path

import pytest

from tests.cli.calls import Temper

REWARD = "def first(completion, answer):\n    return float(int(answer) % 2 == 0)\n"


def test_an_evaluation(temper: Temper, toy_model: str) -> None:
    Path("r.py").write_text(REWARD)
    Path("t.jsonl").write_text("".join(json.dumps({"question": "?", "answer": str(i)}) + "\n" for i in range(4)))
    line = f"eval {toy_model} --tasks t.jsonl --reward r.py:first --attempts 4 --max-tokens 3 --threads 1".split()
    done = temper(*line, "--json")
    assert done.status == 0, done
    found = json.loads(done.out)
    assert found["avg@k"] == 0.5 and found["k"] == 4
    (task,) = found["tasks"].values()
    assert task["pass@k"] == {"1": 0.5, "2": 0.5, "4": 0.5} and task["maj@k"] == 0.5 and task["tasks"] == 4
    assert found["interval"][0] <= 0.5 <= found["interval"][1]
    table = temper(*line, "--limit", "2")
    assert "2 tasks × 4 attempts" in table.out and "avg@4" in table.out and "format failures" in table.out


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("eval", "temper eval needs MODEL"),
        ("eval m --tasks t.jsonl --reward exact_match", "no model at 'm'"),
        ("eval m --tasks nothere.jsonl", "no file nothere.jsonl"),
        ("eval m --tasks t.jsonl", "how is an answer judged?"),
        ("eval m --attempts 0", "--attempts must be at least 1"),
        ("eval m --tasks rg:nothing_like_it", "nothing_like_it"),
    ],
)
def test_a_mistake_is_one_line(temper: Temper, line: str, why: str) -> None:
    Path("t.jsonl").write_text('{"question": "?", "answer": "1"}\n')
    assert why in temper(*line.split()).error
