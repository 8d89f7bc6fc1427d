"""What a learner is: one way to find a program from a dataset."""

from typing import Protocol

from kdtool.features import Dataset, FeatureSet
from kdtool.rmt import Program

__all__ = ["Learner"]


class Learner(Protocol):
    """A learner offers candidate settings; each fits a program; replay decides between them."""

    @property
    def name(self) -> str:
        """Return the name that `--learner` takes."""

    def candidates(self) -> list[dict[str, int]]:
        """Return the settings worth trying, each the keyword arguments of one `fit`."""

    def fit(
        self, dataset: Dataset, features: FeatureSet, setting: dict[str, int], *, degree_pages: int, seed: int
    ) -> Program:
        """Return the program learned from `dataset`; the same input gives the same program.

        Its provenance says what the learner alone knows (`nextpage.lowering_loss`); `train` adds the rest.
        """
