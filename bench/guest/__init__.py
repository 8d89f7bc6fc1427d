"""Replay beside a kernel of a distribution's in an emulated machine: python -m bench.guest."""
