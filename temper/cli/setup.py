"""`temper setup`: packages that pip cannot install by itself."""

from __future__ import annotations

from typing import Literal

from temper import install


def setup(package: Literal["reasoning-gym"]) -> int:
    """Install a package into this environment that cannot be a plain dependency.

    package  reasoning-gym: without pycosat, which needs a C compiler for one of its data sets
    """
    print("installing reasoning-gym, without pycosat …", flush=True)
    install.install_reasoning_gym()
    print("done; temper doctor tells which of its data sets are usable here")
    return 0
