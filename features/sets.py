"""What a policy may know at a swap-in: differences between the last pages of its stream.

A feature set is one register (whose key says what a stream is) and the features computed from it. All
are integers, causal (prefix-causality is tested) and of bounded state, and none is an address: they are
differences, so a policy survives address space randomisation. They are defined by the program's VM and
nowhere else; a set only picks them.
"""

from dataclasses import dataclass

from kdtool.errors import unknown_name
from kdtool.rmt import Feature, Register

__all__ = ["FEATURE_SETS", "FeatureSet", "feature_set"]

HISTORY = 33
DELTA_LAGS = (1, 2, 3, 4, 5, 6, 7, 8)
# A span of n deltas tells the phase of a pattern whose stride is not a whole number of pages, such as the
# 9.77 pages of a row of 5000 float64.
SPAN_LAGS = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
RUN_LAG = 8
# How long a stride has gone on tells where a pattern breaks it whose rows are nearly a whole number of pages:
# one of 7.03 pages makes 31 strides of 7 and one of 8.
LONG_RUN_LAG = HISTORY - 1


@dataclass(frozen=True)
class FeatureSet:
    """A stream's key and size, and the features over its last HISTORY pages."""

    name: str
    key: tuple[str, ...]
    size: int

    @property
    def register(self) -> Register:
        """Return the register that holds the streams."""
        return Register(self.name, self.key, self.size, HISTORY)

    @property
    def features(self) -> tuple[Feature, ...]:
        """Return deltas d1 .. d8 (newest first), spans s2 .. s32, runs of equal deltas, to 8 and to 32."""
        deltas = [Feature(f"d{lag}", "delta", self.name, lag) for lag in DELTA_LAGS]
        spans = [Feature(f"s{lag}", "span", self.name, lag) for lag in SPAN_LAGS]
        runs = [Feature(f"r{lag}", "run", self.name, lag) for lag in (RUN_LAG, LONG_RUN_LAG)]
        return (*deltas, *spans, *runs)


FEATURE_SETS: tuple[FeatureSet, ...] = (
    FeatureSet("process", ("pid",), 64),
    FeatureSet("thread", ("pid", "tid"), 256),
    FeatureSet("instruction", ("pid", "ip"), 1024),
    FeatureSet("region", ("pid", "region"), 1024),
)


def feature_set(name: str) -> FeatureSet:
    """Return the set called `name`; ParameterError for an unknown one.

    >>> feature_set("process").features[0].name
    'd1'
    """
    for candidate in FEATURE_SETS:
        if candidate.name == name:
            return candidate
    raise unknown_name("feature set", name, [candidate.name for candidate in FEATURE_SETS])
