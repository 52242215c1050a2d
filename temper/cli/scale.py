"""`temper scale`: more or fewer samplers of a run that goes on."""

from __future__ import annotations

import fcntl
from pathlib import Path

from temper.errors import UserError


def scale(run: Path, *, samplers: int) -> int:
    """Change how many samplers a run on Ray has. It takes this up after its next step, and goes on meanwhile.

    run       the run directory
    samplers  actors that serve each trained policy from then on; a resumed run has --samplers again
    """
    from temper.backends.ray_scale import wish

    if samplers < 1:
        raise UserError(f"--samplers must be at least 1, got {samplers}")
    if not run.is_dir():
        raise UserError(f"there is no directory {run}")
    folder = next((f for f in (run, *sorted(run.glob("*/"))) if running(f)), None)
    if folder is None:
        raise UserError(f"no run goes on in {run}: temper run --resume {run} --samplers {samplers}")
    if not (folder / "placement.json").exists():
        raise UserError(f"the run in {folder} has no actors yet: only runs with --backend ray can be scaled")
    wish(folder, samplers)
    print(f"{folder} has {samplers} samplers after its next step")
    return 0


def running(folder: Path) -> bool:
    """Whether a run holds the lock of this directory."""
    try:
        with (folder / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
