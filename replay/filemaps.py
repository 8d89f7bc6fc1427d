"""The files of a trace as replay takes them: which pages they have, and by which mapping each is reached.

A page of a file is one page whoever maps it. Its dense id follows those of the anonymous pages: files lie one
after another, each from the first page that readahead may reach to the last that is mapped.

    mapping change --file_maps()--> shift: the id of a mapped page is its vpn + shift
    touched page   --first_touch--> mapping_of[page]: the mapping through which it was touched first

A file is told by its name. Differs from the kernel: one open file a name, however often it was opened, and a
file ends where its last mapping ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdtool.errors import ParameterError, TraceError, unknown_name
from kdtool.replay.lists import MOST_PAGES
from kdtool.traces import NO_OFFSET, PAGE_BYTES, VmaFlag, parse_size

__all__ = [
    "DATA",
    "FILES",
    "NOT_MAPPED",
    "N_STATE",
    "FileMaps",
    "file_maps",
    "no_files",
    "read_ahead_pages",
]

DATA = "data"
FILES = ("none", DATA, "all")
"""Whose pages are in memory: none; those of files that no code is in, since programs and
libraries are as a rule in the page cache already, charged to who read them first; all."""

NOT_MAPPED = -1
MOST_RA_PAGES = 1 << 14

# Columns of FileMaps.mappings.
FIRST, END, FILE_OF, VPN_SHIFT, ADVICE, N_MAPPING = range(6)
# Words of FileMaps.files: what never changes, and, from RA_STATE on, what a replay changes.
FIRST_ID, LOW, HIGH, RA_STATE = range(4)
RA_WORDS = 4
MMAP_MISS = RA_STATE + RA_WORDS
N_STATE = MMAP_MISS + 1


@dataclass(frozen=True)
class FileMaps:
    """Files and their mappings; ids count from the first page of the first file.

    files : int64 of shape (n_files, N_STATE): the id of the file's page LOW, LOW, and the page after its last
    mappings : int64 of shape (n_mappings, N_MAPPING): first id, last id + 1, row of `files`, id - vpn, and
        the VmaFlags that readahead goes by
    mapping_of : int32 of shape (n_pages,), row of `mappings`, NOT_MAPPED for a page that is never touched
    ra_pages : the largest window, read_ahead_kb of the files' device; 0 where there is no file
    """

    files: npt.NDArray[np.int64]
    mappings: npt.NDArray[np.int64]
    mapping_of: npt.NDArray[np.int32]
    ra_pages: int

    @property
    def n_pages(self) -> int:
        """Return how many pages the files have."""
        return len(self.mapping_of)


def no_files() -> FileMaps:
    """Return what a trace has whose files are left out."""
    return FileMaps(
        np.zeros((0, N_STATE), np.int64), np.zeros((0, N_MAPPING), np.int64), np.empty(0, np.int32), 0
    )


def check_files(which: str) -> None:
    """Raise ParameterError unless `which` is one of FILES."""
    if which not in FILES:
        raise unknown_name("choice of files", which, FILES)


def read_ahead_pages(text: str) -> int:
    """Return a window in pages; ParameterError for what is no size of 0 or of whole pages up to 64 MiB.

    >>> read_ahead_pages("128K")
    32
    """
    pages, rest = divmod(parse_size(text), PAGE_BYTES)
    if rest or pages > MOST_RA_PAGES:
        raise ParameterError(
            f"--read-ahead {text}: give 0 to 64M in whole pages of {PAGE_BYTES} bytes, such as 128K"
        )
    return pages


def file_maps(
    maps: Mapping[str, npt.NDArray[Any]] | None, holds_code: npt.NDArray[np.bool_], which: str, ra_pages: int
) -> tuple[FileMaps, npt.NDArray[np.int64]]:
    """Return the files of the mapping changes `maps`, and the row of `mappings` of each change, -1 for none.

    holds_code : of each change, whether code was run in its pages
    which : of FILES
    ra_pages : how far readahead reaches

    Raises ParameterError for an unknown `which`, TraceError for files too large.
    """
    check_files(which)
    if maps is None or which == "none" or "offset_pages" not in maps:
        return no_files(), np.full(0 if maps is None else len(maps["row"]), -1, np.int64)
    flags, offset = maps["flags"].astype(np.int64), maps["offset_pages"].astype(np.int64)
    name = maps["name_id"].astype(np.int64)
    of_file = (flags & VmaFlag.FILE != 0) & (offset != NO_OFFSET)
    if which == DATA:
        of_file &= ~np.isin(name, name[of_file & (holds_code | (flags & VmaFlag.EXEC != 0))])
    rows = np.flatnonzero(of_file)
    start, end = (maps[key].astype(np.int64)[rows] for key in ("start_vpn", "end_vpn"))
    names, file = np.unique(name[rows], return_inverse=True)
    low, high = np.full(len(names), 1 << 62, np.int64), np.zeros(len(names), np.int64)
    np.minimum.at(low, file, offset[rows])
    np.maximum.at(high, file, offset[rows] + end - start)
    low = np.maximum(low - ra_pages, 0)
    first = np.concatenate(([0], np.cumsum(high - low)))
    if max(int(n) for n in (*(high - low), first[-1])) > MOST_PAGES:
        raise TraceError(
            f"files are mapped from end to end over more pages than can be replayed, {MOST_PAGES} (256 GiB): "
            f"give --files none"
        )
    files = np.zeros((len(names), N_STATE), np.int64)
    files[:, FIRST_ID], files[:, LOW], files[:, HIGH] = first[:-1], low, high
    first_id = first[file] + offset[rows] - low[file]
    columns = (first_id, first_id + end - start, file, first_id - start, flags[rows])
    row_of = np.full(len(flags), -1, np.int64)
    row_of[rows] = np.arange(len(rows))
    mapping_of = np.full(int(first[-1]), NOT_MAPPED, np.int32)
    return FileMaps(files, np.stack(columns, axis=1), mapping_of, ra_pages if len(names) else 0), row_of
