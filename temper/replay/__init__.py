"""Counterfactual replay: what another estimator, gate or loss would have done with the rollouts of a recorded step.

    temper run grpo … --record-steps 10,20
    temper replay runs/grpo-… --step 10 --with dr-grpo,rloo,gspo

`temper.replay.record` is what is kept of a step, `gradient` what is computed, `methods` what it is computed for.
"""
