"""Device profiles: what a file may hold, what a base gives it, and that they order as devices do."""

import json
from itertools import pairwise

import pytest
from builders import strided_trace

from kdtool.errors import ParameterError
from kdtool.replay import (
    DEVICE_FIELDS,
    device_names,
    load_device,
    load_policy,
    load_workload,
    replay,
    run_shadow,
    write_device,
)

FLAGS = ("synchronous", "batched")
WHOLE = {
    field: {"value": 1 if field in FLAGS else number, "source": "a test"}
    for number, field in enumerate(DEVICE_FIELDS)
}


def written(tmp_path, document):
    path = tmp_path / "d.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


def test_a_file_with_further_keys_is_a_device(tmp_path):
    document = {**WHOLE, "host": {"cpus": 2}, "made": "here"}
    document["latency_ns"] = {"value": 7, "source": "a test", "median": 7.5, "repeats": 9}

    device = load_device(written(tmp_path, document))

    assert device.name == "d"
    assert device.values.tolist() == [7, 1, 2, 1, 1, *range(5, 22), 0]
    assert device.sources == dict.fromkeys(DEVICE_FIELDS, "a test")


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "host.json"

    made = write_device({**WHOLE, "host": {"cpus": 2}}, path)

    assert load_device(str(path)).values.tolist() == made.values.tolist()
    assert json.loads(path.read_text())["host"] == {"cpus": 2}
    assert [file.name for file in path.parent.iterdir()] == ["host.json"]


def test_an_existing_file_is_replaced(tmp_path):
    path = tmp_path / "host.json"
    path.write_text("something else")

    write_device(WHOLE, path)

    assert load_device(str(path)).name == "host"


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        ({"latency_ns": None}, "latency_ns has no value and source"),
        ({"step_ps": {"value": 3}}, "step_ps has no value and source"),
        ({"step_ps": {"value": 3, "source": " "}}, "step_ps has no value and source"),
        ({"step_ps": {"source": "a test"}}, "step_ps has no value and source"),
        ({"step_ps": 3}, "step_ps has no value and source"),
        ({"cold_ns": {"value": -1, "source": "a test"}}, "cold_ns is -1: give an integer"),
        ({"cold_ns": {"value": 1.0, "source": "a test"}}, "cold_ns is 1.0: give an integer"),
        ({"cold_ns": {"value": True, "source": "a test"}}, "cold_ns is True: give an integer"),
        ({"cold_ns": {"value": "9", "source": "a test"}}, "cold_ns is '9': give an integer"),
        ({"cold_ns": {"value": 1 << 40, "source": "a test"}}, "integer in [0, 2**40)"),
        ({"batched": {"value": 2, "source": "a test"}}, "batched is 2: give 1 for yes or 0 for no"),
        ({"tick_ns": {"value": 0, "source": "a test"}}, "tick_ns is 0: give 1 or more, such as 4000000"),
        ({"cold_n": {"value": 5, "source": "a test"}}, "unknown number 'cold_n': did you mean 'cold_ns'?"),
    ],
)
def test_a_bad_number_is_one_line_and_is_neither_read_nor_written(change, saying, tmp_path):
    document = {**WHOLE, **change}

    with pytest.raises(ParameterError) as read:
        load_device(written(tmp_path, document))
    with pytest.raises(ParameterError) as write:
        write_device(document, tmp_path / "host.json")

    for error in (read, write):
        assert saying in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "host.json").exists()


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no object"),
        ("7", "holds no object"),
        ("[" * 100_000, "is not JSON"),
        ('{"cold_ns": {"value": NaN, "source": "x"}}', "is not JSON: NaN is no finite number"),
        (json.dumps({"base": "ssdd"}), "base 'ssdd' is no shipped profile: give one of hdd"),
        (json.dumps({"base": ["ssd"]}), "is no shipped profile"),
        (json.dumps({"base": "d.json"}), "is no shipped profile"),
        (json.dumps({"base": "ssd", "cold_ns": {"value": 2.5, "source": "x"}}), "cold_ns is 2.5"),
    ],
)
def test_a_bad_file_is_one_line(text, saying, tmp_path):
    with pytest.raises(ParameterError) as error:
        load_device(written(tmp_path, text))

    assert saying in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_has_another_name_is_one_line(tmp_path):
    with pytest.raises(ParameterError, match=r"cannot be read: No such file"):
        load_device(str(tmp_path / "none.json"))
    with pytest.raises(ParameterError, match=r"ends in \.json: give -o host\.json"):
        write_device(WHOLE, tmp_path / "host")


@pytest.mark.timeout(10)
def test_a_device_file_that_would_never_end_is_one_line(tmp_path):
    (tmp_path / "d.json").symlink_to("/dev/zero")
    with pytest.raises(ParameterError, match="it is not a regular file"):
        load_device(str(tmp_path / "d.json"))


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ParameterError, match="cannot be written"):
        write_device(WHOLE, tmp_path / "file" / "host.json")


def test_a_base_gives_what_a_file_leaves_out(tmp_path):
    ssd = load_device("ssd")

    device = load_device(written(tmp_path, {"base": "ssd", "cold_ns": {"value": 5, "source": "here"}}))

    at = DEVICE_FIELDS.index("cold_ns")
    assert device.values[at] == 5 and device.sources["cold_ns"] == "here"
    assert [v for i, v in enumerate(device.values) if i != at] == [
        v for i, v in enumerate(ssd.values) if i != at
    ]


def test_every_shipped_profile_loads_and_no_file_repeats_its_base():
    assert device_names() == ["hdd", "nvme", "rdma", "ssd", "zram"]
    folder = load_device.__globals__["FOLDER"]
    for name in device_names():
        load_device(name)
        document = json.loads((folder / f"{name}.json").read_text())
        if "base" in document:
            base = json.loads((folder / f"{document['base']}.json").read_text())
            assert not [field for field in DEVICE_FIELDS if document.get(field) == base[field]]


@pytest.mark.parametrize("policy", ["none", "leap-paper"])
def test_profiles_order_as_devices_do(policy, tmp_path):
    workload = load_workload(strided_trace(tmp_path / "t.kdt"))
    runtimes = []
    for name in ("hdd", "ssd", "nvme", "rdma", "zram"):
        device = load_device(name)
        shadow = run_shadow(workload, 1500, device)
        runtimes.append(replay(workload, load_policy(policy), shadow, device).runtime_ns)

    assert all(slower > faster for slower, faster in pairwise(runtimes)), runtimes
