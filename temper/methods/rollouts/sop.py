"""Scalable online post-training (SOP)

Paper: "SOP: A Scalable Online Post-Training System for Vision-Language-Action Models", 2026, arXiv 2601.03044; no code.
Hook: rollout (actors stream episodes in which a person takes over), stage (two sources, mixed by their losses), loss.
Claim: success 0.94 to 0.98 with HG-DAgger after hours of interaction; time to a target falls near-linearly from one to
four robots.
Left out: pixels and continuous actions (the world is a grid in words, the person a script), RECAP as the algorithm, the
pub/sub service (weights and episodes go through a folder).
Reconstructed: α = 2, a window of 50 losses, offline only until the first online step; losses older than the window's
steps are forgotten, and a source without any counts as the floor.
"""

from __future__ import annotations

from typing import Any

from temper.envs.demonstrations import Demonstrations
from temper.episode import ENV
from temper.method import Method
from temper.methods.objectives.sft import sft
from temper.models.render import renderer_of
from temper.robots.sources import Losses, TwoSources
from temper.tasks.task import Task

SLUG = "sop"
TITLE = "Scalable online post-training (SOP)"
PAPER = "arXiv 2601.03044"
FAMILY = "rollouts"
HOOKS = ("rollout", "stage", "loss")
RECIPE = "sop"


def decision(task: Task, tokenizer: Any) -> list[tuple[str, Any]]:
    """The prompt, and the move to be learned."""
    render = renderer_of(tokenizer)
    move = tokenizer.encode(task.answer, add_special_tokens=False)
    return [(ENV, render.ids(render.text(task.messages), first=True)), ("solver", move)]


def sop(policy: Any, *, sources: TwoSources) -> Method:
    """HG-DAgger on decisions that `sources` draws."""
    m = sft(policy)
    return Method(on_group=m.on_group, on_batch=[Losses(policy, sources)], terms=m.terms, env=Demonstrations(decision))
