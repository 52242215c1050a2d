"""Runs: one function per file, named like the file; its signature is its command line. Never imported by temper."""
