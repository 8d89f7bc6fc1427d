"""Hand-written programs, for doctests, tests and to be read first: one answers pages, one a class."""

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

__all__ = ["migrate_program", "stride_program"]


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


def migrate_program() -> Program:
    """Return the core of can_migrate_task (kernel/sched/fair.c, v6.18): a task that is not hot may migrate.

    Hot is who ran on the source less than 500 us ago (sysctl_sched_migration_cost); after more failures than
    cache_nice_tries even hot tasks may. NUMA, SMT and buddies are left out.
    """
    hot = Entry(match=((0, 499_999),), priority=1, action=Action("count", counter="hot"))
    cold = Action("classify", class_name="migrate")
    failed = Entry(match=((1, 2**31 - 1),), priority=1, action=cold)
    return Program(
        name="not-hot",
        hook="sched.migrate",
        registers=(Register("task", ("tid",), size=16, history=2, records="since_ran_ns"),),
        features=(Feature("ran", "value", "task", 0),),
        models=(),
        tables=(
            Table("hot", (MatchField("ran", "RANGE"),), (hot,), cold),
            Table("failed", (MatchField("extra_fails", "RANGE"),), (failed,), Action("no_action")),
        ),
        guards=Guards(degree_pages=1),
        budget=Budget(steps=8, state_bytes=1024),
        provenance={"learner": "by hand"},
        counters=("hot",),
        default_class="stay",
    )
