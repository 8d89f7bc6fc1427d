"""Sizes as people write them: bytes, 96M, 1.5G, 50%."""

import re
from fractions import Fraction

from kdtool.errors import ParameterError

__all__ = ["MOST_SHOWN", "PAGE_BYTES", "memory_pages", "parse_fraction", "parse_number", "parse_size"]

PAGE_BYTES = 4096
"""The page of every trace: x86-64's base page."""

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
DIGITS = r"\d{1,40}"
"""More than any size has; thousands are more than Python reads, sys.get_int_max_str_digits()."""
SIZE = re.compile(rf"({DIGITS}(?:\.{DIGITS})?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
PERCENT = re.compile(rf"({DIGITS}(?:\.{DIGITS})?)\s*%")
MOST_SHOWN = 80
"""Characters of a wrong size or number that an error repeats."""


def parse_size(text: str) -> int:
    """Return a size in bytes; ParameterError if it is not one.

    >>> parse_size("96M"), parse_size("1.5G"), parse_size("4096")
    (100663296, 1610612736, 4096)
    """
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise ParameterError(
            f"size '{text[:MOST_SHOWN]}': give bytes or a number with K, M, G or T, such as 96M"
        )
    return int(Fraction(match[1]) * UNITS[match[2].upper()])


def parse_number(text: str) -> int | None:
    """Return a whole number, None for anything that is not one, or is larger than any that counts something.

    >>> parse_number("1200"), parse_number("-1"), parse_number("9" * 5000)
    (1200, None, None)
    """
    return int(text) if re.fullmatch(DIGITS, text) else None


def parse_fraction(text: str) -> Fraction | None:
    """Return '50%' as 1/2, None for anything that is not a percentage.

    >>> parse_fraction("12.5%"), parse_fraction("96M")
    (Fraction(1, 8), None)
    """
    match = PERCENT.fullmatch(text.strip())
    return None if match is None else Fraction(match[1]) / 100


def memory_pages(text: str, footprint_pages: int) -> int:
    """Return a memory in pages from a size or a percentage of the footprint.

    Raises ParameterError for less than a page and for more than the footprint.

    >>> memory_pages("50%", 1001), memory_pages("1M", 1000)
    (500, 256)
    """
    fraction = parse_fraction(text)
    pages = parse_size(text) // PAGE_BYTES if fraction is None else int(fraction * footprint_pages)
    if pages < 1:
        raise ParameterError(f"memory {text} is less than one page of {PAGE_BYTES} bytes: give more")
    if pages > footprint_pages:
        raise ParameterError(
            f"memory {text} is {pages} pages and the trace touches only {footprint_pages}: nothing would be "
            f"swapped: give at most 100%"
        )
    return pages
