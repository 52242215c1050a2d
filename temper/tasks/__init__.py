"""Task sources and verifiers: where problems come from, and how an answer is checked."""
