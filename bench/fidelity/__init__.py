"""Does replay predict what the running kernel does? `python -m bench.fidelity --help`; docs/fidelity.md."""
