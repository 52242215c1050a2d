"""`temper serve` as a program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from temper.cli.serve import example
from temper.errors import UserError
from tests.cli.calls import ROOT


def test_it_serves_and_stops(toy_model: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "temper", "serve", toy_model, "--port", "0", "--name", "toy", "--threads", "1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TEMPER_TOKEN": "secret"}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=env) as p:
        try:
            assert p.stdout and p.stderr
            p.stdout.readline()
            url = p.stdout.readline().split()[2]
            body = json.dumps({"model": "toy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3})
            headers = {"Content-Type": "application/json", "Authorization": "Bearer secret"}
            request = urllib.request.Request(f"{url}/chat/completions", body.encode(), headers)
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
                assert json.load(answer)["choices"][0]["message"]["role"] == "assistant"
            p.send_signal(signal.SIGINT)
            assert p.wait(10) == 0
            assert p.stdout.read().endswith("stopped\n")
            assert p.stderr.read() == ""
        finally:
            p.kill()


def test_wrong_options_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from temper.cli.serve import serve

    monkeypatch.delenv("TEMPER_TOKEN", raising=False)
    for options, why in (
        ({"host": "0.0.0.0"}, "give a --token"), ({"host": "::"}, "give a --token"), ({"port": 70000}, "--port"),
        ({"max_rows": 0}, "--max-rows"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=why):
            serve("temper-tiny", **options)  # type: ignore[arg-type]


def test_the_example_never_shows_the_token() -> None:
    text = "\n".join(example("http://127.0.0.1:1/v1", "it's", "secret"))
    assert "secret" not in text
    assert "Bearer $TEMPER_TOKEN" in text
