"""A hand-written program, for doctests, tests and as the smallest thing to read."""

from kdtool.rmt.program import (
    Action,
    Budget,
    Entry,
    Feature,
    Guards,
    MatchField,
    Program,
    Register,
    Table,
    Tree,
)

__all__ = ["stride_program"]


def stride_program(degree_pages: int = 4) -> Program:
    """Return a program that knows one stride, +3: a table for it, and a tree for everything else."""
    tree = Tree(
        name="next_delta",
        inputs=("d1", "s2"),
        feature=(0, -1, 1, -1, -1),
        threshold=(4, 0, 10, 0, 0),
        left=(1, -1, 3, -1, -1),
        right=(2, -1, 4, -1, -1),
        value=(0, 0, 0, 5, 0),
    )
    entry = Entry(match=((3, 3), (6, 6)), priority=1, action=Action("predict", delta=3))
    table = Table(
        name="next_page",
        match_fields=(MatchField("d1", "RANGE"), MatchField("s2", "RANGE")),
        entries=(entry,),
        default_action=Action("infer", model="next_delta"),
    )
    return Program(
        name="stride-3",
        hook="mm.swapin",
        registers=(Register("process", ("pid",), size=16, history=4),),
        features=(Feature("d1", "delta", "process", 1), Feature("s2", "span", "process", 2)),
        models=(tree,),
        tables=(table,),
        guards=Guards(degree_pages=degree_pages),
        budget=Budget(steps=64, state_bytes=1024),
        provenance={"learner": "by hand"},
    )
