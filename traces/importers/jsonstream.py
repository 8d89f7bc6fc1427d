"""One large JSON object, read a member at a time: of one of its arrays, an element at a time.

    { "a": 1, "events": [ {...}, {...}, ... ], "b": 2 }  -->  ("a", 1), ("events", {...}), ..., ("b", 2)

`json` decodes one value at a time out of a window over the text; where a value goes beyond it, more is read
and the value is begun again. In memory is at most VALUE_CHARS of text. Numbers with a fraction stay text, as
written, so that a time in decimal µs becomes exact ns. gzip is recognized by its first bytes.
"""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdtool.errors import TraceError

__all__ = ["ObjectReader", "open_text"]

READ_CHARS = 1 << 20
VALUE_CHARS = 1 << 24
"""The longest member or element, as text."""
BLANKS = re.compile(r"[ \t\n\r]*")


@contextmanager
def open_text(file: Path) -> Iterator[io.TextIOBase]:
    """Open a UTF-8 file, gzipped or not."""
    with file.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        with io.TextIOWrapper(gzip.GzipFile(fileobj=raw) if zipped else raw, "utf-8-sig") as text:
            yield text


class ObjectReader:
    """Read the object that `text` is.

    Parameters
    ----------
    text : positioned at the start
    file : for messages
    fix : what to do when the file is not what it should be
    """

    def __init__(self, text: io.TextIOBase, file: Path, fix: str) -> None:
        self._text, self._file, self._fix = text, file, fix
        self._decode = json.JSONDecoder(parse_float=str).raw_decode
        self._window, self._at, self._gone = "", 0, 0

    def members(self, array: str) -> Iterator[tuple[str, Any]]:
        """Yield key and value of each member; of the member `array`, the key and each element.

        Raises
        ------
        TraceError
            Not an object, cut off, damaged, followed by something else, or nested too deeply.
        """
        if self._peek() != "{":
            raise TraceError(f"{self._file}: is not a JSON object: {self._fix}")
        self._at += 1
        if self._peek() == "}":
            self._at += 1
        else:
            while True:
                key = self._value()
                if not isinstance(key, str):
                    raise self._error("a member without a name")
                self._take(":")
                if key == array:
                    for element in self._elements():
                        yield key, element
                else:
                    yield key, self._value()
                if self._take(",}") == "}":
                    break
        if self._peek():
            raise self._error("something after the end of the object")

    def _elements(self) -> Iterator[Any]:
        self._take("[")
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            yield self._value()
            if self._take(",]") == "]":
                return

    def _value(self) -> Any:
        if not self._peek():
            raise self._error("it is cut off")
        while True:
            try:
                value, end = self._decode(self._window, self._at)
            except json.JSONDecodeError as error:
                if not self._more():
                    raise self._error(error.msg) from None
                continue
            except RecursionError:
                raise self._error("it is nested too deeply") from None
            except ValueError as error:  # an integer of thousands of digits
                raise self._error(str(error)) from None
            if end < len(self._window) or not self._more():
                self._at = end
                return value

    def _take(self, allowed: str) -> str:
        found = self._peek()
        if not found or found not in allowed:
            raise self._error(f"{found!r} where one of {allowed} belongs" if found else "it is cut off")
        self._at += 1
        return found

    def _peek(self) -> str:
        """Return the next character that is not blank, '' at the end of the file."""
        while True:
            blanks = BLANKS.match(self._window, self._at)
            self._at = blanks.end() if blanks else self._at
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Drop what was used and read on; False at the end of the file."""
        left = len(self._window) - self._at
        if left > VALUE_CHARS:
            raise self._error(f"a value longer than {VALUE_CHARS >> 20} MiB")
        try:
            read = self._text.read(max(READ_CHARS, left))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise self._error(f"the gzip is damaged or cut off ({error})") from None
        except UnicodeDecodeError as error:
            raise self._error(f"not UTF-8 text ({error.reason})") from None
        if read:
            self._gone += self._at
            self._window, self._at = self._window[self._at :] + read, 0
        return bool(read)

    def _error(self, what: str) -> TraceError:
        where = self._gone + self._at
        return TraceError(f"{self._file}: at character {where:,}: {what[:100]}: {self._fix}")
