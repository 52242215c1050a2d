from pathlib import Path

import pytest

from tests.cli.calls import Temper


@pytest.fixture
def temper(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Temper:
    """The command line, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEMPER_NO_INSTALL", "1")
    monkeypatch.delenv("TEMPER_DEBUG", raising=False)
    return Temper(capsys)
