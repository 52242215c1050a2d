"""The card of temper-tiny: pass@1, pass@16 and greedy per skill on held-out tasks, beside what needs no model.

    python studies/base_card.py MODEL [--run RUN] [--tasks 100] [--attempts 16] [--write]

MODEL is a Hugging Face directory or a bundled name; RUN the directory of its pre-training run, which says what it was
trained on. `--write` puts the card into MODEL's directory as README.md; otherwise it is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import nan
from pathlib import Path
from typing import Any

from temper.backends.base import SamplingParams
from temper.backends.local_sampler import LocalSampler
from temper.models import load
from temper.tasks.skills import SKILLS, STYLES, baselines, demos, held_out, reward
from temper.tasks.suites import BASE_SKILLS
from temper.tasks.task import Task

SEED = 7  # of the held-out tasks and of sampling


@dataclass(frozen=True)
class Measured:
    """One skill: pass rates in [0, 1], mean answer length in tokens."""

    skill: str
    pass_1: float
    pass_16: float
    greedy: float
    chance: float
    copy: float
    length: float
    seen: float  # share of the held-out questions that training also asked (NaN: not looked)


async def answer(sampler: LocalSampler, tokenizer: Any, task: Task, seed: int, **params: Any) -> tuple[float, int]:
    """(reward, tokens) of one sampled answer."""
    prompt = tokenizer.apply_chat_template(
        task.messages, tools=task.info.get("tools"), tokenize=False, add_generation_prompt=True
    )
    ids = tuple(tokenizer.encode(prompt, add_special_tokens=False))
    done = await sampler.sample(ids, SamplingParams(max_tokens=128, seed=seed, **params))
    text = tokenizer.decode(list(done.ids)).removesuffix(tokenizer.eos_token)
    return reward(text, **task.info), len(done.ids)


def question(task: Task) -> int:
    """A fingerprint of what is asked."""
    return hash(str(task.prompt))


def asked(run: Path | None) -> dict[str, set[int]]:
    """Every question of a pre-training run, by skill (about 10,000 a second)."""
    found: dict[str, set[int]] = {skill: set() for skill in SKILLS}
    if run is not None:
        facts = json.loads((run / "run.json").read_text())
        count = facts["units"]["groups per step"] * facts["units"]["steps"]
        for demo in islice(demos(BASE_SKILLS, facts["seed"]), count):
            found[demo.skill].add(question(demo.task))
    return found


async def measure(
    sampler: LocalSampler, tokenizer: Any, skill: str, tasks: int, attempts: int, seen: set[int]
) -> Measured:
    """Sampled at temperature 1, and greedily."""
    questions = held_out(skill, tasks, SEED)
    sampled = await asyncio.gather(
        *(
            answer(sampler, tokenizer, q, SEED + i * attempts + k)
            for i, q in enumerate(questions)
            for k in range(attempts)
        )
    )
    greedy = await asyncio.gather(*(answer(sampler, tokenizer, q, 0, temperature=0.0) for q in questions))
    rewards = [r for r, _ in sampled]
    best = [max(rewards[i : i + attempts]) for i in range(0, len(rewards), attempts)]
    free = baselines(skill, 400, SEED)
    return Measured(
        skill,
        sum(rewards) / len(rewards),
        sum(best) / len(best),
        sum(r for r, _ in greedy) / tasks,
        free["chance"],
        free["copy"],
        sum(n for _, n in sampled) / len(sampled),
        sum(question(q) in seen for q in questions) / tasks if seen else nan,
    )


def table(rows: list[Measured], attempts: int) -> Iterator[str]:
    """The measurements as Markdown."""
    yield f"| skill | what | share | pass@1 | pass@{attempts} | greedy | chance | copy | tokens | seen |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    whole = sum(BASE_SKILLS.values())
    for r in rows:
        yield (
            f"| {r.skill} | {SKILLS[r.skill].doc} | {BASE_SKILLS[r.skill] / whole:.0%} | {r.pass_1:.2f} "
            f"| {r.pass_16:.2f} | {r.greedy:.2f} | {r.chance:.2f} | {r.copy:.2f} | {r.length:.0f} | {r.seen:.2f} |"
        )
    n = len(rows)
    yield (
        f"| **mean** | | | **{sum(r.pass_1 for r in rows) / n:.2f}** | **{sum(r.pass_16 for r in rows) / n:.2f}** "
        f"| {sum(r.greedy for r in rows) / n:.2f} | {sum(r.chance for r in rows) / n:.2f} "
        f"| {sum(r.copy for r in rows) / n:.2f} | | |"
    )


def lineage(run: Path) -> Iterator[str]:
    """What the pre-training run says of itself: recipe, seed, steps, tokens, time."""
    facts = json.loads((run / "run.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    groups, machine = facts["units"]["groups per step"], facts["machine"]
    seconds = sum(line.get("timing_s/step", 0.0) for line in lines)
    last = sum(line["loss/nll"] for line in lines[-100:]) / len(lines[-100:])
    yield f"- Trained by `temper {' '.join(facts['argv'])}`:"
    yield f"  {len(lines)} steps of {groups} demonstrations, none repeated."
    yield f"- Learned from {lines[-1]['num_tokens'] / 1e6:.1f} M tokens (the answers; questions are context only)."
    yield f"- Time: {seconds / 60:.0f} minutes on {machine['cores']} shared {machine['processor']} cores, no GPU."
    yield f"- Mean loss of the last 100 steps: {last:.3f} nats a token."


def card(rows: list[Measured], attempts: int, tasks: int, parameters: int, run: Path | None) -> Iterator[str]:
    """The whole card."""
    yield "# temper-tiny\n"
    yield f"A Qwen3 of {parameters / 1e6:.2f} M parameters that begins many small tasks and is reliable at none: a base"
    yield "to try reinforcement learning on, on a laptop. It knows nothing outside the skills below.\n"
    yield "- Tokenizer: bytes, and whole tokens for the phrases that its questions repeat."
    yield "- Chat template: Hermes/Qwen style, with `<think>` and tool-call turns."
    yield from lineage(run) if run else []
    yield "- Data: synthetic demonstrations, generated as they are needed (`temper/tasks/skills`): questions of"
    yield "  `reasoning-gym` (Apache-2.0) and our own, answered by our own scratchpads."
    yield f"- {STYLES['slip']:.0%} of the demonstrations slip in their last step, {STYLES['guess']:.0%} are near misses"
    yield f"  without thinking, {STYLES['wordy']:.0%} word a right answer so that a verifier refuses it; the others"
    yield "  think at length, briefly or not at all. So a sampled answer is right half as often as it could be.\n"
    yield f"Measured on {tasks} held-out tasks a skill, {attempts} answers each at temperature 1, up to 128 tokens."
    yield "*chance* gives another task's answer, *copy* a random word of the question. *seen* is the share of these"
    yield "questions that pre-training also asked: where there are few (products of digits, remainders) all recur, and"
    yield "what is measured is recall.\n"
    yield from table(rows, attempts)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--attempts", type=int, default=16)
    parser.add_argument("--skills", nargs="*", default=list(SKILLS))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    module, tokenizer = load.load_model(options.model), load.load_tokenizer(options.model)
    sampler = LocalSampler(module.eval(), tokenizer)
    seen = asked(options.run)
    rows = [await measure(sampler, tokenizer, s, options.tasks, options.attempts, seen[s]) for s in options.skills]
    size = sum(p.numel() for p in module.parameters())
    text = "\n".join(card(rows, options.attempts, options.tasks, size, options.run)) + "\n"
    if options.write:
        (Path(load.resolve(options.model)) / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    asyncio.run(main())
