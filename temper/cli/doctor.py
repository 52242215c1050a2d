"""`temper doctor`: what is usable on this machine, and why the rest is not."""

from __future__ import annotations

import json as json_
import os
import platform
import shutil
import sys
from importlib import metadata
from typing import Any

from temper import install
from temper.console import bold

HARD = ("torch", "transformers", "safetensors", "numpy", "jinja2")
OPTIONAL = {
    "peft": ("peft", "LoRA adapters", "pip install 'temper-rl[peft]'"),
    "datasets": ("datasets", "Hugging Face data sets by name", "pip install 'temper-rl[data]'"),
    "pyarrow": ("pyarrow", "Parquet files", "pip install 'temper-rl[data]'"),
    "math_verify": ("math-verify", "the reward math_verify", "pip install 'temper-rl[math]'"),
    "tensorboard": ("tensorboard", "the TensorBoard writer", "pip install 'temper-rl[tensorboard]'"),
    "wandb": ("wandb", "the W&B writer", "pip install 'temper-rl[wandb]'"),
    "reasoning_gym": ("reasoning-gym", "its data sets; quickstart", "temper setup reasoning-gym"),
}


def doctor(*, json: bool = False) -> int:
    """What is usable on this machine, and why the rest is not.

    json  as JSON
    """
    found = examine()
    if json:
        print(json_.dumps(found, indent=1, ensure_ascii=False))
    else:
        print("\n".join(lines(found)))
    return 0 if found["usable"] else 1


def examine() -> dict[str, Any]:
    """Everything, as plain data."""
    import temper

    packages = {name: _version(name) for name in HARD}
    machine = _machine() if packages["torch"] else {"devices": [], "threads": 0}
    return {
        "temper": temper.__version__,
        "python": platform.python_version(),
        "environment": sys.prefix,
        "packages": packages,
        **machine,
        "memory_gb": _memory(),
        "disk_free_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "writable": os.access(".", os.W_OK),
        "optional": {name: _optional(*about) for name, about in OPTIONAL.items()},
        "bundled_models": _bundled(),
        "reasoning_gym": _reasoning_gym(),
        "sandbox": _sandbox(),
        "usable": all(packages.values()),
    }


def lines(d: dict[str, Any]) -> list[str]:
    """The same for reading."""
    out = [bold("this machine")]
    out += _row("python", d["python"], True) + _row("temper", d["temper"], True)
    for name, version in d["packages"].items():
        out += _row(name, version or "not installed: pip install temper-rl", version)
    out += _row("devices", ", ".join(d["devices"]), d["devices"])
    out += _row("threads", f"{d['threads']} (--threads, or OMP_NUM_THREADS)", True)
    if d["memory_gb"]:
        out += _row("memory", f"{d['memory_gb']} GB", True)
    out += _row("disk", f"{d['disk_free_gb']} GB free here", d["disk_free_gb"] > 1 and d["writable"])
    for name, where in d["bundled_models"].items():
        out += _row("model", f"{name}{'' if where else ': its weights are not in this installation'}", where)
    out += ["", bold("optional")]
    for about in d["optional"].values():
        text = f"{about['version'] or '–'}  {about['enables']}"
        out += _row(about["package"], text if about["version"] else f"{text}: {about['remedy']}", about["version"])
    out += ["", bold("the Python tool's sandbox")]
    for what, how in d["sandbox"].items():
        out += _row(what, how, what != "unusable")
    gym = d["reasoning_gym"]
    if "error" in gym:
        out += _row("reasoning-gym", gym["error"], False)
    if gym["data_sets"]:
        usable = gym["data_sets"] - len(gym["missing"])
        out += ["", bold(f"reasoning-gym: {usable} of {gym['data_sets']} data sets are usable here")]
        for name, why in gym["missing"].items():
            out += _row(name, why, False)
    return out


def _row(name: str, text: str, good: Any) -> list[str]:
    return [f"  {'✓' if good else '✗'} {name:<15} {text}"]


def _machine() -> dict[str, Any]:
    """What torch sees."""
    import torch

    from temper.cli.run import default_threads

    devices = [f"cpu ({os.cpu_count()} cores)"]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(i)
            devices.append(f"cuda:{i} {about.name} ({about.total_memory / 1e9:.0f} GB)")
    return {"devices": devices, "threads": default_threads()}


def _optional(package: str, enables: str, remedy: str) -> dict[str, Any]:
    return {"package": package, "version": _version(package), "enables": enables, "remedy": remedy}


def _version(package: str) -> str | None:
    """Of an installed package that can be found; None otherwise."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _bundled() -> dict[str, bool]:
    from temper.cli.source import PACKAGE

    return {"temper-tiny": (PACKAGE / "models" / "temper_tiny" / "config.json").exists()}


def _sandbox() -> dict[str, str]:
    """What keeps sampled code in, here."""
    from temper.tools.sandbox import isolation

    return isolation()


def _reasoning_gym() -> dict[str, Any]:
    """How many data sets there are, and which cannot work here: {name: why}."""
    if not install.has("reasoning_gym"):
        return {"data_sets": 0, "missing": {}}
    from temper.tasks import reasoning_gym

    try:
        return {"data_sets": len(reasoning_gym.names()), "missing": reasoning_gym.missing()}
    except install.Missing as error:
        return {"data_sets": 0, "missing": {}, "error": str(error)}
