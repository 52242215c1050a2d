"""The command line. A command is a function whose signature is its options; only the one that is called is imported."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from temper.errors import UserError, unknown

COMMANDS = {
    "run": ("run:run", "run a recipe: temper run quickstart; temper run grpo --model … --data … --reward …"),
    "compare": ("compare:compare", "recipes side by side at equal compute: which can be told apart, on one page"),
    "search": ("search:search", "options of a recipe by successive halving; the winner measured again on fresh seeds"),
    "eval": ("evaluate:evaluate", "how good is a model at some tasks: avg@k, pass@k, majority@k, with intervals"),
    "serve": ("serve:serve", "a model behind an OpenAI-compatible server"),
    "list": ("catalogue:listing", "the recipes, methods, parts and tasks that there are"),
    "show": ("catalogue:show", "one of them: what it does, its options, its file"),
    "plan": ("fleet:plan", "seconds of a step and idle shares of an asynchronous run on devices that nobody has yet"),
    "scale": ("scale:scale", "more or fewer samplers of a run on Ray that goes on: temper scale RUN --samplers 4"),
    "doctor": ("doctor:doctor", "what is usable on this machine, and why the rest is not"),
    "bench": ("bench:bench", "what a trained sample costs here, beside TRL and beside the arithmetic that it needs"),
    "export": ("export:export", "a model out of a run, as a Hugging Face directory"),
    "explain": ("explain:explain", "what happened in a run, in sentences with evidence and what to do"),
    "replay": ("replay:replay", "what other methods would have done with the rollouts of a recorded step"),
    "report": ("export:report", "write a run's report.html again"),
    "setup": ("setup:setup", "install a package that pip cannot install by itself: temper setup reasoning-gym"),
}
DEBUG = "TEMPER_DEBUG"
# Read by libraries when they are loaded. Threads that wait by spinning make a run ten times slower on a busy machine.
SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0; 2 for the user's mistake (one line on stderr); 130 when interrupted; 1 for anything else."""
    try:
        return dispatch(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        if os.environ.get(DEBUG):
            raise
        return fail(str(error), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return fail("interrupted", 130)


def dispatch(argv: list[str]) -> int:
    """Call the command that the first word names."""
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(overview())
        return 0
    if argv[0] in ("--version", "version"):
        import temper

        print(f"temper {temper.__version__}")
        return 0
    if argv[0] not in COMMANDS:
        raise _unknown_command(argv[0])
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    where, _ = COMMANDS[argv[0]]
    module, _, name = where.partition(":")
    command: Callable[..., Any] = getattr(importlib.import_module(f"temper.cli.{module}"), name)
    if argv[0] in ("run", "compare", "search"):
        return int(command(argv[1:]))
    return _call(argv[0], command, argv[1:])


def _call(name: str, command: Callable[..., Any], argv: list[str]) -> int:
    """A command that is a plain function, with its options from the command line."""
    from temper.cli import options
    from temper.recipe import signature

    if options.wants_help(argv):
        print(options.command_help(name, command))
        return 0
    known, by_place = signature(command), options.places(command)
    found = options.parse(argv, known, by_place)
    options.demand(found, known, f"temper {name}", by_place)
    return int(command(**found) or 0)


def overview() -> str:
    """What `temper --help` says."""
    width = max(map(len, COMMANDS))
    lines = [f"  temper {name:<{width}}   {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["Temper: RL post-training of language models", "", *lines, "",
         "temper COMMAND --help tells its options; temper run RECIPE --help those of a recipe."]
    )  # fmt: skip


def fail(message: str, status: int) -> int:
    """One line on stderr."""
    print(f"temper: error: {' '.join(message.split())}" if status != 130 else f"temper: {message}", file=sys.stderr)
    return status


def _unknown_command(name: str) -> UserError:
    from temper.cli import source

    if not name.startswith("-") and (name.replace("_", "-") in source.recipes() or name.endswith(".py")):
        return UserError(f"unknown command {name!r}; did you mean temper run {name}?")
    return unknown("command" if not name.startswith("-") else "option", name, COMMANDS)
