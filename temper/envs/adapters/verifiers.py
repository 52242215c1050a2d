"""Environments of verifiers (`load_environment`), as they are: `pip install 'temper-rl[verifiers]'`.

    env = Verifiers("my-env", args={"difficulty": "easy"})       # an installed package, or a loaded vf.Environment
    train, held_out = env.tasks(), env.tasks("eval")

The environment plays its own rollout with an OpenAI client. What the client talks to is the policy, recorded token by
token; the rubric's reward and metrics are the trajectory's. Read with verifiers 0.3.1, where the classic environments
are `verifiers.legacy`; 0.4 has task sets only (temper.envs.adapters.tasksets).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import importlib
import inspect
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from temper.columns import REWARD
from temper.episode import Episode, Recorder
from temper.errors import UserError
from temper.foreign.beside import Beside, Late, brief, finite, parts
from temper.foreign.door import Door
from temper.gateway.recording import Recording
from temper.policy import Seat
from temper.request import Drop
from temper.tasks import reasoning_gym
from temper.tasks.task import Task

LOG = logging.getLogger("temper.verifiers")
INFRASTRUCTURE = ("InfraError", "ModelError")  # verifiers' errors that are nobody's answer …
POLICY = ("InvalidModelResponseError",)  # … except for an empty one
_judges: contextvars.ContextVar[list[str]] = contextvars.ContextVar("judges")  # reward functions that raised


@dataclass
class Verifiers:
    """A verifiers environment; one rollout is one trajectory, with the rubric's reward.

    env      name of an installed environment, or a vf.Environment
    args     of its `load_environment`
    timeout  seconds of one rollout, beside the environment's own limits
    rollouts how many run at once
    blame    a reward function that raises counts as 0, which is verifiers' own way (and ours, where the policy said
             nothing or too much); without it the attempt has no reward, and its outcome says which function it was

    The run's sampling parameters apply; of the environment's own, max_tokens and stop do.
    """

    env: Any
    args: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 120.0
    rollouts: int = 64
    blame: bool = False
    role: str = "solver"
    writes = (REWARD,)

    def __post_init__(self) -> None:
        if self.timeout <= 0 or self.rollouts < 1:
            raise UserError(
                f"a rollout needs time and a place to run, got {self.timeout} s and {self.rollouts} rollouts"
            )
        self._env = load(self.env, self.args) if isinstance(self.env, str) else self.env
        self.name = self._env.env_id or type(self._env).__name__
        if self._env.requires_group_rollouts:
            raise UserError(f"{self.name} scores a task's rollouts together; Temper plays and judges each by itself")
        for rubric in _rubrics(self._env):
            rubric.funcs[:] = [_watched(f) for f in rubric.funcs]
        self._beside, self._door, self._told = Beside("verifiers"), Door(self.rollouts), False
        self._client: Any = None  # with the loop that it belongs to

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    def tasks(self, split: str = "train", n: int = -1) -> list[Task]:
        """The environment's own examples: all, or the first `n`. Without data of its own, "eval" is "train"."""
        return [
            Task(f"{self.name}/{split}/{k}", _prompt(row.get("prompt")), str(row.get("answer", "")), self.name,
                 {"split": split, "row": k})
            for k, row in enumerate(self._rows(split, n))
        ]  # fmt: skip

    def split(self, held_out: int) -> tuple[list[Task], list[Task]]:
        """(for training, held out): the evaluation data, or the last examples where there is none."""
        if self._env.eval_dataset is not None or self._env.eval_dataset_source is not None:
            return self.tasks(), self.tasks("eval", held_out) if held_out else []
        tasks = self.tasks()
        first = len(tasks) - min(held_out, len(tasks) // 5)
        return tasks[:first], tasks[first:]

    async def play(self, task: Task, roles: Mapping[str, Seat]) -> Episode:
        record = Recorder(task)
        if not {"split", "row"} <= set(task.info):
            raise UserError(f"{task.id} is not one of the environment's own tasks: take them from its `tasks`")
        row = dict(self._rows(str(task.info["split"]))[int(task.info["row"])])
        async with self._door.opened(roles[self.role], record) as (session, url, key):
            try:
                out, failed = await self._beside.run(lambda: self._rollout(row, url, key), self.timeout)
            except Late:
                out, failed = {"stop_condition": "timeout_reached"}, []
            except Exception as error:  # whatever their code raises
                out, failed = {"raised": brief(error)}, []
        if session.full:
            out["stop_condition"] = "prompt_too_long"
        self._judge(record, session, out, failed)
        return record.episode()

    async def aclose(self) -> None:
        """End the server and the environment's loop."""
        await self._beside.aclose()
        await self._door.aclose()

    def _rows(self, split: str, n: int = -1) -> Any:
        return (self._env.get_dataset if split == "train" else self._env.get_eval_dataset)(n)

    async def _rollout(self, row: dict[str, Any], url: str, key: str) -> tuple[dict[str, Any], list[str]]:
        """In the environment's loop: its rollout and its scores."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient
        from verifiers.clients import OpenAIChatCompletionsClient

        loop = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not loop:
            near = DefaultAsyncHttpxClient(trust_env=False)  # no proxy stands before this machine
            self._client = loop, AsyncOpenAI(api_key="-", base_url=url, max_retries=0, timeout=None, http_client=near)
        client = OpenAIChatCompletionsClient(self._client[1].with_options(api_key=key))
        wanted = {k: v for k, v in self._env.sampling_args.items() if k in ("max_tokens", "stop")}
        failed: list[str] = []
        _judges.set(failed)
        return dict(await self._env.run_rollout(row, client, "policy", wanted)), failed

    def _judge(self, record: Recorder, session: Recording, out: dict[str, Any], failed: list[str]) -> None:
        error = out.get("error") or {}
        chain = str(error.get("error_chain_str", ""))
        self._tell(out.get("raised") or error.get("error_chain_repr") or "; ".join(failed))
        if not session.calls:
            raise Drop("prompt too long" if session.full else "environment made no call")
        its_own = session.full or _is(chain, POLICY)
        if _is(chain, INFRASTRUCTURE) and not its_own:
            raise Drop(f"infrastructure: {chain[:100]}")
        outcome, reward = self._outcome(out, [] if its_own or self.blame else failed), finite(out.get("reward"))
        if outcome == "ok" and reward is None:
            outcome = f"error: the rubric's reward is {str(out.get('reward'))[:40]}"
        info = {"calls": len(session.calls), "chains": session.chains, "stop": str(out.get("stop_condition"))}
        scores = parts(out.get("metrics")) if outcome == "ok" else {}
        record.judge(range(len(record.turns)), role=self.role, reward=reward if outcome == "ok" else None,
                     rewards=scores, outcome=outcome, info=info)  # fmt: skip

    def _outcome(self, out: Mapping[str, Any], failed: list[str]) -> str:
        if out.get("raised"):
            return f"error: {out['raised']}"
        if out.get("stop_condition") == "timeout_reached":
            return "timeout"
        return f"error: {failed[0]}" if failed else "ok"

    def _tell(self, why: str) -> None:
        """The first failure goes to the log in full: outcomes are only counted."""
        if why and not self._told:
            self._told = True
            LOG.warning("a rollout of %s did not end well: %s", self.name, why)


def load(name: str, args: Mapping[str, Any]) -> Any:
    """An installed environment, or module:Class. SIGINT and SIGTERM, which verifiers takes, stay the run's."""
    try:
        import verifiers as vf

        with _signals():
            with contextlib.suppress(Exception):
                reasoning_gym.names()  # imports it also where packages are missing that it needs for drawing only
            if ":" not in name:
                return vf.load_environment(name, **args)
            module, _, made = name.partition(":")
            return getattr(importlib.import_module(module), made)(**args)
    except ModuleNotFoundError as error:
        raise UserError(f"no module {error.name}; verifiers environments need: pip install 'temper-rl[verifiers]'")
    except AttributeError:
        raise UserError(
            f"this verifiers has no {name.partition(':')[2] or 'load_environment'} (tested: verifiers 0.3.1)"
        )
    except (ImportError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"cannot load the verifiers environment {name!r}: {brief(error)}")


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    kinds = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {kind: signal.getsignal(kind) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _rubrics(env: Any) -> list[Any]:
    """Every rubric that has functions of its own."""
    found = [r for inner in getattr(env, "envs", ()) for r in _rubrics(inner)]
    waiting = [env.rubric]
    while waiting:
        rubric = waiting.pop()
        found.append(rubric)
        waiting += getattr(rubric, "rubrics", ())
    return found


def _watched(function: Callable[..., Any]) -> Callable[..., Any]:
    """The reward function, and a note when it raises: verifiers itself makes a 0 of that."""
    if hasattr(function, "_watched"):
        return function

    @functools.wraps(function)
    async def call(*args: Any, **arguments: Any) -> Any:
        try:
            found = function(*args, **arguments)
            return float(await found if inspect.isawaitable(found) else found)
        except Exception as error:
            _judges.get([]).append(f"{getattr(function, '__name__', 'a reward function')} raised {brief(error)}")
            raise

    call._watched = True  # type: ignore[attr-defined]
    return call


def _prompt(prompt: Any) -> str | list[dict[str, Any]]:
    """Messages without the empty columns that a data set pads them with."""
    if not isinstance(prompt, list):
        return str(prompt or "")
    return [{k: v for k, v in dict(m).items() if v is not None} for m in prompt]


def _is(name: str, kinds: tuple[str, ...]) -> bool:
    """Whether a verifiers error of this name (or chain of names) is of one of the kinds."""
    import verifiers as vf

    bases = tuple(getattr(vf, k) for k in kinds)
    classes = [getattr(vf, n, None) for n in name.split(" -> ")]
    return any(isinstance(c, type) and issubclass(c, bases) for c in classes)
