"""Asynchrony and failures in one process, repeatable to the bit: real models train while time is virtual.

    run = grpo(steps=20)                                   # any recipe
    outcome = simulate(run, World(samplers=4, tail=Lognormal(1.0)))
    outcome.seconds, outcome.idle                          # of a step; of samplers and of learners

The loop, the bus, the fleet and the sync policies are those of a real run; only the clock of the event loop, and how
long sampling, training and moving weights take, are made up. `Measured.of(DIR)` takes them from a run that is over.
"""

from temper.simulate.measured import Measured
from temper.simulate.run import Outcome, simulate
from temper.simulate.world import Lognormal, Pareto, Recorded, Steady, World

__all__ = ["Lognormal", "Measured", "Outcome", "Pareto", "Recorded", "Steady", "World", "simulate"]
