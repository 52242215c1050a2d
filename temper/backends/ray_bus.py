"""The data bus in an actor of its own. When it falls, a new one takes the last snapshot and the calls since."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from temper.backends.ray_gang import Gang
from temper.bus import Bus

CHANGES = ("open", "put", "drop", "seal", "clear", "take", "load_state_dict")


class RayBus:
    """Called as `temper.bus.Bus` is. Changes are numbered: one that was made is not made again, and answered alike."""

    def __init__(self, make: Callable[[], Gang]):
        self._make = make
        self._gang: Gang | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Bus, name) or name == "wait":
            raise AttributeError(f"the bus has no {name!r}")

        def call(*args: Any, **options: Any) -> Any:
            if self._gang is None:  # at the first call: only then is there a cluster
                self._gang = self._make()
                self._gang.open()
            if name in CHANGES:
                return self._gang.change(f"{name} rows", (name, args, options))[0]
            return self._gang.ask(f"answer {name!r}", "look", name, args, options)[0]

        return call

    def state_dict(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.__getattr__("state_dict")()
        return found

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.__getattr__("load_state_dict")(saved)
