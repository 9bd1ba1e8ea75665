"""Recording: an expert plays whole episodes, which become a dataset to learn from.

`etude.runs.record_person` records a person, who plays in a window.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from etude.data.dataset import Dataset, episode_returns, make_dataset, to_recorded_arrays
from etude.environments.backends.episode_log import EpisodeSeeds
from etude.environments.backends.in_process import HostLimits
from etude.environments.backends.watchdog import TIMEOUT
from etude.environments.sources import EnvironmentLike, environment_source
from etude.errors import EnvironmentFault, ExpertFault, InvalidInput
from etude.keys import recording_key
from etude.reporting.statistics import iqm, three_digits
from etude.rollout import copies_for
from etude.runs.display import NullDisplay, cut_off_rows
from etude.runs.episode_collection import Episode, collect_episodes, lay_end_to_end, play
from etude.runs.experts import ExpertLike, expert_name, make_expert
from etude.runs.interrupt import Interrupted
from etude.runs.noisy_expert import with_noise
from etude.runs.options import AT_MOST, MAX_EVALUATION_STEPS, RunOptions, check_whole, is_person
from etude.runs.side_cameras import center_spec, side_camera_source, split_cameras, with_center_view
from etude.runs.torsos import TorsoLike
from etude.storage.datasets.formats import check_new_path, read_dataset, write_recorded
from etude.storage.datasets.npz_parts import UNFINISHED, PartsWriter
from etude.storage.datasets.recorded_episodes import RecordedEpisodes
from etude.trees import content_hash
from etude.types import Array


def record(
    environment: EnvironmentLike,
    expert: ExpertLike,
    *,
    episodes: int,
    out: str | Path | None = None,
    seed: int = 0,
    stochastic: bool = False,
    noise: float = 0.0,
    side_cameras: bool = False,
    torso: TorsoLike | None = None,
    options: dict[str, Any] | None = None,
    frame_stack: int = 1,
    action_masks: bool = False,
    environment_timeout: int = TIMEOUT,
    max_evaluation_steps: int = MAX_EVALUATION_STEPS,
    progress: bool = True,
) -> Dataset:
    """Record whole episodes of an expert; `etude.record_person` records a person.

    They are played where policies are evaluated: on the Gymnasium environment of an id, or on an
    environment itself that is given as an object. The same seed gives the same episodes, which are
    never those of a training or an evaluation with that seed (see `etude.keys`).

    Args:
        environment: as in `etude.train`.
        expert: the name of an algorithm that learns nothing, the directory of a run, or
            module:function; see `etude.runs.experts.make_expert`.
        episodes: number of episodes. They are played in up to ten copies, with as many episodes
            each, for otherwise short episodes would be recorded more often than long ones.
        out: what to write, by default nothing: an .npz (see `etude.storage.datasets.npz`), or with
            any other name a directory in Minari's layout (see `etude.storage.datasets.minari`).
            Both keep the seeds of the episodes that can be replayed. While it plays, the episodes
            that have ended are in the folder OUT.unfinished, at most a second or a long step later,
            so a crash does not lose them; see `etude.storage.datasets.npz_parts`.
        seed: seed of the episodes and of the expert.
        stochastic: act as in training, in place of the policy that is evaluated.
        noise: how much the actions that are executed differ from those of the expert, which are
            recorded: the standard deviation of normal noise for real actions, where bounded ones
            are in [-1, 1], and for choices the probability of a random one, which may be the
            expert's own. So the states after mistakes are shown, with the way back. Such episodes
            cannot be replayed.
        side_cameras: record three episodes for each one played: what the environment's own camera
            sees, then what the ones to its left and right see, with the expert's action corrected
            towards the middle; see `etude.environments.wrappers.side_views`.
        torso: that of the run that is the expert, if it has one; see `etude.load`.
        options, frame_stack, action_masks, environment_timeout, max_evaluation_steps: as in
            `etude.train`. An episode that is cut off is truncated.
        progress: show the progress, and a table of the result.

    Returns:
        The dataset, one episode after another. With `out` it is read from there.

    Raises:
        InvalidInput: for arguments that do not fit, before anything is played; and where the disk
            refuses what is written.
        EnvironmentFault: where the environment fails.
        ExpertFault: where a function that acts as the expert fails.
        Interrupted: after Ctrl-C; `out` is not written, and whole episodes are in OUT.unfinished.
    """
    RunOptions(
        seed=seed,
        frame_stack=frame_stack,
        action_masks=action_masks,
        options=options or {},
        environment_timeout=environment_timeout,
        max_evaluation_steps=max_evaluation_steps,
    ).validate_fields()
    check_whole("episodes", episodes, 1, AT_MOST["evaluation_episodes"])
    if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise <= 1:
        raise InvalidInput(f"noise is {noise!r}; it must be a number from 0 to 1")
    if is_person(expert):
        raise InvalidInput(f"expert is {expert}; record a person with etude.record_person")
    path = None
    if out is not None:
        check_new_path(Path(out))
        PartsWriter.check_unused(parts_folder(Path(out)))
        path = Path(out).absolute()  # before an environment can change the working directory
    make_source = side_camera_source if side_cameras else environment_source
    source = make_source(environment, options, frame_stack, action_masks, environment_timeout)
    environments = source.make(
        copies_for(episodes), source.evaluation_backend, limits=HostLimits(max_evaluation_steps)
    )
    with closing(environments), ExitStack() as stack:
        spec = center_spec(environments.spec) if side_cameras else environments.spec
        if path is not None:
            check_new_path(path, spec)
        key = jax.random.key(seed)
        player = make_expert(expert, environment, spec, key, NullDisplay().warn, torso)
        player = with_noise(player, spec, noise)
        if side_cameras:
            player = with_center_view(player, spec)
        key_episodes = recording_key(seed)
        # an environment in JAX is reset with a key; and with noise other actions are recorded than
        # were executed
        is_replayable = source.evaluation_backend == "gymnasium" and not noise
        seeds: tuple[int | None, ...] = (None,) * episodes
        if is_replayable:
            seeds = reset_seeds(key_episodes, spec.num_envs, episodes)
        parts = None
        if path is not None:
            parts = stack.enter_context(PartsWriter(parts_folder(path), spec))

        def to_recorded(played: Sequence[Episode]) -> RecordedEpisodes:
            dataset = lay_end_to_end(played, spec)
            own_seeds = tuple(seeds[episode.number] for episode in played)
            if side_cameras:
                return split_cameras(dataset, spec, own_seeds)
            recorded = to_recorded_arrays(dataset)
            return RecordedEpisodes("etude", spec.id, spec, recorded, own_seeds)

        chunks = play(environments, player, key_episodes, episodes, stochastic)
        with told_of_parts(parts, out):
            played = collect_episodes(environments, chunks, episodes, to_recorded, parts, progress)
        recorded = to_recorded(played)
        dataset = make_dataset(spec, **recorded.fields)  # with actions within their bounds
        if path is not None and parts is not None:
            with told_of_parts(parts, out):
                write_recorded(path, spec, recorded, options)
            parts.discard()
            dataset = read_dataset(path, spec)
    if progress:
        console = Console(highlight=False)
        drives = lay_end_to_end(played, spec)
        table = recording_table(
            drives, dataset, expert_name(expert), source.name, max_evaluation_steps
        )
        console.print(table)
        if out is not None:
            console.print(f"written {out}", soft_wrap=True, markup=False)
    return dataset


def parts_folder(path: Path) -> Path:
    """The folder that has the episodes of a recording until its dataset is written."""
    return path.with_name(path.name + UNFINISHED)


@contextmanager
def told_of_parts(parts: PartsWriter | None, out: str | Path | None) -> Iterator[None]:
    """Where the block fails, the error says where the episodes that had ended are.

    What the disk refuses, as where it is full, is InvalidInput.
    """
    try:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise InvalidInput(f"{out} cannot be written ({reason}); make room for it") from error
    except (Interrupted, InvalidInput, EnvironmentFault, ExpertFault) as error:
        if parts is None or not parts.num_episodes:
            raise
        folder = f"{out}{UNFINISHED}"
        said = (
            f"{error}; {parts.num_episodes:,} whole episodes are kept in {folder}, of which "
            f"`etude dataset {folder} --to {out}` makes a dataset"
        )
        if isinstance(error, Interrupted):
            raise Interrupted(said, error.signal) from None
        raise type(error)(said) from error.__cause__


def reset_seeds(key: Array, num_envs: int, episodes: int) -> tuple[int | None, ...]:
    """The seeds with which `play` begins the episodes on Gymnasium, those of each copy in turn."""
    key_reset, _ = jax.random.split(key)
    seed = int(jax.random.bits(key_reset))  # as the environments draw it
    copies = [EpisodeSeeds(seed, copy) for copy in range(num_envs)]
    return tuple(seeds(number) for seeds in copies for number in range(episodes // num_envs))


def recording_table(
    played: Dataset, dataset: Dataset, expert: str, environment: str, max_steps: int
) -> Table:
    """The table of what was recorded.

    `dataset` has the episodes that were `played`, and those of side cameras.
    """
    returns = episode_returns(played)
    spread = returns.std(ddof=1) if len(returns) > 1 else 0.0
    side_views = dataset.num_episodes - played.num_episodes
    of_sides = f", and {side_views:,} of side cameras" if side_views else ""
    table = Table(title="recorded", title_justify="left", show_header=False)
    for row in (
        ("expert", expert),
        ("environment", environment),
        ("episodes", f"{played.num_episodes:,}{of_sides}"),
        ("steps", f"{played.num_steps:,}"),
        ("return, mean ± std", f"{three_digits(returns.mean())} ± {three_digits(spread)}"),
        ("return, IQM", three_digits(iqm(returns))),
        *cut_off_rows(
            int((played.episode_lengths >= max_steps).sum()), played.num_episodes, max_steps
        ),
        ("hash", content_hash(dataset)[:12]),
    ):
        table.add_row(*map(escape, row))
    return table
