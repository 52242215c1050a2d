"""Peak memory of one step, in a process of its own: `python -m temper.bench.memory temper|trl MODEL WORKLOAD`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from temper.bench.workloads import WORKLOADS, Workload, small
from temper.errors import UserError

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(side: str, model: str, workload: Workload, tiny: bool = False, timeout: float = 900) -> float:
    """MiB that the third step needs at its peak above what the process holds before it."""
    if not CLEAR.exists():
        raise UserError("peak memory of a step is read from /proc/self: Linux only")
    command = [sys.executable, "-m", "temper.bench.memory", side, model, workload.name, *(["small"] if tiny else [])]
    made = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if made.returncode:
        raise UserError(f"measuring the memory of {side} failed: {(made.stderr.strip().splitlines() or ['?'])[-1]}")
    return float(json.loads(made.stdout.strip().splitlines()[-1])["mib"])


def main(side: str, model: str, name: str, *rest: str) -> None:
    from temper.bench import ours
    from temper.bench.stepper import Stepper

    workload = small(WORKLOADS[name]) if rest else WORKLOADS[name]
    if side == "temper":
        loop = ours.loop(workload, model, {})
    else:
        from temper.bench import peer_trl

        loop = peer_trl.loop(workload, model)
    stepper = Stepper(loop)
    stepper.step()
    stepper.step()
    held = resident("VmRSS")
    CLEAR.write_text("5")  # the peak begins anew
    stepper.step()
    print(json.dumps({"mib": resident("VmHWM") - held}), flush=True)
    os._exit(0)  # the peer's threads need not be waited for


def resident(what: str) -> float:
    """MiB, as the kernel counts them."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
