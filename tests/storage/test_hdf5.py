"""HDF5 files that are hostile, damaged or lie about their sizes are refused unread."""

import sys

import h5py
import numpy as np
import pytest

from etude.errors import InvalidInput
from etude.storage.datasets import budget
from etude.storage.datasets.hdf5 import open_hdf5
from etude.storage.files import CorruptFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.hdf5"


def read(path, name="x"):
    with open_hdf5(path) as file:
        return file.array(name)


def refusal(path, name="x"):
    with pytest.raises(CorruptFile) as refused:
        read(path, name)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8", "i1", "u1", "i8", ">i4", "u8", "bool"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": True},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf"},
    ],
)
def test_arrays_of_numbers_are_read(path, dtype, options):
    values = np.arange(600).reshape(20, 30) % 2 if dtype == "bool" else np.arange(600) % 100
    with h5py.File(path, "w") as file:
        file.create_dataset("a/x", data=values.astype(dtype), **options)
        file["a"].attrs.update({"id": 3, "scale": 0.5})
        file["scalar"] = np.float32(2.5)
    with open_hdf5(path) as file:
        group = file.group("a")
        assert group.names() == ["x"] and "x" in group and "y" not in group
        assert file.is_group("a") and not group.is_group("x")
        np.testing.assert_array_equal(group.array("x"), values)
        assert group.array("x").dtype == np.dtype(dtype)
        assert file.array("scalar") == 2.5
        names = "id", "scale", "nothing"
        assert [group.attribute(name) for name in names] == [3, 0.5, None]


def external_link(file, folder):
    with h5py.File(folder / "other.hdf5", "w") as other:
        other["x"] = [1.0]
    file["x"] = h5py.ExternalLink("other.hdf5", "x")


def soft_link(file, folder):
    file["y"] = [1.0]
    file["x"] = h5py.SoftLink("/y")


def external_storage(file, folder):
    (folder / "secret").write_bytes(bytes(80))
    file.create_dataset("x", (10,), "f8", external=[(str(folder / "secret"), 0, 80)])


def virtual(file, folder):
    with h5py.File(folder / "other.hdf5", "w") as other:
        other["x"] = np.zeros(10)
    layout = h5py.VirtualLayout((10,), "f8")
    layout[:] = h5py.VirtualSource(folder / "other.hdf5", "x", (10,))
    file.create_virtual_dataset("x", layout)


def references(file, folder):
    file["y"] = [1.0]
    file.create_dataset("x", (1,), h5py.ref_dtype, data=[file["y"].ref])


def regions(file, folder):
    file["y"] = np.zeros(4)
    file.create_dataset("x", (1,), h5py.regionref_dtype, data=[file["y"].regionref[1:3]])


def plugin(file, folder):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((10,))
    plist.set_filter(305, h5py.h5z.FLAG_OPTIONAL, (1,))
    space = h5py.h5s.create_simple((10,))
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_DOUBLE, space, plist)


def never_written(file, folder):
    file.create_dataset("x", (10**6,), "f8")


def chunks_missing(file, folder):
    file.create_dataset("x", (1000,), "f8", chunks=(100,))[:900] = 1


def huge_chunks(file, folder):
    file.create_dataset("x", (10,), "f8", chunks=(10**7,), maxshape=(None,))


GZIP = {"compression": "gzip"}


@pytest.mark.parametrize(
    "make, expected",
    [
        (external_link, "'x' is a link to another place (external link)"),
        (soft_link, "'x' is a link to another place (soft link)"),
        (external_storage, "the values of 'x' are in other files"),
        (virtual, "the values of 'x' are in other files"),
        (references, "'x' has the dtype object; only arrays of numbers"),
        (regions, "'x' has the dtype object; only arrays of numbers"),
        (lambda file, _: file.create_dataset("x", data=["text"]), "'x' has the dtype object"),
        (
            lambda file, _: file.create_dataset("x", data=np.zeros(2, "f4,i4")),
            "'x' has the dtype [",
        ),
        (lambda file, _: file.create_dataset("x", data=np.zeros(2, "c16")), "'x' has the dtype c"),
        (lambda file, _: file.create_dataset("x", data=np.zeros(2, "S3")), "'x' has the dtype |S3"),
        (
            lambda file, _: file.create_dataset("x", data=np.zeros(2, "g")),
            "'x' has the dtype float",
        ),
        (plugin, "'x' was written with the filter 305, a plugin"),
        (never_written, "'x' has the shape (1000000,), and the file does not hold so much"),
        (chunks_missing, "'x' has the shape (1000,), and the file does not hold so much"),
        (huge_chunks, "'x' lies in chunks of more than 67,108,864 bytes"),
        (lambda file, _: file.create_group("x"), "'x' is a group and should be an array"),
        (lambda file, _: file.create_dataset("x", data=h5py.Empty("f8")), "'x' holds nothing"),
        (lambda file, _: None, "it has no 'x'"),
    ],
)
def test_what_is_no_plain_array_is_refused_unread(path, monkeypatch, make, expected):
    with h5py.File(path, "w") as file:
        make(file, path.parent)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *_: pytest.fail("it was read"))
    assert refusal(path).startswith(expected)


@pytest.mark.parametrize("link", [h5py.SoftLink("/"), h5py.ExternalLink("data.hdf5", "/")])
def test_groups_are_reached_through_no_link(path, link):
    with h5py.File(path, "w") as file:
        file["a"] = link
        file["b"] = [1.0]
    with open_hdf5(path) as file:
        with pytest.raises(CorruptFile, match="'a' is a link to another place"):
            file.group("a")
        with pytest.raises(CorruptFile, match="'b' is an array and should be a group"):
            file.group("b")


@pytest.mark.parametrize("name", ["a/x", "/a/x", "a/../b/x", ".", ""])
def test_a_path_is_no_name_for_it_would_follow_links(path, name):
    with h5py.File(path, "w") as file:
        file["b/x"] = [1.0]
        file["a"] = h5py.SoftLink("/b")
    assert "is not a name in a group; rename it" in refusal(path, name)


@pytest.mark.parametrize("value", [[1, 2], np.zeros(2, "f4,f4"), h5py.Empty("f4"), "text"])
def test_attributes_of_other_kinds_are_refused(path, value):
    with h5py.File(path, "w") as file:
        file.attrs["id"] = value
    with open_hdf5(path) as file, pytest.raises(CorruptFile, match="'id' of .* is not a number"):
        file.attribute("id")


def test_more_than_such_a_file_can_hold_is_refused_unread(path, monkeypatch):
    with h5py.File(path, "w") as file:
        for name in "xy":
            file.create_dataset(name, data=np.zeros(2**20), compression="gzip")
    assert read(path).shape == (2**20,)
    monkeypatch.setattr(budget, "SMALL", 2**23)
    monkeypatch.setattr(budget, "LARGEST_RATIO", 1)
    with open_hdf5(path) as file:
        file.array("x")
        with pytest.raises(CorruptFile, match="with 'y' its arrays would take more than 8,388,608"):
            file.array("y")


@pytest.mark.parametrize("shape", [(2**50,), (2**32, 2**31)])
def test_shapes_that_lie_are_refused_unread(path, shape):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape, "f8", chunks=(8,) * len(shape))
    assert "its arrays would take more than 268,435,456 bytes" in refusal(path)


@pytest.mark.parametrize("data", [b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04" * 99, bytes(9999)])
def test_what_is_no_hdf5_is_refused(path, data):
    path.write_bytes(data)
    assert "it is damaged or not HDF5 (" in refusal(path)


def test_damage_is_refused_or_changes_nothing(path):
    values = np.arange(500.0)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values, fletcher32=True, **GZIP)
    data = path.read_bytes()
    refused = 0
    for index in range(0, len(data), 37):
        path.write_bytes(data[:index] + bytes([data[index] ^ 0xFF]) + data[index + 1 :])
        try:
            with open_hdf5(path) as file:
                assert file.array("x").dtype.kind in "biuf"
        except InvalidInput:
            refused += 1
        path.write_bytes(data[:index])
        assert refusal(path)
    assert refused > 3


def test_a_heap_that_would_be_walked_for_ever_is_refused(path):
    rows = [np.arange(n, dtype="u1") for n in (3, 5)]
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("x", (2,), h5py.vlen_dtype(np.uint8))
        for i, row in enumerate(rows):
            dataset[i] = row
    with open_hdf5(path) as file:
        assert list(file.rows_of_bytes("x")) == [row.tobytes() for row in rows]
    data = bytearray(path.read_bytes())
    first = data.index(b"GCOL") + 16
    data[first : first + 16] = bytes(16)  # free, and of no size
    path.write_bytes(data)
    with pytest.raises(CorruptFile, match="a heap in it is damaged"), open_hdf5(path) as file:
        list(file.rows_of_bytes("x"))


def test_links_to_files_and_folders_are_refused(path):
    with h5py.File(path, "w") as file:
        file["x"] = [1.0]
    link = path.with_name("link.hdf5")
    link.symlink_to(path)
    for other in (link, path.parent, path.with_name("nowhere")):
        with pytest.raises(CorruptFile, match=other.name):
            read(other)


def test_without_h5py_the_extra_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InvalidInput, match=r'need h5py, .* pip install "etude\[data\]"'):
        read(path)
