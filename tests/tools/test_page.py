"""The page about tools runs as it stands."""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path
from typing import Any

from temper.tools.base import Result

PAGE = Path(__file__).parents[2] / "docs" / "how-to-tools.md"


def test_the_example_runs() -> None:
    names: dict[str, Any] = {}
    first, *others = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    exec(first, names)
    for code in others:  # what needs a server is read, not run
        compile(code, str(PAGE), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    text = '<tool_call>{"name": "weather", "arguments": {"city": "Bergen"}}</tool_call>'
    assert asyncio.run(names["answer"](text)) == [Result("rain")]
