"""`temper setup`: packages that pip cannot install by itself."""

from __future__ import annotations

from typing import Literal

from temper import install


def setup(package: Literal["reasoning-gym", "bfcl"]) -> int:
    """Install a package that cannot be a plain dependency.

    package  reasoning-gym: into this environment, without pycosat, which needs a C compiler for one of its data sets;
             bfcl: bfcl-eval, into an environment of its own
    """
    if package == "bfcl":
        print(f"installing bfcl-eval into {install.bfcl_folder()} …", flush=True)
        install.install_bfcl()
        return 0
    print("installing reasoning-gym, without pycosat …", flush=True)
    install.install_reasoning_gym()
    print("done; temper doctor tells which of its data sets are usable here")
    return 0
