"""`--dry-run`: the resolved run and the arithmetic of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from temper.run import Run


def lines(phases: list[Run]) -> list[str]:
    """What would be run, phase by phase."""
    out: list[str] = []
    for n, run in enumerate(phases):
        head = f"phase {n + 1} of {len(phases)}: {run.name}" if len(phases) > 1 else run.name
        models = ", ".join(f"{name} = {p.model}" for name, p in run.policies.items())
        units = {k: v for k, v in run.units().items() if v is not None}
        out += [*([""] if n else []), f"{head}   {models}   → {run.out}", ""]
        out += [f"  {value:>8,}  {key}" for key, value in units.items()]
        out += ["", *(f"  {line}" for line in tree(run.describe()))]
    return out


def tree(value: Any, indent: str = "") -> Iterator[str]:
    """Plain data as indented `key: value` lines; a part is named by its class."""
    for key, item in value.items():
        if key == "class":
            continue
        if isinstance(item, Mapping):
            short = _short(item)
            yield f"{indent}{key}: {short}".rstrip()
            yield from tree({k: v for k, v in item.items() if k != "length"}, indent + "  ")
        elif isinstance(item, list) and any(isinstance(i, Mapping) for i in item):
            yield f"{indent}{key}:"
            for i in item:
                yield f"{indent}  - {_short(i) if isinstance(i, Mapping) else i}"
                if isinstance(i, Mapping):
                    yield from tree({k: v for k, v in i.items() if k != "length"}, indent + "    ")
        else:
            yield f"{indent}{key}: {item}"


def _short(item: Mapping[str, Any]) -> str:
    name = str(item.get("class", "")).removeprefix("temper.")
    return f"{name} ({item['length']} items)" if "length" in item else name
