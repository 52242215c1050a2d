"""AsyncFlow

Paper: "AsyncFlow: An Asynchronous Streaming RL Framework for Efficient LLM Post-Training", arXiv 2507.01663.
Hook: rollout (a bus of rows and columns between tasks: `temper.bus`), loss (the clipped ratio to the log-probs that
were recorded at sampling: rows are up to `Run.ahead` updates old).
Claim: over the same system with separated phases, streaming through the bus 2.01 times as fast, and with weights that
are taken over between generations 2.74 times (7 B, 512 NPUs); rewards as before up to a staleness of 2.
Left out: storage units on several machines and one process that reads for each replica (`Bus` answers every process of
a replica alike; `temper.backends.ray` puts it into an actor), tokens of flow control (the bus has a capacity instead).
The recipe of its code filters rows by version with a test that is skipped at staleness 0; here every row is checked.
"""

from __future__ import annotations

from typing import Any

from temper.method import Method
from temper.methods.objectives.grpo import grpo

SLUG = "asyncflow-transferqueue"
TITLE = "AsyncFlow"
PAPER = "arXiv 2507.01663"
FAMILY = "rollouts"
HOOKS = ("rollout", "loss")
RECIPE = "asyncflow-transferqueue"


def asyncflow_transferqueue(policy: Any, *, clip: float = 0.2) -> Method:
    """clip: range of the ratio to the recorded log-probs."""
    return grpo(policy, beta=0.0, clip=clip)
