"""metrics.csv: exact numbers, whole rows, and no trace of what came after the checkpoint."""

import csv
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import InvalidInput
from etude.storage import metrics_csv
from etude.storage.files import CorruptFile
from etude.storage.metrics_csv import MetricsWriter

ROWS = [
    {"step": 100, "return": 1.5, "loss": None},
    {"step": 200, "return": None, "loss": 0.25},
    {"step": 300, "return": 2.0, "loss": 0.125},
]


def write(path, rows):
    with MetricsWriter(path) as log:
        for row in rows:
            log.append(row)


def returns(path):
    return metrics_csv.read_metrics(path)["step"].tolist()


def test_rows_come_back(tmp_path):
    path = tmp_path / "metrics.csv"
    write(path, ROWS)
    assert path.read_text() == "step,return,loss\n100,1.5,\n200,,0.25\n300,2.0,0.125\n"
    table = metrics_csv.read_metrics(path)
    assert list(table) == ["step", "return", "loss"]
    np.testing.assert_array_equal(table["return"], [1.5, math.nan, 2.0])
    assert all(column.dtype == np.float64 for column in table.values())
    with open(path, newline="") as file:
        assert list(csv.DictReader(file))[1] == {"step": "200", "return": "", "loss": "0.25"}


@pytest.mark.slow
@given(st.lists(st.floats(), min_size=1, max_size=20))
def test_every_float_round_trips(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("records") / "metrics.csv"
    write(path, [{"step": i, "x": value} for i, value in enumerate(values)])
    back = metrics_csv.read_metrics(path)["x"]
    np.testing.assert_array_equal(back, values)
    np.testing.assert_array_equal(
        np.signbit(back)[~np.isnan(back)], np.signbit(values)[~np.isnan(values)]
    )


def test_numbers_of_numpy_and_jax_are_exact(tmp_path):
    path = tmp_path / "metrics.csv"
    row = {
        "step": np.int32(2**30),
        "a": np.float32(0.1),
        "b": np.float32(1 / 3),
        "c": jnp.bfloat16(0.1),
        "d": np.bool_(True),
        "e": np.int64(2**53),
        "f": np.array(-0.0),
        "g": True,
        "h": jnp.array(math.nan),
    }
    write(path, [row])
    table = metrics_csv.read_metrics(path)
    for name, value in row.items():
        np.testing.assert_array_equal(table[name][0], float(value))
    assert path.read_text().splitlines()[1].startswith("1073741824,0.10000000149011612,")


def test_a_run_is_continued(tmp_path):
    path = tmp_path / "metrics.csv"
    write(path, ROWS[:1])
    write(path, ROWS[1:])
    assert returns(path) == [100, 200, 300]


def test_rows_can_be_read_while_the_run_goes_on(tmp_path):
    log = MetricsWriter(tmp_path / "metrics.csv")
    assert metrics_csv.read_metrics(tmp_path / "metrics.csv") == {}
    log.append({"step": 1})
    assert returns(tmp_path / "metrics.csv") == [1]
    log.append({"step": 2})
    log.sync()
    assert returns(tmp_path / "metrics.csv") == [1, 2]
    log.close()
    log.close()


def test_a_missing_column_is_empty_and_a_new_one_an_error(tmp_path):
    path = tmp_path / "metrics.csv"
    with MetricsWriter(path) as log:
        log.append(ROWS[0])
        log.append({"loss": 1.0, "step": 150})
        with pytest.raises(InvalidInput, match=r"no column 'entropy' but step, return, loss"):
            log.append({"step": 160, "entropy": 1.0})
        log.append(ROWS[1])
    assert returns(path) == [100, 150, 200]
    with MetricsWriter(path) as log, pytest.raises(InvalidInput, match="'entropy'"):
        log.append({"step": 160, "entropy": 1.0})


@pytest.mark.parametrize(
    "row", [{}, {"loss": 1.0}, {"step": None}, {"step": 1.5}, {"step": -1}, {"step": math.nan}]
)
def test_a_row_needs_its_step(tmp_path, row):
    with MetricsWriter(tmp_path / "metrics.csv") as log, pytest.raises(InvalidInput, match="step"):
        log.append(row)


@pytest.mark.parametrize("value", ["3", [1.0], np.zeros(2), 1j, {}])
def test_a_cell_is_one_number(tmp_path, value):
    with (
        MetricsWriter(tmp_path / "metrics.csv") as log,
        pytest.raises(InvalidInput, match="'loss' is"),
    ):
        log.append({"step": 1, "loss": value})
    assert not (tmp_path / "metrics.csv").read_bytes()


@pytest.mark.parametrize("name", ["", "a,b", 'a"b', "a\nb", "a\r", 3])
def test_a_column_has_a_plain_name(tmp_path, name):
    with (
        MetricsWriter(tmp_path / "metrics.csv") as log,
        pytest.raises(InvalidInput, match="cannot name a column"),
    ):
        log.append({"step": 1, name: 1.0})
    assert not (tmp_path / "metrics.csv").read_bytes()


def test_torn_at_any_byte_the_whole_rows_remain_and_the_run_goes_on(tmp_path):
    path = tmp_path / "metrics.csv"
    write(path, ROWS)
    data = path.read_bytes()
    for length in range(len(data) + 1):
        for tail in (b"", b"\0\0\0"):  # some file systems grow a file before they fill it
            path.write_bytes(data[:length] + tail)
            whole = max(data[:length].count(b"\n") - 1, 0)
            if data[:length].count(b"\n"):
                assert returns(path) == [100, 200, 300][:whole]
            write(path, [{"step": 400, "return": 3.0, "loss": 1.0}])
            assert returns(path) == [*[100, 200, 300][:whole], 400]


@pytest.mark.parametrize(
    ("step", "left"),
    [
        (0, []),
        (99, []),
        (100, [100]),
        (250, [100, 200]),
        (300, [100, 200, 300]),
        (10**9, [100, 200, 300]),
    ],
)
def test_truncated_to_the_checkpoint(tmp_path, step, left):
    path = tmp_path / "metrics.csv"
    write(path, ROWS)
    with open(path, "ab") as file:
        file.write(b"350,9")
    with MetricsWriter(path) as log:
        log.truncate_after(step)
        assert returns(path) == left
        log.append({"step": 400})
    assert returns(path) == [*left, 400]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.csv"]


def test_truncating_keeps_every_seed_of_a_step(tmp_path):
    path = tmp_path / "metrics.csv"
    write(path, [{"seed": seed, "step": step} for step in (10, 20, 30) for seed in (0, 1)])
    with MetricsWriter(path) as log:
        log.truncate_after(20)
    np.testing.assert_array_equal(metrics_csv.read_metrics(path)["seed"], [0, 1, 0, 1])


def test_an_empty_file_can_be_truncated(tmp_path):
    with MetricsWriter(tmp_path / "metrics.csv") as log:
        log.truncate_after(10)
        log.append({"step": 1})
    assert returns(tmp_path / "metrics.csv") == [1]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("step,a\n1,2\n3\n5,6\n", "line 3"),
        ("step,a\n1,x\n3,4\n", "line 2"),
        ("step,a\n1,2,3\n", "line 2"),
        ("step,a\n,2\n", "line 2"),
        ("step,a\n\n", "line 2"),
        ("a,b\n1,2\n", "header"),
        ("step,step\n1,2\n", "header"),
        ("\n", "header"),
    ],
)
def test_damage_in_the_middle_is_told(tmp_path, text, named):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    for use in (metrics_csv.read_metrics, MetricsWriter):
        with pytest.raises(CorruptFile, match=f"metrics.csv.*{named}"):
            use(path)
    assert path.read_text() == text


def test_a_missing_or_binary_file_is_told(tmp_path):
    with pytest.raises(CorruptFile, match="cannot be read"):
        metrics_csv.read_metrics(tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe\n1\n")
    with pytest.raises(CorruptFile, match="no text"):
        metrics_csv.read_metrics(tmp_path / "metrics.csv")
