"""What a policy is: the program, its reference VM and its Numba twin, lowering of models to tables.

The Numba VM is imported by name (`from kdtool.rmt.numba_vm import decide`), so that reading and
checking programs needs no compiler.
"""

from kdtool.rmt.codec import (
    check_program_target,
    from_document,
    program_sha256,
    read_program,
    to_document,
    write_program,
)
from kdtool.rmt.cost import worst_case
from kdtool.rmt.examples import migrate_program, stride_program
from kdtool.rmt.hooks import HOOKS, Hook, find_hook, require_hook
from kdtool.rmt.lower import answer_action, leaf_boxes, lower_tree, program_to_tables, tree_to_table
from kdtool.rmt.packed import PackedProgram, pack, state_words
from kdtool.rmt.program import (
    CONTEXT_FIELDS,
    LIMITS,
    VALUE_MAX,
    VALUE_MIN,
    Action,
    Budget,
    Conv1d,
    Dense,
    Entry,
    Feature,
    Forest,
    Guards,
    MatchField,
    Model,
    Network,
    Program,
    Register,
    ScoreTree,
    Table,
    Tree,
)
from kdtool.rmt.vm import Vm

__all__ = [
    "CONTEXT_FIELDS",
    "HOOKS",
    "LIMITS",
    "VALUE_MAX",
    "VALUE_MIN",
    "Action",
    "Budget",
    "Conv1d",
    "Dense",
    "Entry",
    "Feature",
    "Forest",
    "Guards",
    "Hook",
    "MatchField",
    "Model",
    "Network",
    "PackedProgram",
    "Program",
    "Register",
    "ScoreTree",
    "Table",
    "Tree",
    "Vm",
    "answer_action",
    "check_program_target",
    "find_hook",
    "from_document",
    "leaf_boxes",
    "lower_tree",
    "migrate_program",
    "pack",
    "program_sha256",
    "program_to_tables",
    "read_program",
    "require_hook",
    "state_words",
    "stride_program",
    "to_document",
    "tree_to_table",
    "worst_case",
    "write_program",
]
