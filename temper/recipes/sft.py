"""Supervised fine-tuning on your own demonstrations."""

from __future__ import annotations

from typing import Any

from temper.envs.conversations import demonstrated
from temper.methods.objectives.sft import sft as method
from temper.recipe import extends
from temper.recipes.offline import learn_offline
from temper.run import Run


@extends(learn_offline, without=("method", "dialogues", "name"))
def sft(lr: float = 2e-5, **options: Any) -> Run:
    """Imitate the assistant's turns of messages, prompt + completion, prompt + answer, or plain text.

    lr  peak learning rate
    """
    return learn_offline(method, demonstrated, name="sft", lr=lr, **options)
