"""More or fewer samplers while a run goes on.

`temper scale RUN --samplers N` leaves a wish in the run directory; the driver takes it up after its next step. Samplers
that join serve once they have the newest weights; those that leave end what they have begun. The run does not wait.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper.backends.ray_places import counted
from temper.errors import UserError

if TYPE_CHECKING:
    from temper.backends.ray_sampler import RaySampler
    from temper.policy import Policy
    from temper.run import Run

FILE = "scale.json"


@dataclass
class Scale:
    """A probe that reads wishes and fulfils them in the background.

    serving  the policies that are scaled, with their samplers
    room     (policy, how many more) → why they have no place, or ""
    """

    serving: Callable[[], list[tuple[Policy, RaySampler]]] = field(repr=False)
    room: Callable[[Policy, int], str] = field(repr=False)
    say: Callable[[str], None] = field(repr=False)
    plays = False

    def __post_init__(self) -> None:
        self._wishes: dict[str, int] = {}
        self._changing: dict[str, asyncio.Task[None]] = {}

    async def __call__(self, run: Run, step: int) -> dict[str, float]:
        wish = taken(Path(run.out) / FILE) if run.out is not None else 0
        for policy, sampler in self.serving() if wish else ():
            self._wishes[policy.name] = wish
            going = self._changing.get(policy.name)
            if going is None or going.done():  # else it sees the new wish when who joins or leaves has done so
                self._changing[policy.name] = asyncio.ensure_future(self._change(policy, sampler))
        return {}

    async def _change(self, policy: Policy, sampler: RaySampler) -> None:
        crew, who = sampler.crew, f"{policy.name!r}"
        try:
            while (more := self._wishes[policy.name] - crew.size) != 0:
                beyond = self._wishes[policy.name] - max(crew.size, crew.planned)
                if more > 0 and (why := self.room(policy, beyond)):
                    return self.say(f"{who} keeps its {counted(crew.size, 'sampler')}: {why}")
                staying = [r.number for r in sampler.replicas if not r.leaving]
                if more > 0:
                    await sampler.grow(more)
                elif len(staying) > 1:
                    await sampler.shrink(max(staying))
                else:  # another one is on its way
                    await asyncio.sleep(crew.faults.beat)
            self.say(f"{who} has {counted(crew.size, 'sampler')} now")
        except UserError as error:
            self.say(f"{who} has {counted(crew.size, 'sampler')}, not {self._wishes[policy.name]}: {error}")

    async def aclose(self) -> None:
        for task in self._changing.values():
            task.cancel()
        await asyncio.gather(*self._changing.values(), return_exceptions=True)


def wish(folder: Path, samplers: int) -> None:
    """Leave a wish in the run directory; a driver sees all of it or nothing."""
    fresh = folder / f".{FILE}.partial"
    fresh.write_text(json.dumps({"samplers": samplers}) + "\n")
    fresh.replace(folder / FILE)


def taken(path: Path) -> int:
    """The wish in a file, which goes; 0 without one."""
    try:
        told: Any = json.loads(path.read_text())
        path.unlink()
    except FileNotFoundError:
        return 0
    except ValueError:
        told = None
        path.unlink()
    number = told.get("samplers") if isinstance(told, dict) else None
    return number if isinstance(number, int) and number >= 1 else 0
