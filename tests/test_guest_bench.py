"""The guest bench without a guest: its archive, list of runs, what it reads from the console, its table."""

import gzip
import lzma
from io import StringIO

import pytest
from rich.console import Console

from bench.guest.cells import print_cells
from bench.guest.initramfs import pack
from bench.guest.package import Kernel
from bench.guest.runs import GUEST_SETTINGS, find_setting, parse_console, run_lines
from bench.guest.workloads import PROGRAMS, choose
from kdtool.errors import CommandError, ParameterError
from kdtool.fidelity.predict import Prediction
from kdtool.fidelity.runs import KernelRun
from kdtool.fidelity.score import Cell
from kdtool.replay import load_policy
from kdtool.replay.memory import RECLAIMS

CONSOLE = """\
Booting from ROM..
kdtool-guest release=6.18.15+deb13-cloud-amd64 lru_gen=0x0007 swappiness=60
kdtool-run any/100/0 exit=0 wall_ns=700 major=0 kernel=8192 limit=max
kdtool-run mglru-none/75/0 exit=0 wall_ns=900 major=12 kernel=0 limit=40960
kdtool-done
[   10.8] reboot: Power down
"""


def unpack(archive):
    """Return {name: (mode, content)} of a newc archive, read by the lengths in its headers."""
    content, at, found = gzip.decompress(archive), 0, {}
    while True:
        numbers = [int(content[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        assert content[at : at + 6] == b"070701"
        mode, size, name_size = numbers[1], numbers[6], numbers[11]
        name = content[at + 110 : at + 110 + name_size - 1].decode()
        if name == "TRAILER!!!":
            return found
        begin = at + (110 + name_size + 3) // 4 * 4
        found[name] = (mode, content[begin : begin + size])
        at = begin + (size + 3) // 4 * 4


def test_an_archive_has_its_files_their_folders_and_a_console():
    found = unpack(pack({"init": b"#!/bin/sh\n", "bin/deep/x": b"12345"}))

    assert found["init"] == (0o100755, b"#!/bin/sh\n")
    assert found["bin/deep/x"] == (0o100755, b"12345")
    assert {name for name, (mode, _) in found.items() if mode == 0o040755} == {"dev", "bin", "bin/deep"}
    assert found["dev/console"][0] == 0o020600
    assert list(found).index("bin") < list(found).index("bin/deep") < list(found).index("bin/deep/x")


def test_the_run_without_a_limit_comes_first_and_runs_begin_at_other_moments():
    first, *rest = run_lines(choose(["zipf"])[0], GUEST_SETTINGS, [75, 50], 3).splitlines()

    assert first == "any/100/0 100 7 0 0 /bin/random_loads 12000 60000 1.0 0 500"
    assert len(rest) == 2 * len(GUEST_SETTINGS) * 3
    assert [line.split()[4] for line in rest[:3]] == ["333", "1000", "1666"]
    assert len({line.split()[0] for line in rest}) == len(rest)


def test_a_console_is_read():
    facts, runs = parse_console(CONSOLE)

    assert facts["release"] == "6.18.15+deb13-cloud-amd64"
    assert [(run.setting, run.percent, run.limit_bytes) for run in runs] == [
        ("any", 100, 0),
        ("mglru-none", 75, 40960),
    ]
    assert runs[1].numbers["major"] == 12


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kdtool-done\n", "", "ended before its runs did"),
        ("exit=0 wall_ns=900", "exit=9 wall_ns=900", "mglru-none/75/0: ended with status 9"),
    ],
)
def test_what_failed_in_the_guest_is_an_error(old, new, message):
    with pytest.raises(CommandError, match=message):
        parse_console(CONSOLE.replace(old, new))


def test_settings_are_known_to_replay():
    for setting in GUEST_SETTINGS:
        assert find_setting(setting.name) is setting
        assert setting.reclaim in RECLAIMS
        assert load_policy(setting.policy).name == setting.policy


def test_programs_are_there_and_an_unknown_one_is_named():
    assert [program for program in choose(None) if not program.source.exists()] == []
    assert choose(["zipf", "bfs"]) == [p for name in ("zipf", "bfs") for p in PROGRAMS if p.name == name]
    with pytest.raises(ParameterError, match=r"zipff.*zipf"):
        choose(["zipff"])


def test_modules_are_unpacked_in_order_and_options_are_read(tmp_path):
    modules = tmp_path / "lib" / "modules" / "6.18"
    modules.mkdir(parents=True)
    (modules / "null_blk.ko.xz").write_bytes(lzma.compress(b"second"))
    (modules / "configfs.ko").write_bytes(b"first")
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "config-6.18").write_text("CONFIG_LRU_GEN=y\n# CONFIG_ZSWAP is not set\n")
    kernel = Kernel("6.18", tmp_path / "boot" / "vmlinuz-6.18", tmp_path)

    assert kernel.modules() == [b"first", b"second"]
    assert (kernel.option("CONFIG_LRU_GEN"), kernel.option("CONFIG_ZSWAP")) == ("y", "n")


def test_the_table_has_the_range_of_the_runs_and_how_far_replay_is_outside():
    runs = tuple(KernelRun(1, major, major, 0, 0, 0, "cgroup", 0, 0, 0) for major in (1000, 1100, 1040))
    cells = [
        Cell("zipf", 75, 4096, 1, "mglru-none", runs, (Prediction(1, 1152, 1050),)),
        Cell("bfs", 50, 4096, 1, "lists-none", runs[:1] * 3, (Prediction(1, 1000, 1000),)),
    ]
    text = StringIO()

    print_cells(cells, Console(file=text, width=120))

    zipf, bfs = (line.split() for line in text.getvalue().splitlines() if "%" in line)
    assert zipf[:3] == ["zipf", "75%", "mglru-none"]
    assert zipf[3:] == ["1,000–1,100", "1,152", "+5.0%", "1,000–1,100", "1,050", "+0.0%"]
    assert bfs[3:] == ["1,000", "1,000", "+0.0%", "1,000", "1,000", "+0.0%"]
