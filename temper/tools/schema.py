"""Arguments against a JSON schema: the first thing that is wrong, as one clause that a model can act on.

Checked: type, enum, required, properties, additionalProperties (false unless a schema allows more), items, and lengths
and bounds. Other keywords are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def complaint(arguments: Any, parameters: Mapping[str, Any]) -> str | None:
    """None when `arguments` fit `parameters`."""
    if not isinstance(arguments, Mapping):
        return f"arguments must be an object, not {_kind(arguments)}"
    return _object(arguments, parameters, "")


def _value(value: Any, rule: Mapping[str, Any], where: str) -> str | None:
    allowed = rule.get("type")
    kinds = [allowed] if isinstance(allowed, str) else list(allowed or ())
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{where} must be {' or '.join(kinds)}, not {_kind(value)}"
    if "enum" in rule and value not in rule["enum"]:
        return f"{where} must be one of {', '.join(map(repr, rule['enum']))}"
    if isinstance(value, Mapping) and "properties" in rule:
        return _object(value, rule, f"{where}.")
    if isinstance(value, (list, tuple)) and "items" in rule:
        return next((w for i, v in enumerate(value) if (w := _value(v, rule["items"], f"{where}[{i}]"))), None)
    return _bounds(value, rule, where)


def _object(value: Mapping[str, Any], rule: Mapping[str, Any], prefix: str) -> str | None:
    known: Mapping[str, Any] = rule.get("properties", {})
    for name in rule.get("required", ()):
        if name not in value:
            return f"{prefix}{name} is missing"
    for name, given in value.items():
        if name in known:
            if wrong := _value(given, known[name], f"{prefix}{name}"):
                return wrong
        elif not rule.get("additionalProperties", False):
            return f"{prefix}{str(name)[:80]} is not a parameter (there are: {', '.join(known) or 'none'})"
    return None


def _bounds(value: Any, rule: Mapping[str, Any], where: str) -> str | None:
    size = len(value) if isinstance(value, str) else value if _is(value, "number") else None
    if size is None:
        return None
    low, high = ("minLength", "maxLength") if isinstance(value, str) else ("minimum", "maximum")
    if low in rule and size < rule[low]:
        return f"{where} is less than {rule[low]}" + (" characters long" if low == "minLength" else "")
    if high in rule and size > rule[high]:
        return f"{where} is more than {rule[high]}" + (" characters long" if high == "maxLength" else "")
    return None


def _is(value: Any, kind: str) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return not isinstance(value, bool) and (isinstance(value, int) or _whole(value))
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "array":
            return isinstance(value, (list, tuple))
        case "object":
            return isinstance(value, Mapping)
        case "null":
            return value is None
    return True


def _whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _kind(value: Any) -> str:
    kinds = ("null", "boolean", "integer", "number", "string", "array", "object")
    return next((k for k in kinds if _is(value, k)), type(value).__name__)
