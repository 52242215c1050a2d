"""The page about tools runs as it stands."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

from temper.tools.base import Result

PAGE = Path(__file__).parents[2] / "docs" / "how-to-tools.md"


def test_the_example_runs() -> None:
    names: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    exec(code, names)
    text = '<tool_call>{"name": "weather", "arguments": {"city": "Bergen"}}</tool_call>'
    assert asyncio.run(names["answer"](text)) == [Result("rain")]
