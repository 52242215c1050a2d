"""Arithmetic by the syntax tree: numbers, operators and a few functions, all of them bounded."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from temper.tools.base import Result

LENGTH = 1000  # characters of an expression
BITS = 4096  # of any integer on the way
_BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.AST], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"abs": abs, "round": round, "min": min, "max": max, "gcd": math.gcd}
_FUNCTIONS |= {n: getattr(math, n) for n in ("sqrt", "exp", "log", "log2", "log10", "sin", "cos", "tan", "floor")}
_FUNCTIONS |= {"ceil": math.ceil}
_NAMES = {"pi": math.pi, "e": math.e}


class Calculator:
    """`2**61 - 1`, `sqrt(2) / 3`; also `2^61`, `3 × 4 ÷ 5`."""

    name = "calculator"
    description = "Computes an arithmetic expression such as (12 + 3) * 4 or sqrt(2)."

    @property
    def parameters(self) -> dict[str, Any]:
        expression = {"type": "string", "description": "the expression", "maxLength": LENGTH}
        return {"type": "object", "properties": {"expression": expression}, "required": ["expression"]}

    async def __call__(self, expression: str) -> Result:
        try:
            return Result(_shown(compute(expression)))
        except (ValueError, ArithmeticError, TypeError) as error:
            return Result(f"{type(error).__name__.removesuffix('Error')}: {error}", "tool error")


def compute(expression: str) -> int | float:
    """The value. ValueError for what is not arithmetic or grows too large; ArithmeticError as Python raises it."""
    if len(expression) > LENGTH:
        raise ValueError(f"the expression is longer than {LENGTH} characters")
    text = expression.strip().replace("^", "**").replace("×", "*").replace("÷", "/").replace("−", "-")
    try:
        value: int | float = _value(ast.parse(text, mode="eval").body)
        return value
    except (SyntaxError, MemoryError, RecursionError):
        raise ValueError("this is not an arithmetic expression") from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value) if type(value) in (int, float):
            return _bounded(value)
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _binary(type(op), _value(left), _value(right))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*map(_value, arguments)))
    raise ValueError(f"{ast.unparse(node)[:80]} is not arithmetic")


def _binary(kind: type[ast.AST], left: Any, right: Any) -> Any:
    if kind is ast.Pow and isinstance(left, int) and isinstance(right, int):
        if right > 0 and abs(left).bit_length() * right > BITS + right:
            raise ValueError("the power is too large")
        if right < -BITS:
            raise ValueError("the power is too small")
    return _bounded(_BINARY[kind](left, right))


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > BITS:
        raise ValueError("the number is too large")
    if isinstance(value, complex) or not math.isfinite(_as_float(value)):
        raise ValueError("the result is not a real number")
    return value


def _as_float(value: Any) -> float:
    return 0.0 if isinstance(value, int) else float(value)


def _shown(value: int | float) -> str:
    """Whole floats without the fraction: 6 / 2 is 3."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return str(int(value)) if whole else str(value)
