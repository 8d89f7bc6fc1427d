"""Typed access to untrusted JSON: every message names the place, the value found and what is allowed."""

from collections.abc import Iterator, Sequence
from typing import NoReturn

from kdtool.errors import ProgramError

__all__ = ["Node", "parse_object"]

Json = dict[str, "Json"] | list["Json"] | str | int | bool | None


class Node:
    """A JSON value and the path that led to it."""

    def __init__(self, value: Json, path: str) -> None:
        self.value = value
        self.path = path

    def refuse(self, problem: str) -> NoReturn:
        """Raise ProgramError at this place."""
        raise ProgramError(f"{self.path}: {problem}")

    def keys(self, *allowed: str) -> "Node":
        """Check that this is an object with exactly the keys `allowed`; return it."""
        if not isinstance(self.value, dict):
            self.refuse(f"expected an object, got {_kind(self.value)}")
        missing = [key for key in allowed if key not in self.value]
        if missing:
            self.refuse(f"missing key {missing[0]!r} (an object here has: {', '.join(allowed)})")
        extra = sorted(set(self.value) - set(allowed))
        if extra:
            self.refuse(f"unknown key {extra[0]!r} (an object here has: {', '.join(allowed)})")
        return self

    def __getitem__(self, key: str) -> "Node":
        assert isinstance(self.value, dict)
        return Node(self.value[key], f"{self.path}.{key}")

    def integer(self, low: int, high: int) -> int:
        """Return an integer in [low, high]."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self.refuse(f"expected an integer, got {_kind(self.value)}")
        if not low <= self.value <= high:
            self.refuse(f"{str(self.value)[:40]} is not in [{low}, {high}]")
        return self.value

    def flag(self) -> bool:
        """Return true or false."""
        if not isinstance(self.value, bool):
            self.refuse(f"expected true or false, got {_kind(self.value)}")
        return self.value

    def text(self, allowed: Sequence[str] | None = None) -> str:
        """Return a string of 1 to 200 printable characters, one of `allowed` if given."""
        if not isinstance(self.value, str):
            self.refuse(f"expected a string, got {_kind(self.value)}")
        if allowed is not None and self.value not in allowed:
            self.refuse(f"{self.value[:40]!r} is not one of: {', '.join(allowed)}")
        if not 0 < len(self.value) <= 200:
            self.refuse(f"expected 1 to 200 characters, got {len(self.value)}")
        if not self.value.isprintable():  # a terminal would obey some, and no file can hold others
            self.refuse(f"{ascii(self.value)[:40]} has a character that cannot be printed")
        return self.value

    def length(self, most: int, least: int = 0) -> int:
        """Return how many elements a list of `least` to `most` elements has."""
        return len(self._elements(most, least))

    def items(self, most: int, least: int = 0) -> Iterator["Node"]:
        """Return the elements of a list of `least` to `most` elements; the length is checked first."""
        return (Node(value, f"{self.path}[{i}]") for i, value in enumerate(self._elements(most, least)))

    def integers(self, length: int, low: int, high: int) -> tuple[int, ...]:
        """Return a list of exactly `length` integers in [low, high]."""
        elements = self._elements(length, length)
        numbers = [each for each in elements if type(each) is int]
        if len(numbers) == length and low <= min(numbers, default=low) and max(numbers, default=high) <= high:
            return tuple(numbers)
        return tuple(item.integer(low, high) for item in self.items(length, length))  # names what is wrong

    def _elements(self, most: int, least: int) -> list[Json]:
        if not isinstance(self.value, list):
            self.refuse(f"expected a list, got {_kind(self.value)}")
        if not least <= len(self.value) <= most:
            self.refuse(f"{len(self.value)} elements, allowed are {least} to {most}")
        return self.value


def parse_object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """Build an object for json.loads, refusing a key that comes twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ProgramError(f"key {twice[:40]!r} appears twice in one object: keep one")
    return result


def _kind(value: Json) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", int: "an integer"}
    return "null" if value is None else names[type(value)]
