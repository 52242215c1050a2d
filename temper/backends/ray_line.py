"""The seam between the driver and an actor. Faults are injected at `Line.ask`, through which every call
passes, and where a blocking one takes its answer: `arrived`, `taken`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from temper.supervision import Faults, Lost, Pulse


class Line:
    """Calls to one actor. Lost when it is gone; what the actor's code raises comes out as it was raised."""

    def __init__(self, actor: Any, name: str):
        self.actor, self.name = actor, name
        self.about: dict[str, Any] = {}

    def ask(self, method: str, *args: Any) -> Any:
        """Something to await (an ObjectRef, or a generator of them)."""
        return getattr(self.actor, method).remote(*args)

    def arrived(self, refs: list[Any], seconds: float) -> bool:
        """Whether all answers are there within so many seconds."""
        return len(ray.wait(refs, num_returns=len(refs), timeout=seconds)[0]) == len(refs)

    def taken(self, refs: list[Any]) -> list[Any]:
        """Answers that have arrived."""
        found: list[Any] = ray.get(refs)
        return found

    async def call(self, method: str, *args: Any) -> Any:
        ref = self.ask(method, *args)
        try:
            return await ref
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):  # the cluster may be gone
                ray.cancel(ref)
            raise
        except Exception as error:
            raise self.told(error) from None

    def told(self, error: Exception) -> Exception:
        """What an error of a call means here."""
        if isinstance(error, RayTaskError):
            cause = error.cause
            return cause if isinstance(cause, Exception) else error
        return Lost(self.name, first_line(error)) if isinstance(error, RayError) else error

    def result(self, refs: Any, faults: Faults, what: str, seconds: float | None = None) -> Any:
        """Block until the answer to `refs` (one, or several of one call) is there. Lost when it cannot come any more.

        seconds  after which TimeoutError is raised (None: Lost after the patience of `faults`)
        """
        began, pulse, ping = time.monotonic(), Pulse(faults), None
        wanted = refs if isinstance(refs, list) else [refs]
        try:
            while not self.arrived(wanted, faults.beat):
                if ping is not None and self.arrived([ping], 0):
                    self.taken([ping])
                    pulse.answered(None, waited_for=False)
                    ping = None
                elif ping is not None:
                    pulse.silent()
                if self.about:  # while a process starts it has no heartbeat
                    ping = ping or self.ask("beat")
                waited = time.monotonic() - began
                if seconds is not None and waited > seconds:
                    raise TimeoutError(f"no answer within {seconds:g} s")
                if pulse.dead or waited > faults.patience:
                    why = pulse.dead or f"the run has waited {waited:.0f} s for it to {what}"
                    raise Lost(self.name, why)
            found = self.taken(wanted)
            return found if isinstance(refs, list) else found[0]
        except (RayError, RayTaskError) as error:
            raise self.told(error) from None

    def end(self) -> None:
        """Kill the process, whatever state it is in, without waiting for it."""
        with contextlib.suppress(Exception):
            ray.kill(self.actor, no_restart=True)
        pid, node = self.about.get("pid"), self.about.get("node")
        if pid is None or not ray.is_initialized():
            return
        if node == ray.get_runtime_context().get_node_id():
            _kill(pid)
        else:
            threading.Thread(target=_kill_there, args=(pid, node), daemon=True).start()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _kill_there(pid: int, node: str) -> None:
    """A stopped process does not hear `ray.kill`: end it from its own node, if that is still there."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node, soft=False)
    with contextlib.suppress(Exception):
        ray.get(ray.remote(_kill).options(num_cpus=0, scheduling_strategy=there).remote(pid), timeout=60)


def first_line(error: BaseException) -> str:
    """The sentence of Ray's text that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "died" in line or "unavailable" in line.lower()), lines[0] if lines else "")
    return said[:200] or type(error).__name__
