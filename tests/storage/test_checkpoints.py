"""Checkpoints: what goes in comes out, damage and malice are refused, a crash never takes the last
one."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import equinox
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from etude.errors import InvalidInput
from etude.storage import checkpoints, directories
from etude.storage.files import CorruptFile
from etude.struct import static, struct


@struct
class State:
    network: object
    buffers: dict
    count: jax.Array
    size: int = static(3)


def small(value=1.0):
    return {"w": jnp.full((2, 3), float(value)), "n": jnp.array(7, jnp.int32)}


def shapes(tree):
    return jax.eval_shape(lambda: tree)


def equal(a, b):
    """Same structure, types and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def seal(path):
    """Write a manifest that fits whatever lies in the checkpoint, as an attacker would."""
    entries = {}
    for name in ("arrays.safetensors", "facts.json"):
        data = (path / name).read_bytes()
        entries[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(
        json.dumps({"format": 2, "step": int(path.name[5:]), "files": entries}, indent=2) + "\n"
    )


def steps(directory):
    return sorted(int(path.name[5:]) for path in directory.glob("step_*"))


# What goes in comes out


@pytest.mark.slow
def test_nested_trees_come_back_bit_for_bit(tmp_path):
    layers = (
        equinox.nn.Linear(3, 2, key=jax.random.key(0)),
        equinox.nn.GRUCell(2, 4, key=jax.random.key(1)),
    )
    tree = State(
        network=layers,
        count=jnp.array(5),
        buffers={
            "a/b": (jnp.zeros((0, 3)), None),
            "ü": [jnp.array([True, False])],
            "": jnp.float32(-0.0),
        },
    )
    path = checkpoints.save_checkpoint(tmp_path / "new" / "checkpoints", 12, tree, {"loss": 0.1})
    assert path == tmp_path / "new" / "checkpoints" / "step_12"
    for template in (tree, shapes(tree)):
        back, facts = checkpoints.load_checkpoint(path, template)
        equal(back, tree)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(back))
        assert facts == {"loss": 0.1}
    assert back.network[0](jnp.ones(3)).shape == (2,)


@pytest.mark.parametrize(
    "dtype",
    [
        "bool",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "int8",
        "int16",
        "int32",
        "int64",
        "float16",
        "bfloat16",
        "float32",
        "float64",
    ],
)
def test_every_bit_pattern_of_every_type_survives(tmp_path, dtype):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    raw = np.random.default_rng(0).integers(0, 256, 64 * dtype.itemsize, dtype=np.uint8)
    # NaNs with payloads among them
    array = (raw % 2 if dtype.name == "bool" else raw).view(dtype).reshape(4, 16)
    tree = {
        "whole": array,
        "strided": array[::2, ::3],
        "scalar": array[0, 0],
        "turned": np.asfortranarray(array),
    }
    back, _ = checkpoints.load_checkpoint(
        checkpoints.save_checkpoint(tmp_path, 0, tree, {}),
        shapes(tree) if dtype.itemsize < 8 else tree,
    )
    equal(back, tree)


def test_64_bits_are_not_narrowed(tmp_path):
    tree = {"wide": np.array([2**40 + 1]), "fine": np.array(0.1)}
    path = checkpoints.save_checkpoint(tmp_path, 0, tree, {})
    equal(checkpoints.load_checkpoint(path, tree)[0], tree)
    with jax.enable_x64(True):
        back, _ = checkpoints.load_checkpoint(path, shapes(tree))
        assert isinstance(back["wide"], jax.Array)
        equal(back, tree)


def test_big_endian_arrays_keep_their_values(tmp_path):
    tree = [np.arange(3, dtype=">i4")]
    back, _ = checkpoints.load_checkpoint(checkpoints.save_checkpoint(tmp_path, 0, tree, {}), tree)
    np.testing.assert_array_equal(back[0], [0, 1, 2])


@pytest.mark.parametrize("tree", [{}, (), jnp.arange(3), None])
def test_trees_of_no_leaf_and_of_one(tmp_path, tree):
    equal(
        checkpoints.load_checkpoint(checkpoints.save_checkpoint(tmp_path, 0, tree, {}), tree)[0],
        tree,
    )


def test_facts_are_strict_json(tmp_path):
    facts = {
        "low": -np.inf,
        "high": np.inf,
        "loss": np.float32(np.nan),
        "seed": np.int64(3),
        "flag": np.bool_(True),
        "array": jnp.arange(2),
        "half": jnp.bfloat16(1.5),
        "nested": [{"a": (1, None)}],
        "text": "é\ud800",
    }
    path = checkpoints.save_checkpoint(tmp_path, 0, {}, facts)
    expected = {
        "low": "-inf",
        "high": "inf",
        "loss": "nan",
        "seed": 3,
        "flag": True,
        "array": [0, 1],
        "half": 1.5,
        "nested": [{"a": [1, None]}],
        "text": "é\ud800",
    }
    assert checkpoints.load_checkpoint(path, {})[1] == expected
    assert float(expected["low"]) == -np.inf
    json.loads((path / "facts.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"a": [{"b": object()}]}, r"'a'.*\[0\].*'b'.*object"),
        ({1: 2}, "key 1"),
        ({"a": {2: 1}}, "'a'.*key 2"),
        ({"a": {1, 2}}, "set"),
    ],
)
def test_facts_that_are_no_json_are_refused_before_anything_is_written(tmp_path, facts, named):
    with pytest.raises(InvalidInput, match=named):
        checkpoints.save_checkpoint(tmp_path, 0, {}, facts)
    assert not list(tmp_path.iterdir())


def test_endless_facts_are_refused(tmp_path):
    facts = {}
    facts["self"] = facts
    with pytest.raises(InvalidInput, match="nested"):
        checkpoints.save_checkpoint(tmp_path, 0, {}, facts)


class Twin:
    """Two of them are different keys that look the same."""

    def __repr__(self):
        return "twin"

    def __lt__(self, other):
        return id(self) < id(other)


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"act": jax.nn.relu}, r"\['act'\].*static"),
        ({"n": 3}, r"\['n'\] is a int"),
        ({"t": "text"}, r"\['t'\] is a str"),
        ({"key": jax.random.key(0)}, r"\['key'\].*key_data"),
        ({"c": np.zeros(2, complex)}, r"\['c'\].*complex128"),
        ({"o": np.array([object()])}, r"\['o'\].*object"),
        ({Twin(): np.zeros(1), Twin(): np.ones(1)}, "two leaves"),
    ],
)
def test_leaves_that_are_no_data_are_refused(tmp_path, tree, named):
    with pytest.raises(InvalidInput, match=named):
        checkpoints.save_checkpoint(tmp_path, 0, tree, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", [-1, 10**18])
def test_steps_that_cannot_be_named_are_refused(tmp_path, step):
    with pytest.raises(InvalidInput, match=f"step is {step}"):
        checkpoints.save_checkpoint(tmp_path, step, {}, {})


# Which are kept


def test_the_newest_are_kept_and_never_fewer_than_two(tmp_path):
    for step in (5, 10, 100, 20):
        checkpoints.save_checkpoint(tmp_path, step, small(step), {}, keep=3)
    assert steps(tmp_path) == [10, 20, 100]
    checkpoints.save_checkpoint(tmp_path, 101, small(), {}, keep=0)
    assert steps(tmp_path) == [100, 101]
    assert {path.name for path in tmp_path.iterdir()} == {"step_100", "step_101"}


def test_the_one_just_saved_is_kept_whatever_its_step(tmp_path):
    for step in (100, 200, 3):
        checkpoints.save_checkpoint(tmp_path, step, small(step), {})
    assert steps(tmp_path) == [3, 200]


def test_damaged_ones_do_not_count(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoints.save_checkpoint(tmp_path, step, small(step), {}, keep=4)
    (tmp_path / "step_3" / "facts.json").unlink()
    # training fell back to step 2 and goes on from there
    flip(tmp_path / "step_4" / "arrays.safetensors", -1)
    checkpoints.save_checkpoint(tmp_path, 3, small(), {})
    assert steps(tmp_path) == [2, 3]


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoints.save_checkpoint(tmp_path, 1, small(1.0), {"try": 1})
    path = checkpoints.save_checkpoint(tmp_path, 1, small(2.0), {"try": 2})
    back, facts = checkpoints.load_checkpoint(path, small())
    equal(back, small(2.0))
    assert facts == {"try": 2} and os.listdir(tmp_path) == ["step_1"]


def test_remains_of_dead_saves_go_and_strangers_stay(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    directory = tmp_path / "checkpoints"
    for name in (".saving_step_9", ".removing_step_3", "videos"):
        (directory / name).mkdir(parents=True)
        (directory / name / "arrays.safetensors").write_bytes(b"half")
    (directory / "step_8").symlink_to(outside)
    (directory / ".saving_step_7").symlink_to(outside)
    (directory / "step_x").touch()
    checkpoints.save_checkpoint(directory, 10, small(), {})
    assert {path.name for path in directory.iterdir()} == {"step_10", "videos", "step_x"}
    assert (outside / "precious").exists()


def test_readable_by_whom_the_directory_lets_read(tmp_path):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    (tmp_path / "plain").touch()
    expected = (tmp_path / "plain").stat().st_mode
    assert {file.stat().st_mode for file in path.iterdir()} == {expected}


# Damage


def flip(path, index, mask=0xFF):
    data = bytearray(path.read_bytes())
    data[index] ^= mask
    path.write_bytes(data)


@pytest.mark.slow
def test_no_flipped_bit_goes_unseen(tmp_path):
    path = checkpoints.save_checkpoint(tmp_path, 1, {"w": jnp.array([1.5, 2.5])}, {"k": 1})
    template = {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}
    for file in path.iterdir():
        data = file.read_bytes()
        for index in range(len(data)):
            for mask in (1 << index % 8, 255):
                file.write_bytes(data[:index] + bytes([data[index] ^ mask]) + data[index + 1 :])
                with pytest.raises(CorruptFile):
                    checkpoints.load_checkpoint(path, template)
        file.write_bytes(data)
    checkpoints.load_checkpoint(path, template)


@pytest.mark.slow
def test_no_truncation_or_growth_goes_unseen(tmp_path):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {"k": 1})
    for file in path.iterdir():
        data = file.read_bytes()
        for changed in [data[:length] for length in range(len(data))] + [
            data + b" ",
            data + b"\0",
            b"\n" + data,
        ]:
            file.write_bytes(changed)
            with pytest.raises(CorruptFile, match=file.name):
                checkpoints.load_checkpoint(path, small())
        file.unlink()
        with pytest.raises(CorruptFile, match=file.name):
            checkpoints.load_checkpoint(path, small())
        file.write_bytes(data)


@pytest.mark.slow
def test_a_hostile_header_under_a_fitting_manifest_gives_what_was_asked_or_nothing(tmp_path):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    file = path / "arrays.safetensors"
    data = file.read_bytes()
    refused = 0
    for index in range(len(data) - 28):  # 28 bytes of values: any value is a value
        for mask in (1, 4, 16, 128):
            file.write_bytes(data[:index] + bytes([data[index] ^ mask]) + data[index + 1 :])
            seal(path)
            try:
                back, _ = checkpoints.load_checkpoint(path, small())
            except CorruptFile as error:
                assert file.name in str(error)
                refused += 1
            else:
                assert [(x.shape, x.dtype.name) for x in jax.tree.leaves(back)] == [
                    ((), "int32"),
                    ((2, 3), "float32"),
                ]
    assert refused > 400


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9, 0])
def test_a_header_longer_than_the_file_is_refused(tmp_path, length):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    data = (path / "arrays.safetensors").read_bytes()
    (path / "arrays.safetensors").write_bytes(length.to_bytes(8, "little") + data[8:])
    seal(path)
    with pytest.raises(CorruptFile, match=r"arrays.safetensors"):
        checkpoints.load_checkpoint(path, small())


def test_an_oversized_header_is_refused_unread(tmp_path):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    with open(path / "arrays.safetensors", "wb") as file:
        length = checkpoints.HEADER_LIMIT + 8
        file.write(length.to_bytes(8, "little"))
        file.truncate(length + 100)
    seal(path)
    with pytest.raises(CorruptFile, match="header"):
        checkpoints.load_checkpoint(path, small())


@pytest.mark.parametrize(
    "name",
    [
        "../outside.json",
        "/etc/passwd",
        "..",
        "sub/facts.json",
        "more.bin",
        "facts.json\0",
        "ARRAYS.SAFETENSORS",
    ],
)
def test_a_manifest_names_the_two_files_and_no_other(tmp_path, name):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    (tmp_path / "outside.json").write_text("{}")
    manifest = json.loads((path / "manifest.json").read_text())
    entry = {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    instead = {"arrays.safetensors": manifest["files"]["arrays.safetensors"], name: entry}
    for files in (instead, manifest["files"] | {name: entry}, {}, [], None, "facts.json"):
        (path / "manifest.json").write_text(json.dumps({"format": 2, "files": files}))
        with pytest.raises(
            CorruptFile, match=r"manifest.json must list arrays.safetensors and facts.json"
        ):
            checkpoints.load_checkpoint(path, small())


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "{}", "1", '{"format": 1, "files": {}}', '{"format": "1"}', '{"format": [1]}'],
)
def test_a_manifest_of_another_format_is_refused(tmp_path, text):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    (path / "manifest.json").write_text(text)
    with pytest.raises(CorruptFile, match="format"):
        checkpoints.load_checkpoint(path, small())


@pytest.mark.parametrize(
    "change", [{"size": 28.0}, {"size": True}, {"size": None}, {"sha256": 1}, {"extra": 1}]
)
def test_a_manifest_is_held_to_its_form(tmp_path, change):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    manifest = json.loads((path / "manifest.json").read_text())
    if change == {"size": 28.0}:
        change = {"size": float(manifest["files"]["facts.json"]["size"])}
    manifest["files"]["facts.json"] |= change
    (path / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    with pytest.raises(CorruptFile):
        checkpoints.load_checkpoint(path, small())


def test_a_huge_manifest_is_not_read(tmp_path):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    with open(path / "manifest.json", "ab") as file:
        file.truncate(10**9)
    with pytest.raises(CorruptFile, match=r"manifest.json has 1,000,000,000 bytes"):
        checkpoints.load_checkpoint(path, small())


@pytest.mark.parametrize("name", ["arrays.safetensors", "facts.json", "manifest.json"])
@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_only_plain_files_are_opened(tmp_path, name, kind):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    (path / name).rename(tmp_path / "original")
    if kind == "link":
        (path / name).symlink_to(tmp_path / "original")
    elif kind == "folder":
        (path / name).mkdir()
    else:
        os.mkfifo(path / name)
    with pytest.raises(CorruptFile, match=f"{name} is not a plain file"):
        checkpoints.load_checkpoint(path, small())


def test_a_linked_or_missing_checkpoint_is_refused(tmp_path):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    (tmp_path / "step_2").symlink_to(path)
    (tmp_path / "step_3").write_bytes(b"")
    for name in ("step_2", "step_3", "step_4"):
        with pytest.raises(CorruptFile, match=f"{name} is not a checkpoint's directory"):
            checkpoints.load_checkpoint(tmp_path / name, small())


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": 1, "a": 2}',
        '{"b": {"a": 1, "a": 1}}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "[" * 5000 + "]" * 5000 + "x",
        "",
        "{",
        "{'a': 1}",
        '{"a": 1} {}',
        "[1,]",
        '{"a": ' + "9" * 5000 + "}",
        "[]",
        "1",
        '"text"',
        "null",
    ],
)
def test_foreign_json_is_refused(tmp_path, text):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    (path / "facts.json").write_text(text)
    seal(path)
    with pytest.raises(CorruptFile, match=r"facts.json"):
        checkpoints.load_checkpoint(path, small())


@pytest.mark.parametrize(
    "data", [b"\xff{}", "{}".encode("utf-16"), b"\xef\xbb\xbf{}", b'{"a": "\xed\xa0\x80"}']
)
def test_json_is_utf8(tmp_path, data):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    (path / "facts.json").write_bytes(data)
    seal(path)
    with pytest.raises(CorruptFile, match=r"facts.json is not strict JSON"):
        checkpoints.load_checkpoint(path, small())


def test_a_pickle_in_place_of_the_arrays_is_not_run(tmp_path):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    (path / "arrays.safetensors").write_bytes(
        b"\x80\x04cos\nsystem\n(S'touch " + bytes(tmp_path / "run") + b"'\ntR."
    )
    seal(path)
    with pytest.raises(CorruptFile, match=r"arrays.safetensors"):
        checkpoints.load_checkpoint(path, small())
    assert not (tmp_path / "run").exists()


# Another tree than the one asked for


@pytest.mark.parametrize(
    ("template", "named"),
    [
        (
            {"w": jnp.zeros((2, 3), jnp.bfloat16), "n": jnp.array(7)},
            r"\['w'\] is F32 \(2, 3\) instead of BF16 \(2, 3\)",
        ),
        (
            {"w": jnp.zeros((3, 2)), "n": jnp.array(7)},
            r"\['w'\] is F32 \(2, 3\) instead of F32 \(3, 2\)",
        ),
        (
            {"w": jnp.zeros((2, 3)), "n": jnp.array([7])},
            r"\['n'\] is I32 \(\) instead of I32 \(1,\)",
        ),
        ({"w": jnp.zeros((2, 3)), "n": jnp.array(7, jnp.uint32)}, r"I32 \(\) instead of U32"),
        ({"w": jnp.zeros((2, 3))}, r"\['n'\] is not expected"),
        (small() | {"momentum": jnp.zeros(2)}, r"\['momentum'\] is missing"),
        (
            [jnp.zeros((2, 3)), jnp.array(7)],
            r"\[0\] is missing; \[1\] is missing; \['n'\] is not expected and 1 more",
        ),
        (jnp.zeros((2, 3)), "the array is missing"),
        ({}, "is not expected"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, template, named):
    path = checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    with pytest.raises(CorruptFile, match=named) as raised:
        checkpoints.load_checkpoint(path, template)
    assert "arrays.safetensors" in str(raised.value) and "use the algorithm" in str(raised.value)


def test_a_template_may_follow_from_the_metadata(tmp_path):
    tree = {"w": jnp.arange(5.0)}
    path = checkpoints.save_checkpoint(tmp_path, 1, tree, {"length": 5})

    def template(metadata):
        return {"w": jax.ShapeDtypeStruct((metadata["length"],), jnp.float32)}

    equal(checkpoints.load_checkpoint(path, template)[0], tree)
    equal(checkpoints.load_newest(tmp_path, template)[1], tree)
    flip(path / "facts.json", 0)
    with pytest.raises(CorruptFile, match=r"facts.json"):  # before the function is called
        checkpoints.load_checkpoint(path, pytest.fail)


def test_metadata_that_the_template_refuses_are_passed_over(tmp_path):
    for step in (1, 2):
        checkpoints.save_checkpoint(tmp_path, step, small(step), {"good": step == 1})
    told = []

    def template(metadata):
        if not metadata["good"]:
            raise CorruptFile("the metadata are not good")
        return small()

    assert checkpoints.load_newest(tmp_path, template, told.append)[0].name == "step_1"
    assert len(told) == 1 and "step_2: the metadata are not good" in told[0]


def test_a_renamed_checkpoint_is_passed_over_and_does_not_count(tmp_path):
    for step in (1, 2, 3):
        checkpoints.save_checkpoint(tmp_path, step, small(step), {}, keep=3)
    (tmp_path / "step_2").rename(tmp_path / "step_999999")
    with pytest.raises(CorruptFile, match="step_999999 holds the checkpoint of step 2"):
        checkpoints.load_checkpoint(tmp_path / "step_999999", small())
    told = []
    assert checkpoints.load_newest(tmp_path, small(), told.append)[0].name == "step_3"
    assert len(told) == 1 and "step_999999" in told[0]
    checkpoints.save_checkpoint(tmp_path, 4, small(), {})
    assert steps(tmp_path) == [3, 4]


def test_what_is_hashed_is_what_is_read(tmp_path, monkeypatch):
    """Each file is exchanged once it was opened, which is not seen, since none is opened twice."""
    path = checkpoints.save_checkpoint(tmp_path / "ours", 1, small(1), {"whose": "ours"})
    other = checkpoints.save_checkpoint(tmp_path / "theirs", 1, small(2), {"whose": "theirs"})
    open_file, exchanged = os.open, []

    def exchange(name, *arguments, **keywords):
        descriptor = open_file(name, *arguments, **keywords)
        if Path(name).parent == path:
            os.replace(other / Path(name).name, name)
            exchanged.append(Path(name).name)
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", exchange)
        tree, metadata = checkpoints.load_checkpoint(path, small())
    assert sorted(exchanged) == ["arrays.safetensors", "facts.json", "manifest.json"]
    equal(tree, small(1))
    assert metadata == {"whose": "ours"}
    equal(checkpoints.load_checkpoint(path, small())[0], small(2))


def test_an_empty_array_of_another_shape_is_refused(tmp_path):
    path = checkpoints.save_checkpoint(tmp_path, 1, [jnp.zeros((0, 3))], {})
    with pytest.raises(CorruptFile, match="instead of"):
        checkpoints.load_checkpoint(path, [jnp.zeros((0, 4))])


def test_types_beyond_the_template_are_refused_before_they_are_read(tmp_path):
    path = checkpoints.save_checkpoint(tmp_path, 1, {"w": jnp.zeros(4)}, {})
    save_file({"['w']": np.zeros(4, ml_dtypes.float8_e4m3fn)}, path / "arrays.safetensors")
    seal(path)
    with pytest.raises(CorruptFile, match="F8_E4M3"):
        checkpoints.load_checkpoint(path, {"w": jnp.zeros(4)})


# The newest


def test_newest_takes_the_highest_step(tmp_path):
    for step in (9, 10):
        checkpoints.save_checkpoint(tmp_path, step, small(step), {"step": step})
    path, tree, facts = checkpoints.load_newest(tmp_path, small(), pytest.fail)
    equal(tree, small(10))
    assert path == tmp_path / "step_10" and facts == {"step": 10}


def test_newest_falls_back_and_says_so(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoints.save_checkpoint(tmp_path, step, small(step), {}, keep=4)
    flip(tmp_path / "step_4" / "arrays.safetensors", -1)
    shutil.rmtree(tmp_path / "step_3")
    (tmp_path / "step_3").mkdir()
    told = []
    path, tree, _ = checkpoints.load_newest(tmp_path, small(), told.append)
    assert path.name == "step_2"
    equal(tree, small(2))
    assert len(told) == 2
    assert "step_4" in told[0] and "arrays.safetensors" in told[0] and "SHA-256" in told[0]
    assert "step_3" in told[1] and "manifest.json" in told[1]


def test_newest_warns_by_default(tmp_path):
    for step in (1, 2):
        checkpoints.save_checkpoint(tmp_path, step, small(step), {})
    flip(tmp_path / "step_2" / "facts.json", 0)
    with pytest.warns(UserWarning, match="step_2"):
        assert checkpoints.load_newest(tmp_path, small())[0].name == "step_1"


def test_newest_without_any_says_why(tmp_path):
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(CorruptFile, match="there is none"):
            checkpoints.load_newest(directory, small())
    checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    flip(tmp_path / "step_1" / "facts.json", 0)
    told = []
    with pytest.raises(CorruptFile, match="SHA-256"):
        checkpoints.load_newest(tmp_path, small(), told.append)
    assert len(told) == 1


def test_newest_of_another_template_is_named_by_its_arrays_and_warns_of_nothing(tmp_path):
    """Unless an older one fits, or one is damaged."""
    for step in (1, 2):
        checkpoints.save_checkpoint(tmp_path, step, small(step), {})
    other = {**small(), "more": np.zeros(3, np.float32)}
    with pytest.raises(
        checkpoints.OtherArrays, match=r"step_2/.*\['more'\] is missing; use the al"
    ):
        checkpoints.load_newest(tmp_path, other, pytest.fail)
    checkpoints.save_checkpoint(tmp_path, 3, other, {}, keep=3)
    told = []
    assert checkpoints.load_newest(tmp_path, small(), told.append)[0].name == "step_2"
    assert len(told) == 1 and "['more'] is not expected" in told[0]
    flip(tmp_path / "step_2" / "facts.json", 0)
    with pytest.raises(CorruptFile, match="holds no checkpoint that can be read .*SHA-256"):
        checkpoints.load_newest(tmp_path, {"alone": np.zeros(1)}, told.append)


# Crashes


class Crash(BaseException):
    """The machine stops: nothing after it happens."""


class Machine:
    """Counts the operations that change the disk and stops for good at one of them, half-way where
    that can be."""

    OPERATIONS = (
        (os, "replace"),
        (os, "fsync"),
        (shutil, "rmtree"),
        (os, "mkdir"),
        (os, "unlink"),
        (shutil, "copymode"),
        (checkpoints, "save_file"),
        (Path, "write_bytes"),
    )

    def __init__(self, patch, stop, halves=True, error=Crash):
        self.count, self.stop, self.halves, self.error = 0, stop, halves, error
        for owner, name in self.OPERATIONS:
            patch.setattr(owner, name, self.watched(name, getattr(owner, name)))

    def watched(self, name, operation):
        def run(*arguments, **options):
            self.count += 1
            if self.count == self.stop and self.halves:
                self.half(name, operation, arguments)
            if self.count == self.stop or (self.count > self.stop and self.error is Crash):
                raise self.error(28, "no space left on device")
            return operation(*arguments, **options)

        return run

    def half(self, name, operation, arguments):
        if name == "rmtree" and (inside := sorted(Path(arguments[0]).iterdir())):
            os.remove(inside[0])
        elif name == "write_bytes":
            operation(arguments[0], arguments[1][: len(arguments[1]) // 2])
        elif name == "save_file":
            Path(arguments[1]).touch()


SAVES = {
    "first": [1],
    "third": [1, 2, 3],
    "again": [1, 1],
    "the older again": [1, 2, 1],
    "pruning much": [1, 2, 3, 4, 5],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "halves", "history"),
    [
        *((Crash, True, history) for history in SAVES),
        (Crash, False, "first"),
        (Crash, False, "the older again"),
        (OSError, False, "third"),
        (OSError, False, "again"),
    ],
)
def test_a_crash_at_any_operation_leaves_the_newest_whole(tmp_path, history, halves, error):
    *before, last = SAVES[history]
    keep = 9 if history == "pruning much" else 2
    for stop in range(1, 60):
        directory = tmp_path / str(stop)
        for step in before:
            checkpoints.save_checkpoint(directory, step, small(step), {"save": "before"}, keep=keep)
        with pytest.MonkeyPatch.context() as patch:
            machine = Machine(patch, stop, halves, error)
            with contextlib.suppress(error):
                checkpoints.save_checkpoint(directory, last, small(-last), {"save": "last"})
        if before or machine.count < stop:
            path, tree, facts = checkpoints.load_newest(directory, small(), pytest.fail)
            assert path.name.endswith((f"step_{last}", f"step_{max(before, default=last)}"))
            saved = facts["save"] == "last"
            equal(tree, small(-last if saved else int(path.name.split("_")[-1])))
        # the next run cleans up and goes on
        checkpoints.save_checkpoint(directory, 7, small(7), {})
        checkpoints.save_checkpoint(directory, 8, small(8), {})
        assert {path.name for path in directory.iterdir()} == {"step_7", "step_8"}
        if machine.count < stop:
            break
    assert 10 < stop < 59  # every operation had its turn


@pytest.mark.slow
def test_two_remain_when_pruning_is_cut_short(tmp_path):
    for stop in range(1, 40):
        directory = tmp_path / str(stop)
        for step in (1, 2):
            checkpoints.save_checkpoint(directory, step, small(step), {})
        with pytest.MonkeyPatch.context() as patch:
            Machine(patch, stop)
            with contextlib.suppress(Crash):
                checkpoints.save_checkpoint(directory, 3, small(3), {})
        whole = [
            path for path in directory.glob("step_*") if checkpoints.load_checkpoint(path, small())
        ]
        assert len(whole) >= 2


def test_a_name_is_given_only_to_what_is_on_the_disk(tmp_path, monkeypatch):
    """Files and directory are flushed before the renaming, the parent after it and before anything
    is removed."""
    log = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (log.append(os.fstat(file).st_ino), fsync(file)))
    monkeypatch.setattr(
        os, "replace", lambda a, b: (log.append((Path(a).name, Path(b).name)), replace(a, b))
    )
    for step in (1, 2, 3):
        checkpoints.save_checkpoint(tmp_path, step, small(), {}, keep=9)
    log.clear()
    path = checkpoints.save_checkpoint(tmp_path, 4, small(), {})
    renamed = log.index((".saving_step_4", "step_4"))
    assert {file.stat().st_ino for file in path.iterdir()} | {path.stat().st_ino} == set(
        log[:renamed]
    )
    assert log[renamed + 1] == tmp_path.stat().st_ino
    assert {pair[0] for pair in log[renamed + 2 :]} == {"step_1", "step_2"}


def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    checkpoints.save_checkpoint(tmp_path, 1, small(), {})
    monkeypatch.setattr(
        checkpoints, "save_file", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(OSError, match="No space"):
        checkpoints.save_checkpoint(tmp_path, 2, small(), {})
    assert os.listdir(tmp_path) == ["step_1"]


def test_the_set_aside_version_is_found_and_gets_its_name_back(tmp_path):
    path = checkpoints.save_checkpoint(tmp_path, 5, small(5), {})
    path.rename(tmp_path / ".replaced_step_5")
    assert checkpoints.load_newest(tmp_path, small(), pytest.fail)[0].name == ".replaced_step_5"
    assert directories.previous_versions(path) == [tmp_path / ".replaced_step_5"]
    checkpoints.save_checkpoint(tmp_path, 6, small(6), {})
    assert steps(tmp_path) == [5, 6]


def test_nothing_here_can_load_code():
    source = (
        Path(checkpoints.__file__).read_text()
        + Path(sys.modules["etude.storage.files"].__file__).read_text()
    )
    for word in ("pickle", "eval(", "exec(", "import_module", "__import__", "np.load"):
        assert word not in source
