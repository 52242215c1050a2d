"""A loaded model is its own: its file may be replaced while it is in use."""

import shutil
from pathlib import Path

import torch

from temper.models.load import load_model


def test_a_file_that_is_overwritten_does_not_reach_a_loaded_model(toy_model: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(toy_model, folder)
    module = load_model(str(folder), device="cpu")
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    file = folder / "model.safetensors"
    file.write_bytes(b"\0" * file.stat().st_size)
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())
