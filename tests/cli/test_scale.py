"""`temper scale`: a wish in the directory of a run that goes on."""

from __future__ import annotations

import fcntl
from pathlib import Path

from temper.backends.ray_scale import FILE, taken
from tests.cli.calls import Temper


def test_a_run_is_scaled_while_it_goes_on(temper: Temper, tmp_path: Path) -> None:
    run, phase = tmp_path / "run", tmp_path / "run/2-second"
    phase.mkdir(parents=True)

    def refused(*words: object) -> str:
        return temper(*map(str, words)).error

    assert refused("scale", "nowhere", "--samplers", "2") == "there is no directory nowhere"
    (phase / ".lock").write_text("")
    again = f"no run goes on in {run}: temper run --resume {run} --samplers 2"
    assert refused("scale", run, "--samplers", "2") == again
    with (phase / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        why = f"the run in {phase} has no actors yet: only runs with --backend ray can be scaled"
        assert refused("scale", run, "--samplers", "2") == why
        (phase / "placement.json").write_text("[]")
        assert refused("scale", run, "--samplers", "0") == "--samplers must be at least 1, got 0"
        assert "has 2 samplers after its next step" in temper("scale", str(run), "--samplers", "2").out
    assert taken(phase / FILE) == 2
