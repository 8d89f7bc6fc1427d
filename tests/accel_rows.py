"""What tests of importers into `accel` share: rows as tuples, refusals, and the memory an import takes."""

import subprocess
import sys
from pathlib import Path

import pytest

from kdtool.errors import TraceError
from kdtool.traces.importers import import_trace

__all__ = ["grown_mib", "refused", "rows_of"]

IMPORT = """
import resource, sys
from pathlib import Path
from kdtool.traces.importers import import_trace
def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
form, small, large, folder = sys.argv[1:]
import_trace(form, Path(small), Path(folder, "small.kdt"))
before = peak_mib()
print(import_trace(form, Path(large), Path(folder, "large.kdt")).rows("accel"), peak_mib() - before)
"""


def rows_of(trace, *names):
    """Return columns of `accel` as a list of tuples; `name` is the text that name_id stands for."""
    columns, called = trace.columns("accel"), trace.names()
    columns["name"] = [called[number] for number in columns["name_id"].tolist()]
    return list(zip(*(list(map(_plain, columns[name])) for name in names), strict=True))


def _plain(value):
    return value if isinstance(value, str) else int(value)


def refused(form: str, path: Path, tmp_path: Path) -> str:
    """Return the message of the refusal, after checking that it is one line and leaves nothing."""
    output = tmp_path / "refused.kdt"
    with pytest.raises(TraceError) as raised:
        import_trace(form, path, output)
    assert "\n" not in str(raised.value)
    assert not output.exists()
    return str(raised.value)


def grown_mib(form: str, small: Path, large: Path, tmp_path: Path) -> tuple[int, int]:
    """Return the rows of `large`, and by how much it raised the peak of a process that imported `small`."""
    command = [sys.executable, "-c", IMPORT, form, str(small), str(large), str(tmp_path)]
    rows, grown = subprocess.run(command, capture_output=True, check=True).stdout.split()
    return int(rows), int(grown)
