"""Demonstrations and preferences through chat templates: what is learned, in which context, and that it is learned."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from temper.carrier import Batch
from temper.columns import INFO, TOKEN, TRAJECTORY
from temper.envs.conversations import Conversations, Dialogue, chains_of, demonstrated, preferred
from temper.episode import ENV
from temper.errors import UserError
from temper.loop import train
from temper.models import load
from temper.policy import Policy
from temper.recipes.dpo import dpo
from temper.recipes.ipo import ipo
from temper.recipes.ld_dpo import ld_dpo
from temper.recipes.orpo import orpo
from temper.recipes.robust_dpo import robust_dpo
from temper.recipes.sft import sft
from temper.recipes.slic import slic
from temper.recipes.tr_dpo import tr_dpo
from temper.tasks.data import load_tasks
from tests.models import builders
from tests.models.test_architectures import Build, build  # noqa: F401  (a fixture)

ASK = {"role": "user", "content": "What is 6 * 7?"}
THOUGHT = {"role": "assistant", "content": "<think>\nsix sevens\n</think>\n\nIt is 42."}
AGAIN = {"role": "user", "content": "And 3 * 3?"}
NINE = {"role": "assistant", "content": "<think>\nthree threes\n</think>\n\nIt is 9."}
TALK = [ASK, THOUGHT, AGAIN, NINE]


def texts(chains: Any, tokenizer: Any) -> list[list[tuple[str, str]]]:
    return [[(author, tokenizer.decode(ids)) for author, ids in chain] for chain in chains]


def test_a_template_that_strips_reasoning_forks_a_fresh_context(build: Build) -> None:  # noqa: F811
    tokenizer = load.load_tokenizer(build("qwen3"))
    first, second = texts(chains_of(Dialogue([], TALK), tokenizer), tokenizer)
    assert first == [
        (ENV, "<|im_start|>user\nWhat is 6 * 7?<|im_end|>\n<|im_start|>assistant\n"),
        ("solver", "<think>\nsix sevens\n</think>\n\nIt is 42.<|im_end|>"),
    ]
    assert second == [  # what the model has before it when it answers: the first answer without its reasoning
        (
            ENV,
            "<|im_start|>user\nWhat is 6 * 7?<|im_end|>\n<|im_start|>assistant\nIt is 42.<|im_end|>\n"
            "<|im_start|>user\nAnd 3 * 3?<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("solver", "<think>\nthree threes\n</think>\n\nIt is 9.<|im_end|>"),
    ]


@pytest.mark.parametrize("name", ["llama3", "gemma3", "mixtral", "gpt2"])
def test_a_template_that_keeps_history_is_one_chain(build: Build, name: str) -> None:  # noqa: F811
    tokenizer = load.load_tokenizer(build(name))
    talk = [{**m, "content": m["content"].rpartition("\n\n")[2]} for m in TALK]
    (chain,) = chains_of(Dialogue([], talk), tokenizer)
    ids = [i for _, span in chain for i in span]
    whole = tokenizer.apply_chat_template(talk, tokenize=True, return_dict=False)
    assert ids == whole[: len(ids)] and len(whole) - len(ids) <= 1  # at most the line break behind the last turn
    assert [author for author, _ in chain] == [ENV, "solver", ENV, "solver"]
    for author, span in chain:
        assert author == ENV or span[-1] in load.turn_ends(tokenizer)
    opening = tokenizer.apply_chat_template(talk[:1], add_generation_prompt=True, tokenize=True, return_dict=False)
    assert chain[0][1] == opening  # the context is the one that an answer is sampled in


def test_only_the_completion_of_a_prompt_is_learned(build: Build) -> None:  # noqa: F811
    tokenizer = load.load_tokenizer(build("llama3"))
    (chain,) = chains_of(Dialogue(TALK[:3], TALK[3:]), tokenizer)
    assert [author for author, _ in chain] == [ENV, "solver"]
    assert "three threes" in tokenizer.decode(chain[1][1]) and "It is 42." in tokenizer.decode(chain[0][1])


def test_a_template_that_shows_answers_elsewhere_is_refused(build: Build) -> None:  # noqa: F811
    tokenizer = load.load_tokenizer(build("llama3"))
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant<|end_header_id|>", "assistant|<think>")
    with pytest.raises(UserError, match="asks for an answer with one text and shows the answer behind another"):
        chains_of(Dialogue([ASK], [NINE]), tokenizer)


def test_answers_that_merge_with_their_opening_keep_the_sampled_boundary(build: Build) -> None:  # noqa: F811
    """An answer that begins with a line break would merge with the template's own under a byte-pair tokenizer."""
    tokenizer = load.load_tokenizer(build("llama3"))
    tokenizer.chat_template = tokenizer.chat_template.replace(" | trim", "")
    tokenizer.add_tokens(["\n\n\nI"])
    (chain,) = chains_of(Dialogue([ASK], [{"role": "assistant", "content": "\nI see"}]), tokenizer)
    opening = tokenizer.apply_chat_template([ASK], add_generation_prompt=True, tokenize=True, return_dict=False)
    assert chain[0][1] == opening and tokenizer.decode(chain[1][1]).startswith("\nI see")


# training ----------------------------------------------------------------------------------------------------------


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


SFT_ROWS: dict[str, list[dict[str, Any]]] = {
    "messages": [{"messages": TALK}],
    "prompt and completion": [{"prompt": [ASK], "completion": [THOUGHT]}],
    "plain prompt and completion": [{"prompt": "What is 6 * 7?", "completion": "It is 42."}],
    "prompt and answer": [{"question": "What is 6 * 7?", "answer": "It is 42."}],
    "text": [{"text": "The quick brown fox jumps over the lazy dog."}],
}


def train_in(run: Any, folder: Path) -> list[dict[str, Any]]:
    run.out = folder
    asyncio.run(train(run))
    return [r for r in run.reporter.history if r["step"] > 0]


@pytest.mark.parametrize("kind", SFT_ROWS)
def test_sft_learns_what_the_assistant_said(build: Build, kind: str, tmp_path: Path) -> None:  # noqa: F811
    data = write(tmp_path / "rows.jsonl", SFT_ROWS[kind] * 10)
    run = sft(
        data=data, model=build("qwen3"), steps=12, groups=4, lr=5e-3, warmup=1, device="cpu", eval_every=6, save_every=0
    )
    history = train_in(run, tmp_path / "run")
    assert history[-1]["loss/sft"] < 0.5 * history[0]["loss/sft"]
    held = run.probes[0].results
    assert held["after"]["eval/loss/sft"] < 0.6 * held["before"]["eval/loss/sft"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["held_out"]["after"] == pytest.approx(held["after"])
    turns = {"messages": 2}.get(kind, 1)
    batch = Batch.of([asyncio.run(_played(run, load_tasks(data)[0], build("qwen3")))])
    assert len({int(u) for u in batch.structure.token_turn}) == turns and batch.size(TRAJECTORY) == 1


async def _played(run: Any, task: Any, model: str) -> Any:
    from temper.policy import Seat

    policy = Policy(model=model, device="cpu")
    policy.open()
    return await run.env.play(task, {"solver": Seat("solver", policy, run.sampling, 0, ("x",))})


def test_the_loss_is_that_of_the_assistants_tokens_alone(build: Build, tmp_path: Path) -> None:  # noqa: F811
    """Against transformers' own: labels of −100 everywhere but on the answer and its end token."""
    import torch

    from tests.models.test_architectures import reference

    data = write(tmp_path / "rows.jsonl", [{"prompt": [ASK], "completion": [{"role": "assistant", "content": "42"}]}])
    run = sft(data=data, model=build("llama3"), steps=1, groups=1, eval_tasks=0, device="cpu", lr=1e-9)
    loss = train_in(run, tmp_path / "run")[0]["loss/sft"]
    tokenizer = load.load_tokenizer(build("llama3"))
    opening = tokenizer.apply_chat_template([ASK], add_generation_prompt=True, tokenize=True, return_dict=False)
    answer = tokenizer.encode("42<|eot_id|>", add_special_tokens=False)
    labels = torch.tensor([[-100] * len(opening) + answer])
    expected = reference(build("llama3"))(torch.tensor([[*opening, *answer]]), labels=labels).loss.detach()
    assert loss == pytest.approx(float(expected), abs=1e-4)


def test_conversations_longer_than_the_model_are_counted_not_crashed_on(build: Build, tmp_path: Path) -> None:  # noqa: F811
    rows = [{"prompt": "a", "completion": "b " * 400}, {"prompt": "a", "completion": "b"}]
    run = sft(
        data=write(tmp_path / "r.jsonl", rows), model=build("gpt2"), steps=1, groups=2, eval_tasks=0, device="cpu"
    )
    assert train_in(run, tmp_path / "run")[0]["dropped/conversation too long"] >= 1


PREFERENCES = [
    {"prompt": "What is 6 * 7?", "chosen": "It is 42.", "rejected": "It is 41, I think."},
    {"prompt": [AGAIN], "chosen": [{"role": "assistant", "content": "9"}], "rejected": [NINE]},
    {"chosen": [ASK, THOUGHT], "rejected": [ASK, {"role": "assistant", "content": "No idea."}]},
]
RECIPES = {
    "dpo": (dpo, {"sft": 0.1}), "ipo": (ipo, {}), "orpo": (orpo, {"lam": 1.0}), "slic": (slic, {}),
    "robust_dpo": (robust_dpo, {}), "ld_dpo": (ld_dpo, {}), "tr_dpo": (tr_dpo, {"every": 5}),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_preferences_are_learned(build: Build, name: str, tmp_path: Path) -> None:  # noqa: F811
    recipe, options = RECIPES[name]
    run = recipe(
        data=write(tmp_path / "rows.jsonl", PREFERENCES * 4), model=build("llama3"), steps=10, groups=6, lr=2e-3,
        warmup=1, device="cpu", save_every=0, **options,
    )  # fmt: skip
    history = train_in(run, tmp_path / "run")
    assert history[-1]["loss/policy"] < history[0]["loss/policy"]
    held = run.probes[0].results
    assert held["after"]["eval/rewards/accuracies"] == 1.0
    assert held["after"]["eval/loss/policy"] < held["before"]["eval/loss/policy"]
    if name != "orpo":  # against the reference that it starts as
        assert history[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
        assert held["after"]["eval/rewards/margins"] > 0.05 and "rewards/margins" in history[-1]


def test_dpo_with_adapters_reads_its_reference_from_their_base(build: Build, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("peft")
    data = write(tmp_path / "rows.jsonl", PREFERENCES * 4)
    run = dpo(data=data, model=build("llama3"), steps=8, groups=6, lr=1e-2, warmup=1, device="cpu", lora=4)
    history = train_in(run, tmp_path / "run")
    assert history[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4) and history[-1]["rewards/margins"] > 0.05
    with pytest.raises(UserError, match="leave --lora out"):
        tr_dpo(data=data, lora=4)


def test_both_answers_share_one_prompt(build: Build, tmp_path: Path) -> None:  # noqa: F811
    run = dpo(data=write(tmp_path / "rows.jsonl", PREFERENCES[:1]), model=build("llama3"), eval_tasks=0)
    b = Batch.of([asyncio.run(_played(run, load_tasks(tmp_path / "rows.jsonl")[0], build("llama3")))])
    assert [i["chosen"] for i in b[INFO]] == [True, False]
    assert len(b.structure.parent) == 3 and b.count(TOKEN, TRAJECTORY).min() > 0


def test_rows_without_what_is_learned_are_refused_before_anything_loads(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [{"prompt": "a"}])
    for recipe, message in ((sft, "demonstrates nothing"), (dpo, "has no preference")):
        with pytest.raises(UserError, match=message):
            recipe(data=data, model="no/such-model-is-looked-for")
    assert Conversations(demonstrated).roles == Conversations(preferred).roles == ("solver",)


def test_every_family_can_be_demonstrated_to(build: Build) -> None:  # noqa: F811
    for name in builders.FAMILIES:
        tokenizer = load.load_tokenizer(build(name))
        for chain in chains_of(Dialogue([ASK], [{"role": "assistant", "content": "It is 42."}]), tokenizer):
            assert "42" in tokenizer.decode(chain[-1][1]) and chain[-1][1][-1] in load.turn_ends(tokenizer)
