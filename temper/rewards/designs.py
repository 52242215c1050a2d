"""Hardware designs, judged by compiling them and running their tests: Verilog, and circuits of one output.

`pass_rate` is the share of tests that a design passes: 0 where it does not compile, None where the simulation did not
end in time (not judged: nothing says that it is wrong).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from temper.errors import UserError
from temper.rewards.checkers import exact_match, final_part
from temper.tasks.task import Task

_CONTROL = re.compile(r"<\|[^|]*\|>")
_FENCE = re.compile(r"```(?:\w+)?\s*(.*?)```", re.DOTALL)
_MODULE = re.compile(r"\bmodule\b.*\bendmodule\b", re.DOTALL)
_OUTSIDE = re.compile(r"\$(?!(?:clog2|signed|unsigned|bits)\b)|`include\b")  # what looks out of the design
_MISMATCHES = re.compile(r"Mismatches:\s*(\d+)\s+in\s+(\d+)\s+samples")
_VERDICT = re.compile(r"\b(pass|fail)(?:ed)?\b", re.IGNORECASE)
_WORD = re.compile(r"\s*([A-Za-z_]\w*|[01&|^~()])")


def pass_rate(completion: str, task: Task) -> float | None:
    """By what the task has: a `testbench` (Verilog), `cases` (a circuit), else its answer, which is right or not."""
    completion = _CONTROL.sub("", completion)
    if task.info.get("testbench"):
        return verilog(completion, str(task.info["testbench"]))
    if task.info.get("cases"):
        return circuit(final_part(completion), task.info["cases"])
    right = exact_match(completion, task.answer)
    return None if right is None else float(right)


def verilog(completion: str, testbench: str, seconds: float = 10.0) -> float | None:
    """Compiled and simulated with Icarus Verilog, each within `seconds`; None where that does not suffice.

    testbench  prints "Mismatches: 3 in 20 samples", or "pass" or "fail" for each test. A design that prints, stops the
               simulation or opens files ($display, $finish, $fopen, `include, …) counts as one that does not compile:
               it could write its own verdict.
    """
    tools = [shutil.which(name) for name in ("iverilog", "vvp")]
    if None in tools:
        raise UserError("Verilog is judged with Icarus Verilog, which is not installed: apt install iverilog")
    code = code_of(completion)
    if not code or _OUTSIDE.search(code):
        return 0.0
    with TemporaryDirectory() as folder:
        Path(folder, "design.v").write_text(code)
        Path(folder, "bench.v").write_text(testbench)
        build = [str(tools[0]), "-g2012", "-o", "sim", "design.v", "bench.v"]
        try:
            if _ran(build, folder, seconds).returncode:
                return 0.0
            return share(_ran([str(tools[1]), "-n", "sim"], folder, seconds).stdout)
        except subprocess.TimeoutExpired:
            return None


def _ran(command: Sequence[str], folder: str, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, timeout=seconds, capture_output=True, text=True, errors="replace")


def code_of(completion: str) -> str:
    """The last fenced block behind the thinking, else the modules."""
    text = completion.rpartition("</think>")[2]
    fenced = _FENCE.findall(text)
    found = _MODULE.search(fenced[-1] if fenced else text)
    return found[0] if found else ""


def share(printed: str) -> float:
    """Of tests that passed, by what a test bench printed; 0 where it printed no verdict."""
    counted = _MISMATCHES.findall(printed)
    if counted:
        wrong, samples = map(int, counted[-1])
        return 1 - wrong / samples if samples else 0.0
    verdicts = [word.lower() == "pass" for word in _VERDICT.findall(printed)]
    return sum(verdicts) / len(verdicts) if verdicts else 0.0


def circuit(text: str, cases: Sequence[Mapping[str, int]]) -> float:
    """Share of `cases` ({input: 0 or 1, …, "out": 0 or 1}) that an expression of ~ & ^ | ( ) 0 1 and inputs fulfils."""
    try:
        return sum(_Expression(text, case).value() == case["out"] for case in cases) / max(len(cases), 1)
    except SyntaxError:
        return 0.0


class _Expression:
    """Reads and computes at once: or of xors of ands of negations."""

    def __init__(self, text: str, inputs: Mapping[str, int]) -> None:
        found = list(_WORD.finditer(text))
        joined = all(a.end() == b.start() for a, b in pairwise(found))
        if not found or found[0].start() or not joined or text[found[-1].end() :].strip():
            raise SyntaxError(text)
        self.words, self.inputs = [m[1] for m in found], inputs

    def value(self) -> int:
        out = self._level(0)
        if self.words:
            raise SyntaxError(self.words[0])
        return out

    def _level(self, level: int) -> int:
        if level == 3:
            return self._atom()
        out = self._level(level + 1)
        while self.words and self.words[0] == "|^&"[level]:
            self.words.pop(0)
            right = self._level(level + 1)
            out = (out | right, out ^ right, out & right)[level]
        return out

    def _atom(self) -> int:
        word = self.words.pop(0) if self.words else ""
        if word == "~":
            return 1 - self._atom()
        if word == "(":
            inside = self._level(0)
            if not self.words or self.words.pop(0) != ")":
                raise SyntaxError("(")
            return inside
        if word in ("0", "1"):
            return int(word)
        if word not in self.inputs or word == "out":
            raise SyntaxError(word)
        return int(self.inputs[word])
