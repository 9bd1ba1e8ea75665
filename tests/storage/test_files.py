"""Strict JSON and whole replacement, for the files that several modules share."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import InvalidInput
from etude.storage import files

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
@given(JSON)
def test_json_comes_back_as_it_was(data):
    back = files.decode_json(files.encode_json(data), "x.json")
    assert back == data and repr(back) == repr(data)  # repr tells 1 from 1.0 and 0.0 from -0.0


@given(st.floats())
def test_every_float_can_be_had_back_by_float(value):
    back = float(files.decode_json(files.encode_json({"x": np.float64(value)}), "x.json")["x"])
    np.testing.assert_array_equal(back, value)


def test_a_list_of_numbers_stands_on_one_line():
    data = {
        "returns": [[1, -2.5e-30], [3.0]],
        "mixed": [1, "2,\n[\n3\n]"],
        "none": [],
        "flags": [True],
    }
    assert (
        files.encode_json(data).decode()
        == """{
  "returns": [
    [1, -2.5e-30],
    [3.0]
  ],
  "mixed": [
    1,
    "2,\\n[\\n3\\n]"
  ],
  "none": [],
  "flags": [
    true
  ]
}
"""
    )


def test_written_and_read(tmp_path):
    path = tmp_path / "config.json"
    for data in ({"lr": 3e-4}, {"lr": float("inf")}, [1, "two"]):
        files.write_json(path, data)
    assert files.read_json(path) == [1, "two"]
    assert os.listdir(tmp_path) == ["config.json"]
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, name):
    path = tmp_path / "config.json"
    files.write_json(path, {"old": True})
    monkeypatch.setattr(
        os, name, lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    )
    with pytest.raises(OSError, match="Input/output error"):
        files.write_json(path, {"new": True})
    assert files.read_json(path) == {"old": True}
    assert os.listdir(tmp_path) == ["config.json"]


def test_data_that_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "config.json"
    files.write_json(path, {"old": True})
    with pytest.raises(InvalidInput, match=r"the data\['a'\]\[1\] is a builtin_function"):
        files.write_json(path, {"a": [1, print]})
    assert files.read_json(path) == {"old": True}


def test_a_file_above_the_limit_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    files.write_json(path, "x" * 100)
    with pytest.raises(
        files.CorruptFile, match=r"config.json has 103 bytes where at most 100 are read"
    ):
        files.read_json(path, limit=100)
    with pytest.raises(files.CorruptFile, match=r"config.json cannot be read"):
        files.read_json(tmp_path / "none" / "config.json")


def test_more_than_can_be_read_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "JSON_LIMIT", 100)
    with pytest.raises(InvalidInput, match="limit is 100"):
        files.write_json(tmp_path / "config.json", "x" * 100)
    assert not list(tmp_path.iterdir())
