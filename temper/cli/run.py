"""`temper run`: a recipe with options becomes a run, and is trained."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper.cli import DEBUG, backend, estimate, fail, find, options, plan
from temper.errors import UserError
from temper.recipe import Option, signature, summary
from temper.supervision import Faults, started_again

if TYPE_CHECKING:
    from temper.run import Run


def common(
    *,
    out: Path | None = None,
    resume: bool | Path = False,
    budget: str = "",
    dry_run: bool = False,
    threads: int = 0,
    track: tuple[str, ...] = (),
    record_steps: str = "",
    env_timeout: float = 0.0,
    stall_timeout: float = 0.0,
) -> None:
    """What every run takes.

    out      the run directory (default: runs/RECIPE-MODEL-sSEED, with a number when that is taken)
    resume   continue the run in --out, or in the directory given here; options are those it was started with
    budget   end after the step that reaches it, as in 2M-sampled-tokens; also trained-tokens, scored-tokens,
             judge-tokens, flops, forward-flops, backward-flops, seconds (then --steps has no default)
    dry_run  show the resolved run, the arithmetic of a step, and an estimate of time and memory; nothing is written
    threads  of torch (default: the recipe's; most take all cores, at most 4)
    track    also write metrics for: tensorboard, wandb (offline unless WANDB_MODE says otherwise)
    env_timeout    seconds that an environment may take for one move; then its attempt is dropped, and counted (0: any)
    stall_timeout  seconds in which nothing begins or ends, after which the run ends (0: never; after two minutes a line
                   says who waits for whom)
    record_steps  keep whole steps for temper replay: 10,20, or checkpoints for the step after each checkpoint
    """


COMMON = [*signature(common), *backend.OPTIONS]
USAGE = "temper run RECIPE [--option value …]     RECIPE: a name, FILE.py, or FILE.py:function"


@dataclass(frozen=True)
class Asked:
    """A command line, resolved."""

    target: find.Target
    given: Mapping[str, Any]  # options of the recipe
    own: Mapping[str, Any]  # options of every run
    argv: tuple[str, ...]
    takes_out: bool  # the recipe has an option of that name

    @property
    def resume(self) -> Path | None:
        return _resumed(self.own)


def run(argv: list[str]) -> int:
    """The command; its help comes from the recipe's source."""
    if not argv or (options.wants_help(argv) and argv[0].startswith("-")):
        print("\n".join([USAGE, "", *_recipes(), "", "every run", *options.table(COMMON)]))
        return 0
    if options.wants_help(argv):
        print(recipe_help(find.target(argv[0])))
        return 0
    asked = resolve(argv)
    if asked.own.get("threads", 0) < 0:
        raise UserError(f"--threads must not be negative, got {asked.own['threads']}")
    for name in ("env_timeout", "stall_timeout"):
        if asked.own.get(name, 0.0) < 0:
            raise UserError(f"--{name.replace('_', '-')} must not be negative, got {asked.own[name]:g}")
    phases, out = build(asked)
    if asked.own.get("dry_run"):
        print("\n".join(plan.lines(phases)), flush=True)
        print("\n".join([*estimate.report(phases, threads_of(asked, phases)), "", "nothing was written (--dry-run)"]))
        return 0
    return train(phases, out, asked)


def resolve(argv: list[str]) -> Asked:
    """Which recipe with which options; what a resumed run was started with comes first."""
    named = not argv[0].startswith("-")
    own_options = argv[1:] if named else argv
    if not named:
        before = earlier(_resumed(options.pick(argv, COMMON)) or _no_recipe())
        argv = [before[0], *argv]
    target = find.target(argv[0])
    told = target.options()
    if told is not None:
        _check_names(own_options, told)
    found = signature(target.load())
    everything = [*found, *(o for o in COMMON if o.name not in {f.name for f in found})]
    values = options.parse(argv[1:], everything)
    words = _words(argv[1:], everything, drop=("resume", "out", "dry_run", "threads"))
    folder = _resumed(values)
    if folder is not None:
        before = earlier(folder, [_spelled(target)])
        if before[0] != _spelled(target):
            raise UserError(f"{folder} is a run of {before[0]}, not of {_spelled(target)}")
        kept = _words(before[1:], everything, drop=tuple(values))
        values = {**options.parse(kept, everything), **values}
        words = [*kept, *words]
    options.demand(values, found, f"temper run {argv[0]}")
    return Asked(
        target,
        {o.name: values[o.name] for o in found if o.name in values},
        {o.name: values[o.name] for o in COMMON if o.name in values},
        ("run", _spelled(target), *words),
        any(o.name == "out" for o in found),
    )


def build(asked: Asked) -> tuple[list[Run], Path]:
    """The recipe's phases, and the directory of the whole: each of several phases has its own in there."""
    from temper import install
    from temper.replay.record import steps_of
    from temper.run import Run

    install.permit()
    out = asked.resume or asked.own.get("out")
    if asked.takes_out:  # to find the model of an earlier phase
        out = out or _free(asked.target.function, asked.given.get("model", ""), asked.given.get("seed", 0))
    made = _made(asked, {"out": out} if asked.takes_out else {})
    phases = list(made) if isinstance(made, (list, tuple)) else [made]
    if not phases or not all(isinstance(p, Run) for p in phases):
        raise UserError(f"recipe {asked.target.text!r} returned {type(made).__name__}, not a Run or a list of them")
    check_models(phases[0])
    first = phases[0]
    out = out or _free(first.name, next(iter(first.policies.values())).model, first.seed)
    for n, phase in enumerate(phases):
        phase.out = out if len(phases) == 1 else out / f"{n + 1}-{phase.name}"
        phase.argv, phase.resume = asked.argv, asked.resume is not None
        check_steps(phase)
    if asked.own.get("budget"):
        limit(phases, asked)
    for phase in phases:
        phase.trackers = tuple(asked.own.get("track", ()))
        phase.record = steps_of(asked.own.get("record_steps", ""))
        for name in {"env_timeout", "stall_timeout"} & asked.own.keys():
            setattr(phase, name, asked.own[name])
    if not asked.own.get("dry_run"):
        backend.place(phases, asked.own)
    return phases, out


def limit(phases: list[Run], asked: Asked) -> None:
    """Let the budget end the run, and its steps only where they were asked for."""
    from temper.ledger import UNBOUNDED, budget_of

    if len(phases) > 1:
        raise UserError(f"a budget is for a run of one phase; {asked.target.text} has {len(phases)}")
    phases[0].budget = budget_of(asked.own["budget"])
    if "steps" not in asked.given:
        phases[0].steps = UNBOUNDED


def _made(asked: Asked, more: Mapping[str, Any]) -> Any:
    """What the recipe returns."""
    recipe = asked.target.load()
    try:
        return recipe(**{**asked.given, **more})
    except UserError:
        raise
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        raise refused(error, asked.target)


def _free(name: str, model: str, seed: int) -> Path:
    from temper.report import free_folder

    return free_folder(name, model, seed)


def check_models(phase: Run) -> None:
    """UserError for a model that is not there, before a run directory is made for it."""
    from temper.models.load import RANDOM, resolve

    for model in {p.model for p in phase.policies.values()} - {RANDOM}:
        resolve(model)


def check_steps(phase: Run) -> None:
    """UserError when a resumed run is further than it is to go."""
    from temper.state import latest

    found = latest(Path(str(phase.out)) / "checkpoints") if phase.resume else None
    done = int(found.name.rpartition("_")[2]) if found is not None else 0
    if done > phase.steps:
        raise UserError(
            f"the run in {phase.out} is at step {done} already: ask for more with --steps, not {phase.steps}"
        )


def train(phases: list[Run], out: Path, asked: Asked) -> int:
    """Train, and say in one line what became of it when it did not end well."""
    import torch

    from temper.loop import train_all

    torch.set_num_threads(threads_of(asked, phases))

    def once(again: bool) -> None:
        made = build(replace(asked, own={**asked.own, "resume": out}))[0] if again else phases
        asyncio.run(train_all(made))

    try:
        started_again(once, Faults(), lambda: newest(out), print)
    except UserError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, OSError) or os.environ.get(DEBUG):
            raise
        raise UserError(f"{error}{hint(cause)}{kept(error, out)}")  # somebody's code failed: they need its traceback
    except KeyboardInterrupt:
        return fail(f"interrupted; continue with: temper run --resume {shlex.quote(str(out))}", 130)
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        return crashed(error, out)
    return 0


def newest(out: Path) -> str:
    """The last checkpoint of a run, or of the phase that it is in; "" without one."""
    from temper.state import latest

    found = [latest(p) for p in (out / "checkpoints", *sorted(out.glob("*/checkpoints")))]
    return str(next((p for p in reversed(found) if p is not None), ""))


def refused(error: Exception, target: find.Target) -> UserError:
    """A recipe that could not be called with these options, as one line."""
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ValueError) and find.inside_temper(error):
        return UserError(said)
    where = find.line_of(error, target.path)
    return UserError(f"{target.path.name}{where}: {type(error).__name__}: {said} ({DEBUG}=1 shows the traceback)")


def crashed(error: Exception, out: Path) -> int:
    """The traceback goes to a file; one line says where, and what the run was doing."""
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    return fail(f"{what}{hint(error)}, in {stage_of(error)}{kept(error, out)}", 1)


def kept(error: Exception, out: Path) -> str:
    """Write the traceback beside the run, and say where it is."""
    log = out / "crash.log"
    try:
        log.write_text("".join(traceback.format_exception(error)))
    except OSError:
        return f"; {DEBUG}=1 shows the traceback"
    return f"; the traceback is in {log}"


def hint(error: BaseException) -> str:
    return " (less memory: a lower --token-budget, --max-rows or --groups)" if _memory(error) else ""


STAGES = {
    "opened": "loading", "gather": "rollout", "attempt": "rollout", "play": "rollout", "update": "the update",
    "publish": "publishing weights", "report": "reporting", "save": "a checkpoint", "finish": "the end of the run",
    "begin": "the start of the run", "_probe": "evaluation",
}  # fmt: skip


def stage_of(error: BaseException) -> str:
    """The part of the loop that an exception came out of."""
    found, trace = "the run", error.__traceback__
    while trace is not None:
        code, here = trace.tb_frame.f_code, trace.tb_frame.f_locals
        if code.co_filename.endswith(("temper/loop.py", "temper/play.py", "temper/run.py", "temper/report.py")):
            if code.co_name == "apply" and "stage" in here:
                found = f"stage {type(here['stage']).__name__}"
            found = STAGES.get(code.co_name, found)
        trace = trace.tb_next
    return found


def recipe_help(target: find.Target) -> str:
    """Help of a recipe: its own options, those it shares, those of every run."""
    told = target.options()
    known = told if told is not None else signature(target.load())
    doc = _doc(target)
    lines = [f"temper run {target.text} [--option value …]", "", summary(doc)]
    for owner in dict.fromkeys(o.recipe for o in known):
        mine = [o for o in known if o.recipe == owner]
        title = "options" if owner == target.function else f"options shared with other recipes ({owner})"
        lines += ["", title, *options.table(mine)]
    shared = [o for o in COMMON if o.name not in {k.name for k in known}]
    return "\n".join([*lines, "", "every run", *options.table(shared)])


def earlier(folder: Path, otherwise: list[str] | None = None) -> list[str]:
    """[recipe, options…] that the run in `folder` was started with; `otherwise` where its run.json does not say."""
    for path in (folder / "run.json", *sorted(folder.glob("*/run.json"))):
        if path.is_file():
            argv = _argv(path)
            if len(argv) > 1 and argv[0] == "run":
                return list(argv[1:])
            if otherwise is not None:
                return otherwise
            raise UserError(
                f"{path} does not say what was run: give recipe and options, temper run RECIPE … --resume {folder}"
            )
    if otherwise is not None and (folder / "checkpoints").exists():
        return otherwise
    raise UserError(f"there is no run in {folder} to resume: it has no run.json")


def _argv(path: Path) -> list[str]:
    """What run.json says that the run was started with; nothing when it cannot be read or does not say."""
    try:
        told = json.loads(path.read_text())
    except ValueError:
        return []
    return list(told.get("argv") or []) if isinstance(told, dict) else []


def threads_of(asked: Asked, phases: list[Run]) -> int:
    return asked.own.get("threads") or phases[0].threads or default_threads()


def default_threads() -> int:
    """All cores that this process may use, at most 4; what OMP_NUM_THREADS says comes first."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(said) if said.isdigit() and int(said) else max(1, min(4, cores))


def _resumed(values: Mapping[str, Any]) -> Path | None:
    """The directory to continue in."""
    asked = values.get("resume", False)
    if asked is False:
        return None
    folder = values.get("out") if asked is True else asked
    if folder is None:
        raise UserError("which run? --resume DIR, or --resume with --out DIR")
    if not Path(folder).is_dir():
        raise UserError(f"there is no directory {folder} to resume from")
    return Path(folder)


def _no_recipe() -> Any:
    raise UserError("which recipe? temper run RECIPE, or temper run --resume DIR; temper list recipes shows them")


def _check_names(argv: list[str], told: list[Option]) -> None:
    """An unknown option is refused before anything heavy is imported."""
    from temper.errors import unknown

    known = {o.name for o in (*told, *COMMON)}
    for word in argv:
        if not word.startswith("--") or word == "--":
            continue
        name = word[2:].partition("=")[0].replace("-", "_")
        if name not in known and name.removeprefix("no_") not in known:
            flags = [o.flag for o in (*told, *COMMON)]
            raise unknown("option", word.partition("=")[0], flags)


def _words(argv: list[str], known: list[Option], drop: tuple[str, ...]) -> list[str]:
    """The command line without some options."""
    kept: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        taken = options.extent(word, rest, known)
        name = word[2:].partition("=")[0].replace("-", "_")
        if name not in drop and name.removeprefix("no_") not in drop:
            kept += [word, *rest[:taken]]
        rest = rest[taken:]
    return kept


def _spelled(target: find.Target) -> str:
    """The recipe as a later process can find it."""
    return target.text if target.bundled else f"{target.path}:{target.function}"


def _doc(target: find.Target) -> str:
    import ast

    from temper.cli import source

    function = source.read(target.path).functions.get(target.function)
    return (ast.get_docstring(function) or "") if function is not None else ""


def _recipes() -> list[str]:
    from temper.cli import source

    found = source.recipes()
    width = max((len(n) for n in found), default=0)
    return [f"  {name:<{width}}   {entry.title}" for name, entry in found.items()]


def _memory(error: BaseException) -> bool:
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)
