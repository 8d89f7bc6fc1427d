"""Building: a verified program becomes match-action tables, in a file and in a listing for people."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdtool.errors import ProgramError
from kdtool.rmt import (
    Action,
    Program,
    Table,
    Tree,
    find_hook,
    program_to_tables,
    require_hook,
    worst_case,
    write_program,
)
from kdtool.rmt.mappings import Mapping, count_mappings
from kdtool.rmt.p4runtime import p4info, updates
from kdtool.rmt.program import VALUE_MAX, VALUE_MIN
from kdtool.traces import Trace, memory_pages
from kdtool.verify.checks.tables import MAX_ENTRIES
from kdtool.verify.equivalence import compare_decisions
from kdtool.verify.program import verify_program
from kdtool.verify.wholefile import write_whole

__all__ = [
    "build_p4runtime",
    "build_tables",
    "check_on_trace",
    "format_mappings",
    "format_table",
    "prove_tables",
    "require_proof",
    "swap_ins",
    "write_p4runtime",
    "write_tables",
]


def build_tables(
    program: Program, folder: Path, max_entries: int = MAX_ENTRIES
) -> tuple[Program, list[Path]]:
    """Verify `program`, lower its models to tables, verify those, and write them to `folder`.

    Returns the program of tables and the files: `NAME-tables.rmt.json` and `NAME-tables.txt`.
    Raises ProgramError when either is not proved.
    """
    tables = prove_tables(program, max_entries)
    return tables, write_tables(tables, folder)


def prove_tables(program: Program, max_entries: int = MAX_ENTRIES) -> Program:
    """Verify `program`, lower its models to tables, verify those; ProgramError unless both are proved."""
    _require_room(program, max_entries)
    require_proof(program)
    tables = program_to_tables(program, max_entries)
    worst = worst_case(tables)
    # Scanning entries takes more steps than walking a tree: what was declared for the model is raised
    # to the tables' own worst case, and verified like any other claim.
    tables = Program(**{**vars(tables), "budget": worst})
    require_proof(tables)
    return tables


def write_tables(tables: Program, folder: Path) -> list[Path]:
    """Write a program of tables, as it is and for people, to `folder`; return the files."""
    program_file, listing_file = folder / f"{tables.name}.rmt.json", folder / f"{tables.name}.txt"
    write_program(tables, program_file)
    write_whole(listing_file, "\n".join(format_table(table) for table in tables.tables).encode())
    return [program_file, listing_file]


def _require_room(program: Program, max_entries: int) -> None:
    """Raise ProgramError, before any entry is made, for a table that takes more; say what would fit."""
    allowed = min(max_entries, MAX_ENTRIES)
    advice = "train with fewer leaves" + (" or give a larger --max-entries" if allowed < MAX_ENTRIES else "")
    why = "" if allowed < MAX_ENTRIES else ", as many as can be proved"
    ways = {table.name: found for table, _, found in _mappings(program)}
    for table in program.tables:
        n_entries = ways[table.name][0].entries if table.name in ways else len(table.entries)
        if n_entries > allowed:
            said = ", ".join(
                f"{each.name} {each.entries:,} ({'fits' if each.fits(allowed) else 'does not fit'})"
                for each in ways.get(table.name, [])[1:]
            )
            raise ProgramError(
                f"table {table.name!r} takes {n_entries:,} range entries, allowed are {allowed:,}{why}: "
                f"{advice}{said and f'; in other mappings: {said}'}"
            )


def _mappings(program: Program) -> Iterator[tuple[Table, Tree, list[Mapping]]]:
    """Yield each table that infers a tree by default, with what each way of mapping it takes."""
    models, hook = {model.name: model for model in program.models}, find_hook(program.hook)
    for table in program.tables:
        model = models[table.default_action.model] if table.default_action.name == "infer" else None
        if isinstance(model, Tree):  # any other is refused by program_to_tables
            yield table, model, count_mappings(table, model, hook)


def format_mappings(program: Program, max_entries: int) -> str:
    """Return, a line a mapping, how many entries each table that infers a tree takes; none is expanded."""
    allowed = min(max_entries, MAX_ENTRIES)
    lines = [f"{'model':16} {'mapping':10} {'entries':>12} {'tables':>7} {'key bits':>9}  of {allowed:,}"]
    for _, model, ways in _mappings(program):
        for each in ways:
            numbers = f"{each.entries:12,} {each.tables:7} {each.key_bits:9}"
            verdict = "fits" if each.fits(allowed) else "does not fit"
            lines.append(f"{model.name:16} {each.name:10} {numbers}  {verdict}")
    return "\n".join(lines)


def build_p4runtime(
    program: Program, folder: Path, max_entries: int = MAX_ENTRIES
) -> tuple[Program, list[Path]]:
    """Build tables of `program` as `build_tables` does, and write them in P4Runtime's formats as well.

    Returns the program of tables and all files, `NAME-tables.p4info.json` and `.entries.json` among them.
    Raises ProgramError when it is not proved.
    """
    tables = prove_tables(program, max_entries)
    return tables, write_p4runtime(tables, folder)


def write_p4runtime(tables: Program, folder: Path) -> list[Path]:
    """Write a program of tables as `write_tables` does, and in P4Runtime's formats; return the files."""
    files = write_tables(tables, folder)
    for kind, document in (("p4info", p4info(tables)), ("entries", updates(tables))):
        file = folder / f"{tables.name}.{kind}.json"
        write_whole(file, (json.dumps(document, indent=1) + "\n").encode())
        files.append(file)
    return files


def check_on_trace(model: Program, tables: Program, path: Path, memory: str) -> int:
    """Compare the decisions of both on every swap-in of a trace; return how many were compared.

    Raises ProgramError at the first difference, and for a program of another hook than mm.swapin.
    """
    require_hook(model.name, model.hook, "mm.swapin", "a trace of references")
    contexts = swap_ins(path, memory)
    difference = compare_decisions(model, tables, contexts)
    if difference is not None:
        raise ProgramError(f"tables and model decide differently on {path}: {difference}")
    return len(contexts)


def swap_ins(path: Path, memory: str) -> npt.NDArray[np.int64]:
    """Return a trace's swap-ins, int64 (n, n_context_fields), in `memory` (a size or a percentage)."""
    from kdtool.replay import load_device, load_workload, miss_events, run_shadow

    workload = load_workload(Trace(path))
    pages = memory_pages(memory, workload.footprint_pages)
    return miss_events(workload, run_shadow(workload, pages, load_device("ssd")))


def require_proof(program: Program) -> None:
    """Raise ProgramError, with the finding, unless every check of `program` is proved."""
    report = verify_program(program)
    if report.verdict != "proved":
        worst = next(f for f in report.findings if f.verdict == report.verdict)
        raise ProgramError(
            f"program {program.name!r} is not proved: {worst.check}: {worst.message} ({worst.witness}): "
            f"see `kdtool verify`"
        )


def format_table(table: Table) -> str:
    """Return a table as text, a line an entry; a field that matches everything is left out.

    >>> from kdtool.rmt import stride_program
    >>> print(format_table(stride_program().tables[0]))
    table next_page: d1 RANGE, s2 RANGE
      priority 1: d1 = 3, s2 = 6 -> predict +3
      default -> infer next_delta
    <BLANKLINE>
    """
    fields = ", ".join(f"{f.name} {f.match_type}" for f in table.match_fields)
    lines = [f"table {table.name}: {fields}"]
    for entry in table.entries:
        cells = zip(table.match_fields, entry.match, strict=True)
        shown = [
            _format_cell(f.name, f.match_type, (low, high))
            for f, (low, high) in cells
            if low > VALUE_MIN or high < VALUE_MAX
        ]
        matched = ", ".join(shown) or "everything"
        lines.append(f"  priority {entry.priority}: {matched} -> {_format_action(entry.action)}")
    return "\n".join([*lines, f"  default -> {_format_action(table.default_action)}", ""])


def _format_cell(name: str, match_type: str, pair: tuple[int, int]) -> str:
    low, high = pair
    if match_type == "TERNARY":
        return f"{name} & {high:#x} = {low:#x}"
    if match_type == "LPM":
        return f"{name} = {low:#x}/{high}"
    if low == high:
        return f"{name} = {low}"
    if low <= VALUE_MIN:
        return f"{name} <= {high}"
    return f"{name} >= {low}" if high == VALUE_MAX else f"{name} in {low}..{high}"


def _format_action(action: Action) -> str:
    if action.name == "predict":
        return f"predict {action.delta:+d}"
    named = action.model or action.feature or action.counter or action.class_name
    return f"{action.name} {named}".strip()
