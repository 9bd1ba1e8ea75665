"""Datasets in Arrow and Parquet: imitation's folders, LeRobot's and Minari's, and hostile files."""

import json
import os
import shutil

import gymnasium
import gymnasium_spaces
import jax
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from two_episodes import (
    ACTIONS,
    OBSERVATIONS,
    REWARDS,
    SPEC,
    TERMINATED,
    assert_same,
    expected,
    refusal,
)

import etude
from etude.errors import InvalidInput
from etude.runs.inspection import inspect_dataset
from etude.runs.options import RunOptions
from etude.runs.train import resolve_settings
from etude.spaces import Box, Composite, Discrete, space_from_gymnasium
from etude.storage.datasets import budget
from etude.storage.datasets.arrow import read_tables, rows_of
from etude.storage.datasets.formats import read_dataset, read_recorded
from etude.storage.datasets.minari import read_minari
from etude.storage.datasets.recorded_episodes import FIELDS
from etude.storage.files import CorruptFile
from etude.struct import replace

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Minari's, of missing authors


def write_json(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


# imitation


EXPLOIT = '{"py/reduce": [{"py/function": "os.mkdir"}, {"py/tuple": ["trap"]}]}'


def stream(path, table, **options):
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as file:
        file.write_table(table)


def imitation(path, leave_out=(), **changes):
    """A folder with an episode in each of two files, as `datasets` saves it."""
    path.mkdir(exist_ok=True)
    columns = {
        "obs": [x.tolist() for x in OBSERVATIONS],
        "acts": [x.tolist() for x in ACTIONS],
        "infos": [[EXPLOIT] * 3, [EXPLOIT] * 2],
        "terminal": [True, False],
        "rews": [x.tolist() for x in REWARDS],
    } | changes
    names = [f"data-{i:05}-of-00002.arrow" for i in range(2)]
    for row, name in enumerate(names):
        table = {key: column[row : row + 1] for key, column in columns.items()}
        stream(path / name, pa.table({k: v for k, v in table.items() if k not in leave_out}))
    write_json(path / "state.json", {"_data_files": [{"filename": name} for name in names]})
    write_json(path / "dataset_info.json", {"features": {}})
    return path


def test_a_folder_of_imitation_is_read_without_its_infos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = imitation(tmp_path / "rollouts")
    assert "episode 1, step 1: truncations is False" in refusal(path)
    assert_same(read_dataset(path, SPEC, truncate_unfinished=True), expected())
    assert not (tmp_path / "trap").exists()
    without = read_recorded(imitation(path, leave_out=("rews", "infos")))
    assert without.notes[1] == "it has no rewards, which are zero here"
    assert [len(rewards) for rewards in without.fields["rewards"]] == [3, 2]
    pictures = np.arange(7 * 2 * 3 * 3, dtype=np.uint8).reshape(7, 2, 3, 3)
    read = read_recorded(imitation(path, obs=[pictures[:4].tolist(), pictures[4:].tolist()]))
    np.testing.assert_array_equal(np.concatenate(read.fields["observations"]), pictures)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"leave_out": ("acts",)}, "it has no column 'acts'; there are 'obs', 'infos', 'terminal'"),
        ({"obs": [x[:-1].tolist() for x in OBSERVATIONS]}, "has 3 rows, as many as there are st"),
        ({"obs": [[[1.0], [1.0, 2.0]]] * 2}, "'obs' has rows of 1 to 2 numbers; give rows of one"),
        ({"obs": [[[1.0, None]]] * 2}, "'obs' lacks 1 values"),
        ({"acts": [["a"] * 3, ["b"] * 2]}, "'acts' has the type string; only numbers are read"),
        ({"terminal": [[True], [False]]}, "terminal is not a flag of each episode"),
    ],
)
def test_faults_of_a_folder_of_imitation_are_named(tmp_path, changes, message):
    assert message in refusal(imitation(tmp_path / "a", **changes), truncate_unfinished=True)


@pytest.mark.parametrize("name", ["../other.arrow", "/etc/passwd", "a/b.arrow", ".hidden.arrow", 3])
def test_a_folder_of_imitation_names_no_file_elsewhere(tmp_path, name):
    path = imitation(tmp_path / "a")
    write_json(path / "state.json", {"_data_files": [{"filename": name}]})
    assert "state.json names the file" in refusal(path)
    write_json(path / "state.json", {"_data_files": "all"})
    assert "state.json names no files" in refusal(path)
    shutil.rmtree(path)
    write_json(path / "dataset_dict.json", {"splits": ["train"]})
    assert "it holds several datasets of HuggingFace's" in refusal(path)


# LeRobot


def feature(dtype, *shape):
    return {"dtype": dtype, "shape": list(shape), "names": None}


FEATURES = {
    "observation.state": feature("float32", 2),
    "action": feature("float32", 1),
    "episode_index": feature("int64", 1),
    "frame_index": feature("int64", 1),
    "next.reward": feature("float32", 1),
    "next.done": feature("bool", 1),
}


def lerobot(path, leave_out=(), features=FEATURES, info=(), files=((0, 0), (1, 0)), **columns):
    """A folder of version 3, of which each file has an episode; a list of one number is written as
    the number."""
    lengths = [len(x) for x in ACTIONS]
    columns = {
        "observation.state": np.concatenate([x[:-1] for x in OBSERVATIONS]).astype("f4"),
        "action": np.concatenate(ACTIONS).astype("f4")[:, 0],
        "episode_index": np.repeat([0, 1], lengths),
        "frame_index": np.concatenate([np.arange(n) for n in lengths]),
        "next.reward": np.concatenate(REWARDS).astype("f4"),
        "next.done": np.concatenate(TERMINATED),
        "timestamp": np.arange(5) / 10,
    } | columns
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
        if np.ndim(x) == 2
        else pa.array(x)
        for name, x in columns.items()
        if name not in leave_out
    }
    table = pa.table(arrays)
    for number, (chunk, file) in enumerate(files):
        folder = path / "data" / f"chunk-{chunk:03}"
        folder.mkdir(parents=True, exist_ok=True)
        of_file = table.filter(pa.array(np.asarray(table["episode_index"]) == number))
        pq.write_table(of_file, folder / f"file-{file:03}.parquet")
    features = {name: x for name, x in features.items() if name not in leave_out}
    described = {"codebase_version": "v3.0", "total_frames": 5, "total_episodes": 2}
    write_json(path / "meta" / "info.json", described | {"features": features} | dict(info))
    return path


def without_ends(dataset):
    """The dataset as it is without the observations after the last steps."""
    steps, ends = dataset.transitions, np.array([2, 4])
    last = np.asarray(steps.next_observation).copy()
    last[ends] = np.asarray(steps.observation)[ends]
    steps = replace(steps, next_observation=jax.numpy.asarray(last))
    return replace(dataset, transitions=steps, has_last_observations=False)


def test_lerobot_is_read(tmp_path):
    assert_same(read_dataset(lerobot(tmp_path / "a"), SPEC), without_ends(expected()))
    notes = read_recorded(tmp_path / "a").notes
    assert "the observation after the last step of an episode is not in it" in notes[0]
    # of version 2, with a file for each episode, and rows in any order
    columns = {"frame_index": [2, 1, 0, 0, 1], "next.done": [True, False, False, False, False]}
    turned = {"observation.state": np.float32([[4, 5], [2, 3], [0, 1], [10, 11], [12, 13]])}
    turned |= {"action": np.float32([1, -0.5, 0.5, 0.25, 0]), "next.reward": [3.0, 2, 1, 4, 5]}
    older = lerobot(
        tmp_path / "b",
        info={"codebase_version": "v2.1"},
        files=((0, 0), (0, 1)),
        **columns | turned,
    )
    assert_same(read_dataset(older, SPEC), without_ends(expected()))
    bare = read_recorded(lerobot(tmp_path / "c", leave_out=("next.reward", "next.done")))
    assert "it has no rewards, which are zero here" in bare.notes
    assert "it does not say how episodes end: their last steps are truncated" in bare.notes
    assert [x.tolist() for x in bare.fields["truncations"]] == [[False, False, True], [False, True]]


def test_the_observations_of_a_dict_are_those_of_its_keys_and_numbers_are_numbers(tmp_path):
    features = FEATURES | {
        "observation.height": feature("float32", 1),
        "observation.images.top": feature("video", 3, 8, 8),
        "action": feature("int64", 1),
    }
    path = lerobot(
        tmp_path / "a",
        features=features,
        **{"observation.height": np.float32([1, 2, 3, 4, 5]), "action": np.arange(5) % 3},
    )
    parts = Composite((Box(()), Box((2,))), ("height", "state"))
    dataset = read_dataset(path, replace(SPEC, observation=parts, action=Discrete(3)))
    np.testing.assert_array_equal(dataset.transitions.observation["height"], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(dataset.transitions.action, np.arange(5) % 3)
    assert "observation.height, observation.images.top are left out" in read_recorded(path).notes[1]
    assert "actions are whole numbers, and LeRobot files do not say" in refusal(path, None)
    camera = Composite((Box((3, 8, 8), "uint8", 0, 255),), ("images.top",))
    message = refusal(path, replace(SPEC, observation=camera))
    assert "are pictures (observation.images.top), which are not read; decode them with" in message


def test_what_needs_the_last_observations_is_refused_by_name(tmp_path):
    spec = etude.make("CartPole-v1").spec
    arrays = {"observation.state": np.ones((5, 4), np.float32), "action": np.arange(5) % 2}
    features = {"observation.state": feature("float32", 4), "action": feature("int64", 1)}
    path = lerobot(tmp_path / "a", features=FEATURES | features, **arrays)
    ask = lambda algorithm, **options: resolve_settings(
        algorithm, "CartPole-v1", RunOptions(steps=2_000, dataset=path, **options)
    )
    assert ask(etude.BC()).dataset.episodes == 2
    with pytest.raises(
        InvalidInput, match=r"fitted-q learns from what each step led to, and the obser"
    ):
        ask(etude.FittedQ())
    dataset = read_dataset(path, spec)
    with pytest.raises(
        InvalidInput, match="after the last steps of its episodes were not recorded"
    ):
        etude.write_dataset(tmp_path / "b.npz", dataset)
    with pytest.raises(
        InvalidInput, match="after the last steps of its episodes were not recorded"
    ):
        inspect_dataset(path, to=tmp_path / "b", environment="CartPole-v1")
    assert [x.name for x in tmp_path.iterdir()] == ["a"]
    assert inspect_dataset(path, check=True, environment="CartPole-v1").faults == []


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"leave_out": ("action",)}, "has no feature 'action'"),
        ({"leave_out": ("observation.state",)}, "it has no feature 'observation.state'; those of"),
        ({"info": {"codebase_version": "v1.6"}}, "its codebase_version is 'v1.6', and v2 and v3"),
        ({"info": {"features": []}}, "has no object of features"),
        ({"info": {"features": {"action": {"shape": [1]}}}}, "without a dtype and a shape"),
        ({"info": {"total_frames": 6}}, "gives '6' as total_frames, and in the files there are 5"),
        ({"info": {"total_episodes": 1}}, "gives '1' as total_episodes"),
        ({"frame_index": [0, 1, 3, 0, 1]}, "episode 0 has no frame 2, or has it twice"),
        ({"observation.state": np.zeros((5, 3))}, "has rows of the shape (3,), and "),
        ({"action": np.full(5, 2.0)}, "episode 0, step 0: actions[0] is 2.0; its space is"),
        ({"files": ()}, "it has no data/chunk-000/….parquet; copy the whole directory"),
        (
            {
                "features": {"observation.image": feature("image", 3, 8, 8)},
                "leave_out": ("observation.state",),
            },
            "the observations in it are pictures (observation.image)",
        ),
    ],
)
def test_faults_of_lerobot_are_named(tmp_path, changes, message):
    assert message in refusal(lerobot(tmp_path / "a", **changes))


def test_links_that_lead_out_of_the_folder_are_refused(tmp_path):
    secret = lerobot(tmp_path / "secret") / "data" / "chunk-000"
    path = lerobot(tmp_path / "a")
    file = path / "data" / "chunk-000" / "file-000.parquet"
    file.unlink()
    file.symlink_to(secret / "file-000.parquet")
    assert "file-000.parquet in chunk-000 is a link, and links are not followed" in refusal(path)
    shutil.rmtree(file.parent)
    file.parent.symlink_to(secret)
    assert "chunk-000 in data is a link" in refusal(path)
    shutil.rmtree(path / "data")
    (path / "data").symlink_to(secret.parent)
    assert "it has no data/chunk-000" in refusal(path)
    folder = imitation(tmp_path / "b")
    shard = folder / "data-00000-of-00002.arrow"
    shard.rename(tmp_path / "moved")
    shard.symlink_to(tmp_path / "moved")
    assert "is not a plain file" in refusal(folder)


# Minari


def written_by_minari(name, observation_space, action_space, data_format):
    episodes = [
        {
            "observations": gymnasium_spaces.stacked(observation_space, steps + 1),
            "actions": gymnasium_spaces.stacked(action_space, steps),
            "rewards": np.arange(steps) / 7,
            "terminations": np.arange(steps) == steps - 1,
            "truncations": np.zeros(steps, bool),
        }
        for steps in (4, 1)
    ]
    minari.create_dataset_from_buffers(
        name,
        [
            minari.data_collector.EpisodeBuffer(id=i, seed=7 + i, **given)
            for i, given in enumerate(episodes)
        ],
        observation_space=observation_space,
        action_space=action_space,
        data_format=data_format,
    )
    return episodes


@pytest.mark.parametrize(
    "data_format", ["arrow", pytest.param("parquet", marks=pytest.mark.system)]
)
@pytest.mark.parametrize("kind", gymnasium_spaces.OBSERVATIONS)
def test_etude_reads_what_minari_wrote(tmp_path, monkeypatch, kind, data_format):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    observation_space = gymnasium_spaces.OBSERVATIONS[kind]
    action_space = gymnasium_spaces.ACTIONS["multidiscrete"]
    episodes = written_by_minari("made-v3", observation_space, action_space, data_format)
    read = read_recorded("made-v3")  # by its id
    assert read.seeds == (7, 8) and not read.notes
    assert read.spec.observation == space_from_gymnasium(observation_space)
    jax.tree.map(
        np.testing.assert_array_equal,
        read.fields,
        {field: [given[field] for given in episodes] for field in read.fields},
    )


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_pictures_in_arrow_are_those_that_minari_reads(tmp_path, monkeypatch, data_format):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    space = gymnasium.spaces.Box(0, 255, (33, 40, 3), np.uint8)
    written_by_minari("pictures-v0", space, gymnasium.spaces.Discrete(2), data_format)
    read = read_minari(tmp_path / "pictures-v0")
    by_minari = [*minari.load_dataset("pictures-v0").iterate_episodes()]
    for there, episode in zip(read.fields["observations"], by_minari, strict=True):
        np.testing.assert_array_equal(there, episode.observations)
    assert len(read.notes) == 1 and "JPEG" in read.notes[0]


def test_faults_of_minaris_arrow_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    spaces = gymnasium_spaces.OBSERVATIONS["box"], gymnasium_spaces.ACTIONS["discrete"]
    written_by_minari("a-v0", *spaces, "arrow")
    path, folder = tmp_path / "a-v0", tmp_path / "a-v0" / "data"

    def read():
        with pytest.raises(InvalidInput) as refused:
            read_minari(path)
        return str(refused.value)

    (of_episode,) = (folder / "0").glob("*.arrow")
    shutil.copy(of_episode, folder / "0" / "part-1.arrow")
    assert "the folder of episode 0 has 2 files of arrow, and one is read" in read()
    (folder / "0" / "part-1.arrow").unlink()
    write_json(folder / "0" / "metadata.json", {"id": 1, "total_steps": 4})
    assert "the folder 0 has the id '1'" in read()
    write_json(folder / "0" / "metadata.json", {"id": 0, "total_steps": 5})
    assert "episode 0 has 5 rows, and its metadata.json does not give 4 as total_steps" in read()
    (folder / "0").rename(folder / "5")
    assert "it has no folder of episode 0" in read()
    (folder / "0").symlink_to(folder / "5")
    assert "0 in data is a link" in read()
    metadata = json.loads((folder / "metadata.json").read_text())
    write_json(folder / "metadata.json", metadata | {"total_episodes": 2**31 - 1})
    (folder / "0").unlink()
    assert "it has no folder of episode 0" in read()


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_the_padding_of_a_step_may_be_missing(tmp_path, monkeypatch, kind):
    """Minari pads the actions of some spaces with None."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    spaces = gymnasium_spaces.OBSERVATIONS["box"], gymnasium_spaces.ACTIONS["discrete"]
    episodes = written_by_minari("a-v0", *spaces, kind)
    (file,) = (tmp_path / "a-v0" / "data" / "0").glob(f"*.{kind}")
    (columns,) = read_tables(file.parent, [file.name], FIELDS)
    table = {name: column.to_pylist() for name, column in columns.items()}
    table["actions"][-1] = None
    file.unlink()
    if kind == "parquet":
        pq.write_table(pa.table(table), file)
    else:
        stream(file, pa.table(table))
    actions = read_minari(tmp_path / "a-v0").fields["actions"]
    np.testing.assert_array_equal(actions[0], episodes[0]["actions"])


# Hostile files


def one_column(path, array, **options):
    """A file of Arrow's with a column x, and what is read of it."""
    stream(path / "a", pa.table({"x": array}), **options)
    return [rows_of(table["x"], "x") for table in read_tables(path, ["a"], ["x"])]


def test_only_plain_columns_are_read(tmp_path):
    (rows,) = one_column(tmp_path, pa.array([[[1, 2]], [[3, 4]]]))
    np.testing.assert_array_equal(rows, [[[1, 2]], [[3, 4]]])
    (rows,) = one_column(tmp_path, pa.array([], pa.float32()))
    assert rows.shape == (0,)
    with pytest.raises(CorruptFile, match="its parts are compressed; write it without"):
        one_column(tmp_path, pa.array(np.zeros(99)), compression="zstd")
    with pytest.raises(CorruptFile, match="a part of the type dictionary"):
        one_column(tmp_path, pa.array([1.0, 1.0]).dictionary_encode())
    with pytest.raises(CorruptFile, match="'x' has the type timestamp"):
        one_column(tmp_path, pa.array([1, 2], pa.timestamp("s")))


@pytest.mark.parametrize("name", [b"arrow.py_extension_type", b"arrow.json", b"any.other"])
def test_extension_types_are_refused_wherever_they_are(tmp_path, name):
    tag = {b"ARROW:extension:name": name, b"ARROW:extension:metadata": b"cos\nsystem\n"}
    kind = pa.utf8() if name == b"arrow.json" else pa.binary()
    for field, value in (
        (pa.field("x", kind, metadata=tag), [b"{}"]),
        (pa.field("x", pa.list_(pa.field("item", kind, metadata=tag))), [[b"{}"]]),
    ):
        table = pa.table([pa.array(value, field.type)], schema=pa.schema([field]))
        stream(tmp_path / "a", table)
        pq.write_table(table, tmp_path / "b")
        for file in "ab":
            with pytest.raises(InvalidInput, match="'x' has an extension type, and only plain"):
                [*read_tables(tmp_path, [file], ["x"])]


def test_sizes_that_lie_are_refused_unread(tmp_path, monkeypatch):
    """A few bytes of Parquet that are many numbers."""
    pq.write_table(pa.table({"x": np.zeros(2**20)}), tmp_path / "b")
    assert os.path.getsize(tmp_path / "b") < 2**14
    read = lambda: [*read_tables(tmp_path, ["b"], ["x"])]
    assert len(read()[0]["x"]) == 2**20
    lists = pa.array([np.zeros(9).tolist()] * 2**14)
    pq.write_table(pa.table({"x": lists}), tmp_path / "c")
    (table,) = read_tables(tmp_path, ["c"], ["x"])
    assert rows_of(table["x"], "x").shape == (2**14, 9)
    monkeypatch.setattr(budget, "SMALL", 2**20)
    monkeypatch.setattr(budget, "LARGEST_RATIO", 1)
    with pytest.raises(CorruptFile, match="with 'x' its arrays would take more than 1,048,576"):
        [*read_tables(tmp_path, ["c"], ["x"])]
    monkeypatch.setattr(pa.parquet.ParquetFile, "iter_batches", lambda *_: pytest.fail("read"))
    with pytest.raises(CorruptFile, match="with 'x' its arrays would take more than"):
        read()


@pytest.mark.parametrize("kind", ["stream", "file", "parquet"])
def test_a_file_that_is_cut_off_or_changed_is_read_or_refused(tmp_path, kind):
    """Never as fewer rows, and never with another error."""
    table = pa.table({"x": np.arange(6.0), "y": [[1, 2]] * 6})
    path = tmp_path / "a"
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "file":
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    else:
        stream(path, table)
    whole = path.read_bytes()
    read = lambda: [rows_of(t[n], n) for t in read_tables(tmp_path, ["a"], ["x", "y"]) for n in t]
    assert [len(rows) for rows in read()] == [6, 6]
    for length in range(0, len(whole), 31):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFile):
            read()
    rng = np.random.default_rng(0)
    for index in rng.integers(len(whole), size=20):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 255]) + whole[index + 1 :])
        try:
            assert {len(rows) for rows in read()} == {6}
        except InvalidInput:
            continue


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    path = lerobot(tmp_path / "a")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    for folder in (path, imitation(tmp_path / "b")):
        assert 'pip install "etude[parquet]"' in refusal(folder)
