"""Temper: RL post-training of language models where a published method is one short file."""

__version__ = "0.1.0"
