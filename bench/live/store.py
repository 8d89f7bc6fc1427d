"""The work folder: that of bench.fidelity, and beside it what is learned and what live runs measured.

WORK/programs/   PAIR.rmt.json, learned from traces/PAIR-learn.kdt, and PAIR.json, from which version
WORK/live/       PAIR-VARIANT.json, the runs of a cell with swap in a file; WORK/live-loop/: on a loop device
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.fidelity.store import Store
from bench.live.workloads import Pair
from kdtool.errors import ParameterError

__all__ = ["LiveStore"]


class LiveStore(Store):
    """The files of one work folder; ParameterError when another bench is at work in it.

    loop : the runs are those with swap on a loop device
    """

    def __init__(self, work: Path, *, loop: bool) -> None:
        super().__init__(work, loop=loop)
        self._runs = "live-loop" if loop else "live"

    def program(self, pair: Pair) -> Path:
        """Return where the learned program is or will be."""
        return self._made("programs") / f"{pair.name}.rmt.json"

    def learned(self, pair: Pair, wanted: Mapping[str, Any]) -> bool:
        """Tell whether it was learned from the present version of its input.

        Raises ParameterError when that was with other facts than these: runs of that program may be kept.
        """
        file = self.program(pair)
        found = self._read(file.with_name(f"{pair.name}.json"), pair.learn)
        if not file.exists() or found is None:
            return False
        had = {key: found.get(key) for key in wanted}
        if had != dict(wanted):
            raise ParameterError(f"{file}: was learned with {had}, not {wanted}: give another --work")
        return True

    def keep_learned(self, pair: Pair, facts: dict[str, Any]) -> None:
        """Note what learning it took."""
        self._write(self.program(pair).with_name(f"{pair.name}.json"), pair.learn, facts)

    def runs(self, pair: Pair, variant: str, limit_bytes: int) -> list[dict[str, Any]]:
        """Return the runs of a cell so far, in a memory of `limit_bytes`."""
        found = self._read(self._made(self._runs) / f"{pair.name}-{variant}.json", pair.run)
        return found["runs"] if found is not None and found["limit_bytes"] == limit_bytes else []

    def keep_runs(self, pair: Pair, variant: str, limit_bytes: int, runs: list[dict[str, Any]]) -> None:
        """Keep the runs of a cell."""
        content = {"limit_bytes": limit_bytes, "runs": runs}
        self._write(self._made(self._runs) / f"{pair.name}-{variant}.json", pair.run, content)
