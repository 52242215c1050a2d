"""Everything that knows what a model is: loading, layout of contexts, scoring."""
