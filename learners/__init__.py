"""How a policy is found: one file a learner. A new one is a file and a line in LEARNERS."""

from kdtool.errors import unknown_name
from kdtool.learners.base import Learner
from kdtool.learners.boosted import BoostedLearner
from kdtool.learners.conv1d import Conv1dLearner
from kdtool.learners.forest import ForestLearner
from kdtool.learners.mlp import MlpLearner
from kdtool.learners.parts import TrainingPart, training_part
from kdtool.learners.training import Candidate, train
from kdtool.learners.tree import TreeLearner

__all__ = ["LEARNERS", "Candidate", "Learner", "TrainingPart", "find_learner", "train", "training_part"]

LEARNERS: tuple[Learner, ...] = (
    TreeLearner(),
    ForestLearner(),
    BoostedLearner(),
    MlpLearner(),
    Conv1dLearner(),
)


def find_learner(name: str) -> Learner:
    """Return the learner called `name`; ParameterError for an unknown one."""
    for learner in LEARNERS:
        if learner.name == name:
            return learner
    raise unknown_name("learner", name, [learner.name for learner in LEARNERS])
