"""`temper run --backend ray` with a cluster of its own: who may reach it, who is where, and what is left afterwards.

Two learners, whose process group has sockets of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("ray")

import psutil

LISTENING = """
    import psutil

    from temper.backends import ray
    from temper.backends.ray import Whereabouts
    from temper.cli import main

    async def look(self, run, step, was=Whereabouts.__call__):
        me = psutil.Process()
        for p in (me, *me.children(recursive=True)):
            for c in p.net_connections(kind="inet"):
                if c.status == psutil.CONN_LISTEN:
                    print("LISTENS", p.name(), c.laddr.ip)
        return await was(self, run, step)

    Whereabouts.__call__ = look
    raise SystemExit(main(ARGV))
"""


def test_a_run_with_a_cluster_of_its_own(exact_model: str, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        textwrap.dedent(
            """
            from studies.kills import Twice, made

            class Mine(Twice):
                \"\"\"An environment that is defined in no package.\"\"\"

            def mine(model: str):
                run = made(model, None, 2)
                run.env = Mine()
                return run
            """
        )
    )
    words = ["run", str(recipe), "--model", exact_model, "--out", str(tmp_path / "run"), "--threads", "1", "--backend",
             "ray", "--environments", "1", "--learners", "2"]  # fmt: skip
    code = textwrap.dedent(LISTENING).replace("ARGV", repr(words))
    root = str(Path(__file__).parents[2])
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": root, "TEMPER_MARK": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    listens = [line.split() for line in ran.stdout.splitlines() if line.startswith("LISTENS")]
    assert len(listens) > 4 and {ip.removeprefix("::ffff:") for *_, ip in listens} <= {"127.0.0.1", "::1"}
    who = [w["who"] for w in json.loads((tmp_path / "run" / "placement.json").read_text())]
    assert who == ["learner of 'policy' 0", "learner of 'policy' 1", "environment 0", "sampler of 'policy' 0"]
    assert f"{who[0]} (" in ran.stdout
    assert [p for p in psutil.process_iter() if marked(p, str(tmp_path))] == []  # nothing is left
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["argv"]
    assert recorded[-6:-2] == ["--backend", "ray", "--environments", "1"]  # a resumed run is placed as this one


def marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("TEMPER_MARK") == mark
    except psutil.Error:
        return False
