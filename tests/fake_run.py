"""A made-up run directory in the documented format, for the report page: plausible curves, and every shape of episode.

`python tests/fake_run.py DIR` writes one to look at.
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

TASKS = {"chain_sum": True, "gcd": True, "letter_counting": True, "simple_equations": True, "number_sorting": False}
WORDS = [
    "first",
    "add",
    "the",
    "two",
    "numbers",
    "then",
    "carry",
    "so",
    "we",
    "get",
    "total",
    "of",
    "and",
    "check",
    "which",
]


def write_fake_run(folder: Path, steps: int = 300, groups: int = 32, attempts: int = 16, snapshots: int = 8) -> Path:
    """Write a finished run of `steps` steps into `folder`."""
    rng = random.Random(7)
    (folder / "episodes").mkdir(parents=True, exist_ok=True)
    write_json(folder / "run.json", run_record(groups, attempts, steps))
    rows = [metrics(rng, step, steps, groups * attempts) for step in range(1, steps + 1)]
    total = 0
    for row in rows:
        total += int(512 * row["completions/mean_length"])
        row["num_tokens"] = total
    write_lines(folder / "metrics.jsonl", rows)
    for i in range(snapshots):
        step = 1 + i * (steps - 1) // max(1, snapshots - 1)
        skill = 0.25 + 0.55 * step / steps
        lines = [chat(rng, step, k, attempts, skill) for k in range(groups)]
        lines[3:3] = [tree(rng, step), game(rng, step), chunked(rng, step)]
        write_lines(folder / "episodes" / f"step_{step:06d}.jsonl", lines)
    write_json(folder / "summary.json", summary(rng, steps, total))
    return folder


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run_record(groups: int, attempts: int, steps: int) -> dict[str, Any]:
    parts = "temper.parts"
    return {
        "recipe": "quickstart",
        "argv": ["temper", "run", "quickstart", "--seed", "1", f"--steps={steps}"],
        "seed": 1,
        "created": "2026-03-02T09:41:00+00:00",
        "versions": {"temper": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        "code": {"revision": "0123456789abcdef0123", "dirty": True},
        "machine": {"system": "Linux x86_64", "cores": 2, "memory": "16 GB", "accelerator": None},
        "resolved": {
            "steps": steps,
            "env": {"class": "temper.envs.single.SingleTurn", "max_tokens": 96},
            "curriculum": {"class": f"{parts}.curricula.Uniform", "tasks": list(TASKS)},
            "on_group": [
                {"class": f"{parts}.rewards.Verify", "deadline": 2.0, "weights": {"accuracy": 1.0, "format": 0.1}},
                {"class": f"{parts}.advantages.GroupAdvantage", "scale": "std", "epsilon": 1e-4},
            ],
            "updates": [
                {
                    "class": "temper.run.Update",
                    "terms": [{"class": f"{parts}.losses.PolicyGradient", "clip": [0.2, 0.28], "per": "token_mean"}],
                    "optimizer": {"class": "torch.optim.AdamW", "lr": 3e-4, "betas": [0.9, 0.95]},
                    "epochs": 1,
                }
            ],
        },
        "units": {"groups per step": groups, "attempts per group": attempts, "per step": groups * attempts},
    }


def metrics(rng: random.Random, step: int, steps: int, trajectories: int) -> dict[str, Any]:
    """One step's record: things get better, with noise."""
    x = step / steps
    rise = 1 / (1 + math.exp(-7 * (x - 0.4)))
    reward = 0.27 + 0.45 * rise + rng.gauss(0, 0.025)
    length = 46 + 26 * rise + rng.gauss(0, 2)
    row: dict[str, Any] = {
        "step": step,
        "reward": reward,
        "reward_std": 0.44 - 0.1 * rise,
        "rewards/accuracy/mean": reward - 0.04,
        "rewards/format/mean": 0.55 + 0.4 * rise + rng.gauss(0, 0.01),
        "frac_reward_zero_std": min(0.9, max(0.0, 0.12 + 0.28 * rise + rng.gauss(0, 0.05))),
        "completions/mean_length": length,
        "completions/min_length": max(3, length - 30 + rng.gauss(0, 3)),
        "completions/max_length": min(96, length + 34 + rng.gauss(0, 3)),
        "completions/clipped_ratio": max(0.0, 0.09 - 0.07 * rise + rng.gauss(0, 0.01)),
        "entropy": 1.15 - 0.6 * rise + rng.gauss(0, 0.03),
        "kl": 0.0004 * math.exp(5 * x) * rng.lognormvariate(0, 0.2),
        "loss": rng.gauss(0, 0.02) - 0.01,
        "grad_norm": rng.lognormvariate(-0.6, 0.35) + (4 if step == steps // 3 else 0),
        "learning_rate": 3e-4 * min(1, step / 20) * (1 - 0.9 * x),
        "clip_ratio/region_mean": 0.01 + 0.01 * rng.random(),
        "clip_ratio/low_mean": 0.004 * rng.random(),
        "sampling/mismatch_kl": None if step == 3 else 1e-6 * rng.lognormvariate(0, 0.4),
        "timing_s/rollout": 0.31 + 0.08 * rise + 0.03 * rng.random(),
        "timing_s/reward": 0.05 + 0.01 * rng.random(),
        "timing_s/update": 0.22 + 0.02 * rng.random(),
        "perf/tokens_per_s": 52000 + 3000 * rng.random(),
        "debug/weird name": rng.random(),
        "controller": {"coefficient": 0.01 + 0.001 * x},
    }
    row["timing_s/step"] = row["timing_s/rollout"] + row["timing_s/reward"] + row["timing_s/update"] + 0.04
    for i, (task, trained) in enumerate(TASKS.items()):
        if trained:
            row[f"by_source/{task}/reward"] = reward + 0.12 - 0.07 * i + rng.gauss(0, 0.03)
        if step in (1, steps) or step % max(1, steps // 10) == 0:
            row[f"eval/{task}/pass@1"] = min(1.0, max(0.0, 0.32 + 0.4 * rise - 0.06 * i + rng.gauss(0, 0.015)))
            row["eval/pass@1"] = 0.2 + 0.4 * rise
    counts = [0] * 12
    lengths = [0] * 16
    for _ in range(200):
        right = rng.random() < reward - 0.04
        counts[min(11, int(11 * (0.9 * right + 0.1 * (rng.random() < 0.7))))] += 1
        lengths[min(15, max(0, int(rng.gauss(length, 14) / 6)))] += 1
    row["hist/reward"] = {"edges": [i * 1.1 / 12 for i in range(13)], "counts": counts}
    row["hist/length"] = {"edges": [6 * i for i in range(17)], "counts": lengths}
    return row


def turn(rng: random.Random, parent: int, author: str, text: str, credit: float = 0.0, **more: Any) -> dict[str, Any]:
    """A turn whose tokens are the words of `text`; the environment's carry no columns."""
    pieces = [piece for piece in text.replace("\n", " \n").split(" ") if piece]
    tokens = [pieces[0]] + [p if p.startswith("\n") else " " + p for p in pieces[1:]]
    n = len(tokens)
    sampled = author != "env"
    record: dict[str, Any] = {"parent": parent, "author": author, "version": 4, "tokens": tokens, "sampled": sampled}
    record["ids"] = [sum(map(ord, token)) for token in tokens]
    record |= {"finish": "stop" if sampled else None, "logp": None, "advantage": None}
    if sampled:
        record["entropy"] = [rng.expovariate(1.6) for _ in range(n)]
        record["logp"] = [-rng.expovariate(2.0) for _ in range(n)]
        record["ratio"] = [math.exp(rng.gauss(0, 0.06)) for _ in range(n)]
        record["advantage"] = [credit] * n
        record["gate"] = [0 if rng.random() < 0.04 else 1 for _ in range(n)]
        record["entropy"][0] = None
    return record | more


def reasoning(rng: random.Random, words: int, answer: Any) -> str:
    body = " ".join(rng.choice(WORDS) for _ in range(words))
    middle = len(body) // 2
    cut = body.find(" ", middle)
    return f"<think>\n{body[:cut]}\n{body[cut + 1 :]}\n</think>\n<answer> {answer} </answer>"


def chat(rng: random.Random, step: int, k: int, attempts: int, skill: float) -> dict[str, Any]:
    """One prompt and its attempts side by side."""
    source = list(TASKS)[k % len(TASKS)]
    a, b, c = (rng.randint(10, 99) for _ in range(3))
    prompt = f"What is {a} + {b} - {c}? Think first, then give the number inside <answer> tags."
    right = a + b - c
    chance = min(0.98, max(0.0, rng.gauss(skill, 0.3)))
    correct = [rng.random() < chance for _ in range(attempts)]
    mean = sum(correct) / attempts
    std = math.sqrt(mean * (1 - mean)) or 1.0
    turns = [turn(rng, -1, "env", prompt)]
    trajectories = []
    for i, good in enumerate(correct):
        outcome = "timeout" if (k + i) % 53 == 0 else "ok"
        cut = rng.random() < 0.06
        text = reasoning(rng, rng.randint(14, 60), right if good else right + rng.randint(1, 9))
        credit = (good - mean) / std if outcome == "ok" else None
        turns.append(turn(rng, 0, "solver", text, credit or 0.0, finish="length" if cut else "stop"))
        reward = None if outcome == "timeout" else float(good)
        parts = {"accuracy": reward, "format": 1.0}
        trajectories.append(judged([0, i + 1], "solver", reward, credit, outcome, rewards=parts))
    split = "eval" if k % 4 == 3 else "train"
    messages = [{"role": "user", "content": prompt}]
    task = {"id": f"{source}-{k}", "source": source, "prompt": messages, "answer": str(right), "difficulty": 3}
    return {"step": step, "split": split, "task": task, "turns": turns, "trajectories": trajectories}


def judged(turns: list[int], role: str, reward: Any, credit: Any, outcome: str = "ok", **more: Any) -> dict[str, Any]:
    return {"turns": turns, "role": role, "reward": reward, "outcome": outcome, "advantage": credit} | more


def tree(rng: random.Random, step: int) -> dict[str, Any]:
    """A tree rollout: three first halves, each with three second halves, and one that branches again."""
    turns = [turn(rng, -1, "env", "Make 24 from 4, 7, 8 and 8, using each number once.")]
    trajectories = []
    for i in range(3):
        half = len(turns)
        turns.append(turn(rng, 0, "solver", reasoning(rng, 12, "…")[:-9], 0.4 - 0.4 * i))
        for j in range(3):
            leaf = len(turns)
            good = float((i + j) % 3 == 0)
            text = f"so we try {rng.choice(WORDS)} and get <answer> {24 if good else 20 + j} </answer>"
            turns.append(turn(rng, half, "solver", text, good - 0.3))
            trajectories.append(judged([0, half, leaf], "solver", good, good - 0.33))
    task = {"id": "tree-1", "source": "countdown", "prompt": "Make 24 from 4, 7, 8 and 8.", "answer": None}
    return {"step": step, "split": "train", "task": task, "turns": turns, "trajectories": trajectories}


def game(rng: random.Random, step: int) -> dict[str, Any]:
    """Two roles over disjoint chains, three episodes."""
    turns: list[dict[str, Any]] = []
    trajectories = []
    for episode in range(3):
        chains: dict[str, list[int]] = {"player-1": [], "player-2": []}
        for move in range(3):
            for role, chain in chains.items():
                said = "The other took two. Your move." if chain else f"You are {role}. Piles are 3, 4 and 5."
                turns.append(turn(rng, chain[-1] if chain else -1, "env", said))
                text = f"I take {rng.randint(1, 3)} from pile {move + 1}"
                turns.append(turn(rng, len(turns) - 1, role, text, rng.choice([-0.7, 0.7])))
                chain += [len(turns) - 2, len(turns) - 1]
        winner = rng.choice(list(chains))
        for role, chain in chains.items():
            won = role == winner
            trajectories.append(judged(chain, role, float(won), 0.7 if won else -0.7, episode=episode))
    task = {"id": "nim-0", "source": "nim", "prompt": "Nim with piles 3, 4, 5.", "answer": None}
    return {"step": step, "split": "train", "task": task, "turns": turns, "trajectories": trajectories}


def chunked(rng: random.Random, step: int) -> dict[str, Any]:
    """A context reset: each attempt thinks in two contexts, the second seeing only a carried-over note."""
    turns = [turn(rng, -1, "env", "How many r in strawberry raspberry? Think in chunks.")]
    trajectories = []
    for i in range(4):
        first = len(turns)
        turns.append(turn(rng, 0, "solver", reasoning(rng, 20, "?"), 0.5 - 0.3 * i))
        turns.append(turn(rng, -1, "env", "How many r in strawberry raspberry? So far: three in the first word."))
        text = f"three more, so <answer> {6 if i % 2 else 5} </answer>"
        turns.append(turn(rng, first + 1, "solver", text, 0.5 - 0.3 * i))
        trajectories.append(judged([0, first, first + 1, first + 2], "solver", float(i % 2), 0.5 - 0.3 * i))
    task = {"id": 17, "source": "letter_counting", "prompt": "How many r in strawberry raspberry?", "answer": 6}
    return {"step": step, "split": "train", "task": task, "turns": turns, "trajectories": trajectories}


def summary(rng: random.Random, steps: int, tokens: int) -> dict[str, Any]:
    before, after, difference = {}, {}, {}
    for i, (name, trained) in enumerate(TASKS.items()):
        low, gain = 0.46 - 0.07 * i, 0.42 - 0.06 * i
        before[name] = scored(low, trained, 46.2, 0.31)
        after[name] = scored(low + gain, trained, 71.5 + i, 0.02)
        difference[name] = {"pass@1": gain, "interval": [gain - 0.06, gain + 0.06]}
    good = {"text": reasoning(rng, 30, 42), "reward": 1.1}
    bad = {"text": reasoning(rng, 20, 40)[:-10], "reward": 0.0}
    prompts = ["What is 17 + 38 - 13?", "What is gcd(84, 126)?"]
    tasks = [{"id": i, "source": list(TASKS)[i], "prompt": p, "answer": "42"} for i, p in enumerate(prompts)]
    examples = [{"task": task, "before": bad, "after": good} for task in tasks]
    overall = {"pass@1": 0.3, "interval": [0.262, 0.341], "method": "paired bootstrap, 10000 resamples"}
    return {
        "before": {"pass@1": 0.32, "interval": [0.29, 0.35], "tasks": before},
        "after": {"pass@1": 0.62, "interval": [0.59, 0.65], "tasks": after},
        "difference": overall | {"tasks": difference},
        "examples": examples,
        "steps": steps,
        "seconds": 168.4,
        "tokens": tokens,
    }


def scored(mean: float, trained: bool, length: float, failures: float) -> dict[str, Any]:
    wide = {"1": mean, "4": min(1.0, mean + 0.2), "16": min(1.0, mean + 0.3)}
    return {"pass@1": mean, "interval": [mean - 0.05, mean + 0.05], "pass@k": wide, "maj@k": min(1.0, mean + 0.1),
            "mean_length": length, "format_failures": failures, "trained": trained}  # fmt: skip


if __name__ == "__main__":
    print(write_fake_run(Path(sys.argv[1])))
