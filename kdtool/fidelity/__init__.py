"""Replay against the running kernel: what a program does under a limit, what replay says, how far apart."""
