"""What every post-training recipe shares: model, data, rewards, evaluation and the arithmetic of a step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

from temper.backends.base import AdamW, Lora, SamplingParams
from temper.envs.single import SingleTurn
from temper.errors import UserError
from temper.evaluate import Evaluation
from temper.method import Method
from temper.objective import Update
from temper.parts.curricula import Shuffled
from temper.parts.rewards import Rewards
from temper.parts.schedules import Linear, WarmUp
from temper.parts.second_opinion import SecondOpinion
from temper.policy import Policy
from temper.recipe import extends
from temper.request import Env
from temper.rewards.load import rewards_from
from temper.run import Run
from temper.stage import Stage
from temper.sync import SYNC, Name
from temper.tasks.task import Task

SUITE = "quickstart"  # trained on when no data is given: reasoning-gym tasks that the bundled model can begin with


def train_on(
    method: Callable[..., Method],
    *,
    name: str,
    train: Sequence[Task],
    held_out: Sequence[Task] = (),
    judges: Sequence[Stage] = (),
    env: Env | None = None,
    model: str = "temper-tiny",
    steps: int = 60,
    groups: int = 16,
    attempts: int = 16,
    lr: float = 2e-4,
    warmup: int = 5,
    decay: bool = False,
    max_tokens: int = 128,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    lora: int = 0,
    dtype: str = "float32",
    device: str = "auto",
    checkpointing: bool = False,
    token_budget: int = 16384,
    max_rows: int = 1024,
    sampler: Literal["local", "routed", "vllm", "vllm-server"] = "local",
    ahead: int = 0,
    sync: Name | None = None,
    eval_attempts: int = 4,
    eval_every: int = 0,
    save_every: int = 50,
    seed: int = 0,
) -> Run:
    """Train one policy, in every role of an environment, on tasks that the recipe brings.

    method: policy -> Method, or (policy, judges) -> Method where it judges again what it edits or adds;
    judges: stages that write REWARD, before the method's own; env: the method's own, else one answer to each task.

    model          a bundled name, a directory in Hugging Face format, or a hub id
    steps          of training
    groups         tasks in a step
    attempts       attempts at each task, compared with one another
    lr             peak learning rate; warmup: steps to reach it; decay: fall linearly to 0 at the end
    max_tokens     longest answer, in tokens
    temperature    of sampling; top_p: from the smallest set of tokens with this probability; top_k: so many (0: all)
    lora           rank of the adapters (0: full fine-tuning)
    dtype          float32, or bfloat16 to compute in it
    device         cpu, cuda, or auto: one GPU where there is one
    checkpointing  recompute activations in the backward pass, to save memory
    token_budget   padded tokens in a micro-batch
    max_rows       answers sampled at once
    sampler        local; routed: local, and a mixture's tokens go to the same experts in the update (routing replay);
                   vllm: vLLM's engine in the same process; vllm-server: in a process of its own
    ahead          how many updates old the weights that sampled a batch may be
    sync           how samplers with weights of their own (vllm, --backend ray) take over new ones: blocking, delayed,
                   staggered, episodes or resume (default: blocking, and delayed where ahead is 1 or more)
    eval_attempts  attempts at each held-out task
    eval_every     steps between evaluations (0: only before and after)
    save_every     steps between checkpoints (0: only at the end)
    seed           of everything that is drawn
    """
    peak = Linear(lr, 0.0, steps) if decay else lr
    policy = Policy(
        model=model, optimizer=AdamW(lr=WarmUp(peak, warmup)), lora=Lora(lora, 2 * lora) if lora else None, dtype=dtype,
        device=device, checkpointing=checkpointing, token_budget=token_budget, max_rows=max_rows,
        engine=_noting(ahead) if sampler == "routed" else sampler,
    )  # fmt: skip
    m = method(policy, judges) if "judges" in inspect.signature(method).parameters else method(policy)
    if m.env is not None and env not in (None, SingleTurn()):
        raise UserError(f"{name} plays in an environment of its own: leave out system and prefill")
    env = m.env or env or SingleTurn()
    also = ({"temperature": 0.0},) if m.greedy else ()
    return Run(
        name=name,
        env=env,
        curriculum=m.curriculum(train, attempts, seed) if m.curriculum else Shuffled(train, attempts, seed, also),
        roles=dict.fromkeys(getattr(env, "roles", ("solver",)), policy),
        on_group=[*judges, *m.on_group],
        on_batch=[_replaying(policy), *m.on_batch] if sampler == "routed" else m.on_batch,
        updates=[Update(policy, m.terms, m.epochs, m.minibatches, before=m.before, after=m.after)],
        probes=[evaluation(held_out, train, eval_attempts, eval_every)] if held_out else [],
        others=list(m.policies.values()),
        steps=steps,
        groups=groups,
        signal=m.signal,
        keep_silent=m.keep_silent,
        sampling=SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k),
        ahead=ahead,
        sync=SYNC[sync] if sync else None,
        seed=seed,
        save_every=save_every,
    )


def _noting(ahead: int) -> Any:
    from temper.backends.routed import Routed  # only here: it brings transformers along

    return Routed(ahead=ahead)


def _replaying(policy: Policy) -> Stage:
    from temper.parts.routing import Routes

    return Routes(policy)


@extends(train_on, without=("train", "held_out", "judges", "env"))
def post_train(
    method: Callable[..., Method],
    *,
    name: str,
    data: str = SUITE,
    reward: tuple[str, ...] = (),
    weights: tuple[float, ...] | None = None,
    second_reward: tuple[str, ...] = (),
    eval_data: str | None = None,
    eval_tasks: int = 64,
    system: str | None = None,
    prefill: str = "",
    timeout: float = 10.0,
    seed: int = 0,
    **options: Any,
) -> Run:
    """Post-train a causal language model on checkable tasks.

    data           a file (JSONL, JSON, Parquet), a Hugging Face data set, "rg:NAME" of reasoning-gym, or a suite's name
    reward         FILE.py:function, package.module:function or a bundled name (added up; the first is a pass)
    weights        one for each reward (default: 1 each)
    second_reward  judges 32 answers of each batch again, in any form that reward takes; only disagreement is reported
    eval_data      held-out tasks, in any form that data takes (default: the last part of data, then not trained on)
    eval_tasks     held-out tasks
    system         a system message before every task
    prefill        text that opens every answer and is not trained on
    timeout        seconds that one call of a reward function may take
    seed           of everything that is drawn
    """
    train, held_out, bundled = tasks_for(data, eval_data, eval_tasks, seed)
    rewards = Rewards(rewards_from(reward or default_reward(data, bundled)), weights, timeout=timeout)
    rewards.check([*train[:1], *held_out[:1]])
    run = train_on(
        method, name=name, train=train, held_out=held_out, judges=[rewards],
        env=SingleTurn(system=system, prefill=prefill),
        seed=seed, **options,
    )  # fmt: skip
    if second_reward:
        run.on_batch.append(SecondOpinion(Rewards(rewards_from(second_reward), timeout=timeout), seed=seed))
        run.check()
    return run


def tasks_for(
    data: str, eval_data: str | None, eval_tasks: int, seed: int
) -> tuple[Sequence[Task], Sequence[Task], bool]:
    """(training tasks, held-out tasks, whether they are a bundled suite)."""
    from temper.tasks import suites
    from temper.tasks.data import load_tasks

    if eval_tasks < 0:
        raise UserError(f"eval_tasks must not be negative, got {eval_tasks}")
    if data in suites.SUITES and eval_data is None:
        held_out = suites.held_out_tasks(data, eval_tasks) if eval_tasks else []
        return suites.train_tasks(data, seed), held_out, True
    tasks = load_tasks(data)
    if eval_data is not None:
        return tasks, load_tasks(eval_data, limit=eval_tasks) if eval_tasks else [], False
    if len(tasks) < 2 * eval_tasks:
        eval_tasks = len(tasks) // 5
    split = len(tasks) - eval_tasks
    return tasks[:split], tasks[split:], False


def default_reward(data: str, bundled: bool) -> tuple[str, ...]:
    """Tasks of reasoning-gym bring their own verifier; any other data needs to be told how it is judged."""
    if bundled or data.startswith("rg:"):
        return ("reasoning_gym",)
    raise UserError(
        "how is an answer judged? Give --reward FILE.py:function, or math_verify, exact_match, number_match"
    )


def evaluation(
    held_out: Sequence[Task], train: Sequence[Task], attempts: int, every: int, **sampling: Any
) -> Evaluation:
    """Held-out tasks; a source that training never draws from is reported as held out."""
    trained = tuple(sorted({t.source for t in (train[:2000] if len(train) > 2000 else train)}))
    return Evaluation(held_out, attempts, every, trained=trained, sampling=sampling)
