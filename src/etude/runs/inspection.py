"""Inspecting a dataset: what is in it, what is wrong with it, whether it replays; converting it."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.markup import escape
from rich.table import Table

from etude.data.dataset import Dataset, episode_returns
from etude.data.faults import Fault, find_faults
from etude.environments.backends.watchdog import TIMEOUT
from etude.environments.registry import env_factory
from etude.environments.sources import environment_source
from etude.errors import InvalidInput
from etude.reporting.statistics import iqm, three_digits
from etude.runs.replay import Replay, replay_episodes
from etude.spaces import Box, EnvironmentSpec, leaves_with_path, same_space, space_to_gymnasium
from etude.storage.datasets.formats import (
    check_new_path,
    environment_of,
    read_recorded,
    write_recorded,
)
from etude.storage.datasets.minari_root import locate_dataset
from etude.storage.datasets.recorded_episodes import (
    RecordedEpisodes,
    dataset_of,
    derived_spec,
    errors_name,
)
from etude.struct import replace
from etude.trees import content_hash


class Inspection(NamedTuple):
    """What is known of a dataset in a file or a directory."""

    path: Path
    format: str  # in words, such as "Minari"
    environment_id: str  # "" where it is not known
    dataset: Dataset | None  # None where it has faults
    faults: list[Fault]  # of every kind; looked for with `check` alone
    seeds: tuple[int | None, ...]  # [episode]: of the reset
    replay: Replay | None  # where that was asked for
    notes: tuple[str, ...]  # what a reader should know, each a sentence without its full stop


def inspect_dataset(
    path: str | Path,
    *,
    environment: str | None = None,
    check: bool = False,
    replay: bool = False,
    to: str | Path | None = None,
    truncate_unfinished: bool = False,
    options: dict[str, Any] | None = None,
    frame_stack: int = 1,
    action_masks: bool = False,
) -> Inspection:
    """Read a dataset of any format that etude reads, check it, replay it and convert it.

    Its values are held against the spaces of `environment`; else those that a Minari dataset gives;
    else those of the environment that an .npz names, if Gymnasium has it; else what can be told
    from its arrays. No file makes etude import anything.

    Args:
        path: the file, the directory or the id; see `etude.read_dataset`.
        environment: the id of the environment that it was recorded in, or module:Name.
        check: look for every kind of fault, in place of raising for the first.
        replay: play the episodes again, from their seeds, on the Gymnasium environment.
        to: write the dataset there: an .npz, or a directory in Minari's layout.
        truncate_unfinished: as in `etude.make_dataset`.
        options, frame_stack, action_masks: of the environment, as in `etude.train`.

    Returns:
        What was found; with `check` the faults too.

    Raises:
        InvalidInput: naming the path, for what is not a dataset, and, without `check`, for one with
            a fault; for a replay without seeds or an environment; for `to` where it exists, or
            cannot be written.
        EnvironmentFault: where the environment fails in a replay.
    """
    path = locate_dataset(path)
    if to is not None:
        check_new_path(Path(to))
    spec = None
    if environment is not None:
        source = environment_source(environment, options, frame_stack, action_masks, TIMEOUT)
        spec = replace(source.outline(1, source.evaluation_backend).spec, num_envs=1)
    with errors_name(path):
        recorded, spec, notes = _read(path, spec)
        faults = find_faults_of(recorded, spec, truncate_unfinished) if check else []
        dataset = None if faults else dataset_of(recorded, spec, truncate_unfinished)
        if dataset is not None:
            notes += _notes(dataset)
        replayed = None
        if replay and dataset is not None:
            replayed = _replay(recorded, spec, environment, options, frame_stack, action_masks)
        if to is not None and dataset is not None:
            notes += _convert_to(Path(to), recorded, dataset, options)
    environment_id = recorded.environment_id or environment or ""
    return Inspection(
        path, recorded.format, environment_id, dataset, faults, recorded.seeds, replayed, notes
    )


def find_faults_of(
    recorded: RecordedEpisodes, spec: EnvironmentSpec, truncate_unfinished: bool
) -> list[Fault]:
    """The faults of episodes that were read, also those of arrays that do not fit their lengths."""
    try:
        by_episode = recorded.by_episode()
    except InvalidInput as error:
        return [Fault(str(error), 1, 1)]
    return find_faults(spec, by_episode.fields, truncate_unfinished=truncate_unfinished)


def inspection_table(inspection: Inspection) -> Table:
    """The table of what is in a dataset without faults."""
    dataset = inspection.dataset
    assert dataset is not None
    steps, lengths = dataset.transitions, np.asarray(dataset.episode_lengths)
    returns = episode_returns(dataset)
    deviation = returns.std(ddof=1) if len(returns) > 1 else 0.0
    terminated = int(np.asarray(steps.terminated).sum())
    num_seeds = len(inspection.seeds) - inspection.seeds.count(None)
    table = Table(title=str(inspection.path), title_justify="left", show_header=False)
    for row in (
        ("format", inspection.format),
        ("environment", inspection.environment_id or "not named"),
        ("observation space", str(space_to_gymnasium(dataset.spec.observation))),
        ("action space", str(space_to_gymnasium(dataset.spec.action))),
        ("episodes", f"{dataset.num_episodes:,}"),
        ("terminated, truncated", f"{terminated:,}, {dataset.num_episodes - terminated:,}"),
        ("steps", f"{dataset.num_steps:,}"),
        ("steps of an episode", f"{lengths.min():,} to {lengths.max():,}"),
        ("return, mean ± std", f"{three_digits(returns.mean())} ± {three_digits(deviation)}"),
        ("return, IQM", three_digits(iqm(returns))),
        ("seeds", f"of {num_seeds:,} episodes"),
        ("hash", content_hash(dataset)[:12]),
    ):
        table.add_row(*map(escape, row))
    return table


def describe_replay(replayed: Replay) -> str:
    """A replay without a difference, in words."""
    said = f"replayed {replayed.episodes:,} episodes, {replayed.steps:,} steps, bit for bit"
    if replayed.cut_off:
        said += f"; {replayed.cut_off:,} were cut off where the environment goes on"
    if replayed.without_seed:
        said += f"; {replayed.without_seed:,} have no seed and were not replayed"
    return said


def _read(path, spec) -> tuple[RecordedEpisodes, EnvironmentSpec, tuple[str, ...]]:
    """The episodes, the spaces to hold them against, and what is to be said of these."""
    notes: tuple[str, ...] = ()
    if spec is None:
        spec = _spec_of_id(environment_of(path))
    recorded = read_recorded(path, spec)
    if recorded.spec is not None:
        for role in ("observation", "action") if spec is not None else ():
            there, needed = getattr(recorded.spec, role), getattr(spec, role)
            if not same_space(there, needed):
                raise InvalidInput(
                    f"its {role} space is {there}, and that of the environment is {needed}; name "
                    "the environment that it was recorded in"
                )
        spec = recorded.spec
    elif spec is None:
        spec = derived_spec(recorded)
        notes = ("its spaces are told from its arrays; --environment gives those to check against",)
    if side_views := sum(recorded.is_side_view):
        notes += (
            f"{side_views:,} of its episodes are what side cameras saw of the others; nobody "
            "played them, so they cannot be replayed",
        )
    return recorded, spec, recorded.notes + notes


def _spec_of_id(name):
    """The spaces of an environment that a file names, None where Gymnasium does not have it."""
    if not name or ":" in name:
        return None
    try:
        source = environment_source(name)
        return replace(source.outline(1, source.evaluation_backend).spec, num_envs=1)
    except InvalidInput:
        return None


def _replay(recorded, spec, environment, options, frame_stack, action_masks):
    name = environment or recorded.environment_id
    if not name:
        raise InvalidInput("it names no environment to replay on; give one with --environment")
    if environment is None and ":" in name:
        raise InvalidInput(
            f"it names the environment {name!r}, and no file makes etude import a module; give it "
            f"with --environment {name}"
        )
    if frame_stack > 1:
        raise InvalidInput(
            f"frame_stack is {frame_stack}, and a replay compares what the environment itself "
            "observes; record without it to replay"
        )
    source = environment_source(name, options, 1, action_masks, TIMEOUT)
    there = source.outline(1, source.evaluation_backend).spec  # says where there is none
    for role in ("observation", "action"):
        if not same_space(getattr(spec, role), getattr(there, role)):
            raise InvalidInput(
                f"its {role} space is {getattr(spec, role)}, and that of {name} is "
                f"{getattr(there, role)}; name the environment that it was recorded in"
            )
    return replay_episodes(recorded, there, env_factory(name, options, action_masks=action_masks))


def _convert_to(to, recorded, dataset, options):
    """Write the episodes as they were recorded; what is lost thereby."""
    episodes = recorded.by_episode()
    ends = np.cumsum(np.asarray(dataset.episode_lengths))
    truncated = np.asarray(dataset.transitions.truncated)
    truncations = [
        truncated[end - length : end]
        for end, length in zip(ends, np.asarray(dataset.episode_lengths), strict=True)
    ]
    episodes = episodes._replace(fields=episodes.fields | {"truncations": truncations})
    try:
        write_recorded(to, dataset.spec, episodes, options)
    except OSError as error:
        raise InvalidInput(f"{to} cannot be written ({error.strerror}); choose another") from error
    return (f"written {to}",)


def _notes(dataset):
    """What is no fault and should be known: values outside their bounds, and constant ones."""
    notes = []
    spaces = leaves_with_path(dataset.spec.observation)
    for (path, space), leaf in zip(
        spaces, jax.tree.leaves(dataset.transitions.observation), strict=True
    ):
        if not isinstance(space, Box):
            continue
        array = np.asarray(leaf)
        name = "observations" + "".join(f"[{key!r}]" for key in path)
        low, high = space.bounds
        outside = int(((array < low) | (array > high)).sum())
        if outside:
            notes.append(f"{outside:,} values of {name} are outside the bounds of their space")
        if array.ndim <= 2 and len(array) > 1:
            constant = np.flatnonzero((array == array[:1]).all(0))
            if constant.size:
                what = f"{name}{constant.tolist()}" if array.ndim == 2 else name
                notes.append(f"{what} never changes")
    return tuple(notes)
