"""A server of children: `python -m tests.core.child MODEL` reads one JSON job a line, forks, trains in the fork.

It has the libraries loaded and nothing running, so that a fork is sound and costs no start-up. A job
{"out", "resume", "kill": [phase, n] | null, "largest": bytes | null} is answered by {"signal", "error"}; with `kill`,
the child SIGKILLs itself at the n-th moment of that phase (inside a write, for the phases that write).
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PHASES = ("rollout", "reward", "update", "publish", "evaluation", "report", "checkpoint")


class Death:
    """Kills this process at the n-th moment of a phase."""

    def __init__(self, phase: str, n: int):
        self.phase, self.left = phase, n
        self.inside: list[str] = []

    def moment(self, phase: str) -> None:
        if phase == self.phase:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def here(self) -> None:
        """A moment of the innermost phase that is running."""
        self.moment(self.inside[-1] if self.inside else "")

    def around(self, owner: Any, name: str, phase: str | None = None) -> None:
        """Moments before and after every call; with `phase`, what runs inside belongs to it."""
        call: Callable[..., Any] = getattr(owner, name)

        def sync(*args: Any, **kwargs: Any) -> Any:
            self.enter(phase)
            out = call(*args, **kwargs)
            self.leave(phase)
            return out

        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            self.enter(phase)
            out = await call(*args, **kwargs)
            self.leave(phase)
            return out

        setattr(owner, name, coroutine if asyncio.iscoroutinefunction(call) else sync)

    def enter(self, phase: str | None) -> None:
        if phase is not None:
            self.inside.append(phase)
        self.here()

    def leave(self, phase: str | None) -> None:
        self.here()
        if phase is not None:
            self.inside.pop()

    def halves(self, owner: Any, name: str) -> None:
        """torch.save that dies in the middle of the file."""
        call: Callable[..., Any] = getattr(owner, name)

        def save(value: Any, path: Path, **options: Any) -> None:
            call(value, path, **options)
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            self.here()
            path.write_bytes(whole)

        setattr(owner, name, save)

    def arm(self) -> None:
        import torch

        from temper import loop, state
        from temper.backends.local import LocalLearner
        from temper.backends.local_sampler import LocalSampler
        from temper.evaluate import Evaluation
        from temper.models import load
        from temper.report import Reporter
        from temper.run import Run
        from tests.core.busy import Judge

        self.around(loop, "gather", "rollout")
        self.around(Judge, "__call__", "reward")
        self.around(Run, "update", "update")
        self.around(Run, "publish", "publish")
        self.around(Evaluation, "play", "evaluation")
        self.around(Reporter, "_append", "report")
        self.around(Reporter, "_write", "report")
        self.around(state, "save", "checkpoint")
        for owner, name in ((LocalSampler, "_step"), (LocalLearner, "_live"), (LocalLearner, "_optimise"),
                            (load, "save_model"), (os, "fsync"), (os, "rename"), (os, "replace")):  # fmt: skip
            self.around(owner, name)
        self.halves(torch, "save")
        self.around(state.shutil, "rmtree")
        self.around(state, "_point")


def train(model: str, job: dict[str, Any]) -> None:
    from temper.errors import UserError
    from temper.loop import train as go
    from tests.core.busy import busy

    if job.get("largest"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest"], job["largest"]))
    if job.get("kill"):
        Death(*job["kill"]).arm()
    if job.get("after") is not None:  # any moment at all: a clock that the run does not see
        threading.Thread(target=lambda: (time.sleep(job["after"]), os.kill(os.getpid(), signal.SIGKILL))).start()
    try:
        asyncio.run(go(busy(model, Path(job["out"]), resume=job["resume"])))
    except UserError as error:
        Path(job["out"] + ".error").write_text(str(error))
        os._exit(2)


def serve(model: str) -> None:
    import torch

    torch.set_num_threads(1)
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    import temper.loop  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            code = 1
            try:
                train(model, job)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        error = Path(job["out"] + ".error")
        answer = {"signal": killed, "exit": os.waitstatus_to_exitcode(status)}
        answer["error"] = error.read_text() if error.exists() else ""
        error.unlink(missing_ok=True)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
