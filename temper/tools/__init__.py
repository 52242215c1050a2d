"""Tools that a policy may call while an episode runs: what they are, how they are run, and how calls are read."""
