"""How figures are written on a screen: counts, sizes, durations, bars, and names that nobody vetted."""

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

__all__ = [
    "bars",
    "count",
    "duration",
    "join",
    "lay",
    "plain",
    "rate",
    "shorten",
    "shorten_front",
    "si",
    "size",
]

BLOCKS = " ▁▂▃▄▅▆▇█"
UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"


def plain(text: str) -> str:
    """Return text on one line, without what a terminal might obey or an encoder refuse.

    >>> plain("a\\n b\\x1b[31mc\\udc80")
    'a  b�[31mc�'
    """
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else UNPRINTABLE for letter in text
    )


def shorten(text: str, width: int) -> str:
    """Return text in at most `width` columns.

    >>> shorten("a_long_name", 7)
    'a_long…'
    """
    text = plain(text)
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def shorten_front(text: str, width: int) -> str:
    """Return text in at most `width` columns, its end rather than its beginning.

    >>> shorten_front("/a/long/path/t.kdt", 9)
    '…th/t.kdt'
    """
    text = plain(text)
    while cell_len(text) > width:
        text = "…" + text[2:]
    return text


def join(parts: Sequence[str], width: int) -> str:
    """Return the first parts that fit into `width` columns, and that there are more.

    >>> join(["one", "two", "three"], 17), join(["one", "two", "three"], 16)
    ('one · two · three', 'one · two · …')
    """
    for n in range(len(parts), 0, -1):
        text = " · ".join([*parts[:n], *(["…"] if n < len(parts) else [])])
        if cell_len(text) <= width:
            return text
    return shorten(parts[0], width) if parts else ""


def lay(parts: Sequence[str], width: int) -> list[str]:
    """Return lines of at most `width` columns that break between parts only, unless a part is too long.

    >>> lay(["one", "two", "three"], 9)
    ['one · two', 'three']
    """
    lines: list[str] = []
    for part in (shorten(part, width) for part in parts):
        if lines and cell_len(longer := f"{lines[-1]} · {part}") <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def count(n: int, one: str, many: str | None = None) -> str:
    """Return how many there are of something.

    >>> count(1, "thread"), count(2_000, "process", "processes")
    ('1 thread', '2,000 processes')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def si(number: float) -> str:
    """Return a number with three digits and a decimal prefix.

    >>> si(7), si(60465.1), si(999_999), si(0.4)
    ('7', '60.5 k', '1.00 M', '0.40')
    """
    for unit in ("", " k", " M", " G"):
        text = _three_digits(number)
        if float(text) < 1000:
            return text + unit
        number /= 1000
    return f"{number:,.0f} T"


def rate(per_s: float | None) -> str:
    """Return rows per second; a dash where the span has no length."""
    return "–" if per_s is None else f"{si(per_s)}/s"


def size(n_bytes: int) -> str:
    """Return bytes as a person reads them.

    >>> size(837), size(85131), size(39432192)
    ('837 B', '83.1 KiB', '37.6 MiB')
    """
    number, unit = float(n_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if number < 1000:
            break
        number, unit = number / 1024, larger
    return f"{n_bytes} B" if unit == "B" else f"{_three_digits(number)} {unit}"


def duration(t_ns: float) -> str:
    """Return a time with three digits.

    >>> duration(870), duration(12_345), duration(490_663_356), duration(3_812e9)
    ('870 ns', '12.3 µs', '491 ms', '3,812 s')
    """
    for unit in ("ns", "µs", "ms"):
        text = f"{t_ns:.0f}" if unit == "ns" else _three_digits(t_ns)
        if float(text) < 1000:
            return f"{text} {unit}"
        t_ns /= 1000
    return f"{t_ns:,.0f} s" if t_ns >= 1000 else f"{_three_digits(t_ns)} s"


def _three_digits(number: float) -> str:
    if number == int(number) and number < 10:
        return f"{number:.0f}"
    return f"{number:.2f}" if number < 9.995 else f"{number:.1f}" if number < 99.95 else f"{number:.0f}"


def bars(counts: Sequence[int]) -> str:
    """Return a bar for each count, as high as its share of the largest; none is blank but 0.

    >>> bars([0, 1, 40, 80])
    ' ▁▄█'
    """
    most = max(counts, default=0)
    return "".join(BLOCKS[-(-count * (len(BLOCKS) - 1) // most)] if count else " " for count in counts)
