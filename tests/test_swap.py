"""scripts/swap: sets up and takes down exactly its own swap."""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import needs
import pytest

from kdtool.kernel.swap import SwapDevice, free_swap_bytes, swap_devices, write_queue

FILE = Path(f"/var/tmp/kdtool-test-swap-{os.getpid()}.img")
MIB = 1 << 20


def swap(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, str(needs.SWAP), *arguments, "--file", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def ours() -> list[SwapDevice]:
    return [device for device in swap_devices() if str(FILE) in (device.backing, device.path)]


def on_a_disk(folder: Path) -> bool:
    number = folder.stat().st_dev
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").exists()


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give scripts/swap as a module that only notes what it would run (`ran`), with `swaps` of its own."""
    loader = SourceFileLoader("swap_script", str(needs.SWAP))
    spec = spec_from_loader("swap_script", loader)
    assert spec is not None
    module = module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    module.ran, module.swaps = [], tmp_path / "swaps"
    module.run = lambda *command: module.ran.append(command) or ""
    module.PROC_SWAPS, module.loops_of = module.swaps, lambda file: []
    module.swaps.write_text("Filename\tType\tSize\tUsed\tPriority\n")
    module.DEFAULT_FILE = tmp_path / "kdtool-swap.img"
    return module


@pytest.mark.parametrize("given", ["a/../real dir", "link", "real dir"])
def test_swap_is_taken_down_whatever_way_its_file_is_named(script: Any, tmp_path: Path, given: str) -> None:
    """The kernel shows a path without links, and blanks as octal numbers."""
    for name in ("a", "real dir"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real dir")
    real = tmp_path / "real dir/kdtool-x.img"
    real.write_text("")
    shown = str(real).replace(" ", "\\040")
    with script.swaps.open("a") as swaps:
        swaps.write(f"{shown} file\t\t4096\t0\t-2\n")

    script.take_down(script.own_file(f"{tmp_path}/{given}/kdtool-x.img"))

    assert script.ran == [("swapoff", str(real))] and not real.exists()


def test_a_link_is_no_swap_file(script: Any, tmp_path: Path) -> None:
    (tmp_path / "kdtool-link.img").symlink_to(tmp_path / "kdtool-x.img")

    with pytest.raises(argparse.ArgumentTypeError, match="is a link: give the file itself"):
        script.own_file(f"{tmp_path}/kdtool-link.img")


def test_only_what_benches_leave_is_taken_down_unasked(script: Any, tmp_path: Path) -> None:
    names = ["kdtool-fidelity-{}.img", "kdtool-disk-{}.img", "kdtool-my-fidelity-{}.img", "kdtool-{}.img"]
    gone = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
    for name in names:
        (tmp_path / name.format(gone)).write_text("")
    (tmp_path / f"kdtool-fidelity-{os.getpid()}.img").write_text("")

    script.take_down_orphans()

    left = {path.name for path in tmp_path.glob("*.img")}
    assert left == {name.format(gone) for name in names[1:]} | {f"kdtool-fidelity-{os.getpid()}.img"}


@pytest.fixture
def _down_afterwards() -> Iterator[None]:
    yield
    swap("down")


@pytest.mark.root
@needs.root
@pytest.mark.usefixtures("_down_afterwards")
@pytest.mark.parametrize("rotational", [False, True])
def test_up_twice_and_down_twice(rotational: bool) -> None:
    flags = ["--rotational"] if rotational else []
    before = swap_devices()

    first = swap("up", "--force", "--size", "64M", *flags)
    up = ours()
    again = swap("up", "--force", "--size", "64M", *flags)

    assert first[0] == 0 and "64 MiB of swap" in first[1], first
    assert len(up) == 1
    assert (up[0].kind, up[0].rotational, up[0].synchronous) == ("loop", rotational, False)
    queue = write_queue(up[0])
    assert queue.by_worker and queue.request_pages > 1
    assert up[0].size_bytes == 64 * MIB - 4096
    assert free_swap_bytes() >= up[0].size_bytes - up[0].used_bytes
    assert again[0] == 0 and "on already" in again[2] and ours() == up
    assert f"ours, {FILE}" in swap("status")[1]

    gone = swap("down")
    nothing = swap("down")

    assert gone == (0, f"{FILE}: gone\n", "")
    assert nothing[0] == 0 and "no such swap" in nothing[2]
    assert ours() == [] and not FILE.exists()
    others = {device.path for device in before}
    assert others & {device.path for device in swap_devices()} == others


@pytest.mark.root
@needs.root
@pytest.mark.usefixtures("_down_afterwards")
@pytest.mark.skipif(not on_a_disk(FILE.parent), reason=f"{FILE.parent} is on no single disk")
@pytest.mark.parametrize("rotational", [False, True])
def test_a_file_without_a_loop_device_has_its_disks_flag_until_it_is_gone(rotational: bool) -> None:
    """No sooner: the kernel counts rotating swap by the flag at swapon, and again at swapoff."""

    def disks() -> list[str]:
        return [flag.read_text() for flag in sorted(Path("/sys/block").glob("*/queue/rotational"))]

    before = disks()
    flags = ["--rotational"] if rotational else []

    first = swap("up", "--force", "--size", "64M", "--no-loop", *flags)

    assert first[0] == 0 and ("cluster" if rotational else "VMA") in first[1], first
    assert [(device.kind, device.path, device.rotational) for device in ours()] == [
        ("file", str(FILE), rotational)
    ]
    assert f"ours, {FILE}" in swap("status")[1]
    assert swap("up", "--force", "--no-loop")[2].startswith(f"{FILE} is on already")
    assert swap("down")[0] == 0 and ours() == []
    assert disks() == before
    assert list(FILE.parent.glob(f"{FILE.name}*")) == []


@pytest.mark.root
@needs.root
@pytest.mark.usefixtures("_down_afterwards")
def test_a_priority_has_it_filled_before_other_swap() -> None:
    assert swap("up", "--force", "--size", "64M", "--priority", "7")[0] == 0

    assert [device.priority for device in ours()] == [7]


@pytest.mark.root
@needs.root
@pytest.mark.usefixtures("_down_afterwards")
def test_what_a_killed_bench_left_is_taken_down_by_the_next_up() -> None:
    with subprocess.Popen(["true"]) as gone:
        left = Path(f"/var/tmp/kdtool-fidelity-{gone.pid}.img")
    made = subprocess.run(
        [sys.executable, needs.SWAP, "up", "--force", "--size", "16M", "--file", left],
        capture_output=True,
        check=True,
    )
    assert b"16 MiB" in made.stdout and left.exists()

    code, _, said = swap("up", "--force", "--size", "16M")

    assert code == 0 and f"{left}: left by process {gone.pid}, which is gone: taken down" in said
    assert not left.exists() and str(left) not in {device.backing for device in swap_devices()}
    assert len(ours()) == 1, "that of a process which lives stays"


@pytest.mark.root
@needs.root
def test_other_swap_is_enough_unless_forced() -> None:
    with needs.swap_up():
        code, _, err = swap("up", "--size", "64M")

    assert code == 0 and "swap is on already" in err and "--force" in err
    assert not FILE.exists() and ours() == []


@pytest.mark.root
@needs.root
def test_a_disk_that_is_too_small_is_said_before_anything_is_made() -> None:
    code, _, err = swap("up", "--force", "--size", "900T")

    assert code == 1
    assert "MiB free" in err and "give a smaller --size" in err and err.count("\n") == 1
    assert not FILE.exists() and ours() == []


@pytest.mark.parametrize(
    "arguments",
    [["up", "--size", "0"], ["up", "--size", "big"], ["up", "--priority", "32768"], ["sideways"], []],
)
def test_wrong_use_is_exit_2(arguments: list[str]) -> None:
    assert swap(*arguments)[0] == 2


def test_only_files_of_ours_are_taken() -> None:
    command = [sys.executable, str(needs.SWAP), "down", "--file", "/swapfile"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "begins with kdtool-" in done.stderr


@pytest.mark.root
@needs.root
def test_a_user_who_is_not_root_is_told() -> None:
    command = ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable, str(needs.SWAP), "up"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr == "swap: error: swap can be changed by root only: sudo scripts/swap ...\n"
