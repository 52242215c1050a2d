"""Methods about how episodes are rolled out: trees, chunks, rounds of refinement, feedback."""
