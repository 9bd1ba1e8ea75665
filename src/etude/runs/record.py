"""Recording: an expert plays whole episodes, which become a dataset to learn from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from etude.algorithms.protocol import Expert
from etude.data.dataset import Dataset, episode_returns, make_dataset, to_recorded_arrays
from etude.data.transition import Transition
from etude.environments.backends.episode_log import EpisodeSeeds
from etude.environments.backends.in_process import HostLimits
from etude.environments.backends.watchdog import TIMEOUT
from etude.environments.protocol import Environment
from etude.environments.sources import EnvironmentLike, environment_source
from etude.errors import EnvironmentFault, ExpertFault, InvalidInput
from etude.reporting.statistics import iqm, three_digits
from etude.rollout import bind_policy, copies_for, init_rollout_state, rollout
from etude.runs.display import NullDisplay, StatusLine, cut_off_rows
from etude.runs.evaluation import final_evaluation_key
from etude.runs.experts import ExpertLike, expert_name, make_expert
from etude.runs.interrupt import Interrupted, InterruptHandler
from etude.runs.noisy_expert import NoisyMemory, with_noise
from etude.runs.options import (
    AT_MOST,
    MAX_EVALUATION_STEPS,
    RunOptions,
    check_whole,
    is_person,
    refuse_without_person,
)
from etude.runs.record_person import check_person, record_person
from etude.runs.side_cameras import center_spec, side_camera_source, split_cameras, with_center_view
from etude.runs.torsos import TorsoLike
from etude.spaces import EnvironmentSpec
from etude.storage.datasets.formats import check_new_path, read_dataset, write_recorded
from etude.storage.datasets.npz_parts import UNFINISHED, PartsWriter
from etude.storage.datasets.recorded_episodes import RecordedEpisodes
from etude.struct import replace
from etude.training import run_compiled
from etude.trees import content_hash
from etude.types import Array

CHUNK_SECONDS = 1.0
CHUNK_BYTES = 2**26  # of the transitions of a chunk
MAX_CHUNK = 1024  # steps


def record(
    environment: EnvironmentLike,
    expert: ExpertLike,
    *,
    episodes: int | None = None,
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
    keys: str | None = None,
    speed: float = 1.0,
    wait: bool = False,
    mouse: bool = False,
    progress: bool = True,
) -> Dataset:
    """Record whole episodes of an expert.

    They are played where policies are evaluated: on the Gymnasium environment of an id, or on an
    environment itself that is given as an object. The same seed gives the same episodes, which are
    those of `Run.evaluate` with that seed where the expert is a run.

    Args:
        environment: as in `etude.train`.
        expert: the name of an algorithm that learns nothing, the directory of a run, or
            module:function; see `etude.runs.experts.make_expert`. With person it is whoever sits at
            the keyboard, who plays in a window; see `etude.runs.record_person`.
        episodes: number of episodes. They are played in up to ten copies, with as many episodes
            each, for otherwise short episodes would be recorded more often than long ones. A person
            alone may leave it out, and stop at any time.
        out: what to write, by default nothing: an .npz (see `etude.storage.datasets.npz`), or with
            any other name a directory in Minari's layout (see `etude.storage.datasets.minari`).
            Both keep the seeds of the episodes. While it plays, the episodes that have ended are
            kept in the folder OUT.unfinished, at most a second or a long step later, so a crash
            does not lose them; see `etude.storage.datasets.npz_parts`.
        seed: seed of the episodes and of the expert.
        stochastic: act as in training, in place of the deterministic policy.
        noise: how much the actions that are executed differ from those of the expert, which are
            recorded: the standard deviation of normal noise for real actions, where bounded ones
            are in [-1, 1], and for choices the probability of a random one. So the states after
            mistakes are shown, with the way back. Such episodes cannot be replayed.
        side_cameras: record three episodes for each one played: what the environment's own camera
            sees, then what the ones to its left and right see, with the expert's action corrected
            towards the middle; see `etude.environments.wrappers.side_views`.
        torso: that of the run that is the expert, if it has one; see `etude.load`.
        options, frame_stack, action_masks, environment_timeout, max_evaluation_steps: as in
            `etude.train`. An episode that is cut off is truncated.
        keys, speed, wait, mouse: how a person plays; see `etude.runs.record_person.record_person`.
        progress: show the progress, and a table of the result.

    Returns:
        The dataset, one episode after another. With `out` it is read from there.

    Raises:
        InvalidInput: for arguments that do not fit, before anything is played.
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
        expert=expert,
        keys=keys,
        speed=speed,
    ).validate_fields()
    refuse_without_person(expert, wait=wait, mouse=mouse)
    if episodes is None and not is_person(expert):
        raise InvalidInput("episodes is missing; a person alone stops without a number of them")
    if episodes is not None:
        check_whole("episodes", episodes, 1, AT_MOST["evaluation_episodes"])
    if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise <= 1:
        raise InvalidInput(f"noise is {noise!r}; it must be a number from 0 to 1")
    # before an environment can change the working directory
    path = None if out is None else Path(out).absolute()
    if is_person(expert):
        source = environment_source(
            environment, options, frame_stack, action_masks, environment_timeout
        )
        check_person(
            source,
            out=None if out is None else Path(out),
            stochastic=stochastic,
            noise=noise,
            side_cameras=side_cameras,
            torso=torso,
            frame_stack=frame_stack,
            action_masks=action_masks,
            keys=keys,
            mouse=mouse,
        )
        return record_person(
            source,
            cast(Path, path),
            episodes=episodes,
            seed=seed,
            keys=keys,
            speed=speed,
            wait=wait,
            mouse=mouse,
            options=options,
            max_steps=max_evaluation_steps,
            progress=progress,
        )
    assert episodes is not None  # as was checked
    if out is not None:
        check_new_path(Path(out))
        PartsWriter.check_unused(parts_folder(Path(out)))
    make_source = side_camera_source if side_cameras else environment_source
    source = make_source(environment, options, frame_stack, action_masks, environment_timeout)
    key = jax.random.key(seed)
    environments = source.make(
        copies_for(episodes), source.evaluation_backend, limits=HostLimits(max_evaluation_steps)
    )
    with closing(environments), ExitStack() as stack:
        spec = center_spec(environments.spec) if side_cameras else environments.spec
        if path is not None:
            check_new_path(path, spec)
        player = make_expert(expert, environment, spec, key, NullDisplay().warn, torso)
        player = with_noise(player, spec, noise)
        if side_cameras:
            player = with_center_view(player, spec)
        # as Run.evaluate has for its first seed
        key_episodes = final_evaluation_key(seed, 0)
        seeds = reset_seeds(key_episodes, spec.num_envs, episodes)
        if source.evaluation_backend != "gymnasium" or noise:
            # an environment in JAX begins with keys; and other actions are recorded than executed
            seeds = (None,) * len(seeds)
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
            write_recorded(path, spec, recorded, options)
            parts.discard()
            dataset = read_dataset(path, spec)
    if progress:
        console = Console(highlight=False)
        table = recording_table(dataset, expert_name(expert), source.name, max_evaluation_steps)
        console.print(table)
        if out is not None:
            console.print(f"written {out}", soft_wrap=True, markup=False)
    return dataset


def parts_folder(path: Path) -> Path:
    """The folder that has the episodes of a recording until its dataset is written."""
    return path.with_name(path.name + UNFINISHED)


@contextmanager
def told_of_parts(parts: PartsWriter | None, out: str | Path | None) -> Iterator[None]:
    """Where something ends the block early, its message says where the episodes before are."""
    try:
        yield
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


class Chunk(NamedTuple):
    """Some steps of all copies, and how far the recording is after them."""

    transitions: Transition  # [time, env, ...], NumPy arrays
    episodes: int  # complete ones since the start, of those that count


class Episode(NamedTuple):
    """A whole episode of one of the copies."""

    number: int  # in the dataset: those of the first copy come first
    transitions: Transition  # [step, ...], NumPy arrays


def play(
    environment: Environment, player: Expert, key: Array, episodes: int, explore: bool
) -> Iterator[Chunk]:
    """Play until every copy has its share of `episodes`, in chunks of about a second of work.

    What is played does not depend on where chunks end: the keys are those of `evaluate`.
    """
    share = episodes // environment.spec.num_envs
    key_reset, key_steps = jax.random.split(key)

    @jax.jit
    def start(player, key):
        policy = bind_policy(player.policy, player.state, environment, explore)
        return init_rollout_state(environment, policy, key)

    play_chunk = chunk_player(environment, share, explore)
    rollout_state = run_compiled(start, player, key_reset)
    counts, time, limit = np.zeros(environment.spec.num_envs, np.int32), 0, 1
    while (counts < share).any():
        start_time = perf_counter()
        rollout_state, counts, steps, length = run_compiled(
            play_chunk, player, key_steps, rollout_state, counts, time, limit
        )
        counts = np.asarray(counts)
        time += int(length)
        rate = int(length) / (perf_counter() - start_time)
        limit = max(1, min(int(CHUNK_SECONDS * rate), 4 * limit))
        yield Chunk(first_rows(steps, int(length)), int(np.minimum(counts, share).sum()))


def chunk_player(environment: Environment, share: int, explore: bool):
    """The compiled function that plays at most `limit` steps, or until all have their share.

    It takes (player, key, rollout state, episodes of each copy [env], time, limit), where time
    counts the steps before, and returns the next rollout state and episodes, transitions
    [capacity, env, ...] and how many of these are played.
    """

    def step(player, rollout_state, key):
        policy = bind_policy(player.policy, player.state, environment, explore)
        rollout_state, transition, _ = rollout(environment, policy, rollout_state, key, length=1)
        if isinstance(transition.memory, NoisyMemory):
            transition = replace(transition, action=transition.memory.label)
        return rollout_state, replace(transition, memory=())

    @jax.jit
    def play_chunk(player, key, rollout_state, counts, time, limit):
        _, one_step = jax.eval_shape(step, player, rollout_state, key)
        step_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(one_step))
        capacity = max(1, min(MAX_CHUNK, CHUNK_BYTES // step_bytes))
        steps = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape[1:]), x.dtype), one_step)

        def is_unfinished(carry):
            _, counts, _, length = carry
            return (counts < share).any() & (length < limit) & (length < capacity)

        def add_step(carry):
            rollout_state, counts, steps, length = carry
            rollout_state, transition = step(
                player, rollout_state, jax.random.fold_in(key, time + length)
            )
            steps = jax.tree.map(
                lambda rows, row: jax.lax.dynamic_update_slice_in_dim(rows, row, length, 0),
                steps,
                transition,
            )
            return rollout_state, counts + transition.done[0], steps, length + 1

        return jax.lax.while_loop(
            is_unfinished, add_step, (rollout_state, counts, steps, jnp.int32(0))
        )

    return play_chunk


def first_rows(steps: Any, length: int) -> Any:
    """The first rows of each array, copied to NumPy."""
    return jax.tree.map(lambda x: np.asarray(x)[:length].copy(), steps)


def collect_episodes(
    environment: Environment,
    chunks: Iterator[Chunk],
    count: int,
    to_recorded: Callable[[Sequence[Episode]], RecordedEpisodes],
    parts: PartsWriter | None,
    progress: bool,
) -> list[Episode]:
    """The episodes of all chunks, `count` of them, in the order of their numbers.

    Those that end in a chunk are in `parts`, on the disk, before the next chunk is played. Raises
    Interrupted on a signal to stop.
    """
    num_envs, start_time, steps = environment.spec.num_envs, perf_counter(), 0
    cutter = EpisodeCutter(num_envs, count // num_envs)
    gathered: list[Episode] = []
    with InterruptHandler() as interrupt, StatusLine(progress) as status:
        interrupt.watch(environment, cancel_after=0)
        try:
            for chunk in chunks:
                ended = cutter.cut(chunk.transitions)
                if ended and parts is not None:
                    parts.append(to_recorded(ended))
                gathered += ended
                steps += chunk.transitions.reward.size
                rate = steps / (perf_counter() - start_time)
                status.show(f"{len(gathered):,}/{count:,} episodes · {rate:,.0f} steps/s")
                if interrupt.signal:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            kept = "" if parts is not None and parts.num_episodes else "; nothing is written"
            raise Interrupted(
                f"stopped after {len(gathered):,} of {count:,} episodes{kept}", interrupt.signal
            ) from None
    return sorted(gathered, key=lambda episode: episode.number)


class EpisodeCutter:
    """Cuts the steps of copies, which come in chunks, into the first `share` episodes of each."""

    def __init__(self, num_envs: int, share: int):
        self.share = share
        self.counts = [0] * num_envs
        self.begun: list[list[Transition]] = [[] for _ in range(num_envs)]  # of running episodes

    def cut(self, transitions: Transition) -> list[Episode]:
        """The episodes that end in the next chunk [time, env, ...], in the order of their ends."""
        done = np.asarray(transitions.done)
        begins, ended = [0] * len(self.counts), []
        for time, copy in np.argwhere(done).tolist():
            if self.counts[copy] < self.share:
                steps = self._take(transitions, copy, begins[copy], time + 1)
                number = copy * self.share + self.counts[copy]
                ended.append(Episode(number, join_steps([*self.begun[copy], steps])))
                self.counts[copy], self.begun[copy], begins[copy] = (
                    self.counts[copy] + 1,
                    [],
                    time + 1,
                )
        for copy, begin in enumerate(begins):
            if self.counts[copy] < self.share and begin < len(done):
                self.begun[copy].append(self._take(transitions, copy, begin, len(done)))
        return ended

    def _take(self, transitions, copy, begin, end):
        return jax.tree.map(lambda x: x[begin:end, copy], transitions)


def join_steps(parts: Sequence[Transition]) -> Transition:
    """The steps of all parts, one after another."""
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def lay_end_to_end(episodes: Sequence[Episode], spec: EnvironmentSpec) -> Dataset:
    """The dataset of these episodes, as they were played."""
    lengths: Any = np.array([len(x.transitions.reward) for x in episodes], np.int32)
    transitions = join_steps([episode.transitions for episode in episodes])
    return Dataset(transitions, lengths, replace(spec, num_envs=1))


def recording_table(dataset: Dataset, expert: str, environment: str, max_steps: int) -> Table:
    """The table of what was recorded."""
    returns = episode_returns(dataset)
    spread = returns.std(ddof=1) if len(returns) > 1 else 0.0
    table = Table(title="recorded", title_justify="left", show_header=False)
    for row in (
        ("expert", expert),
        ("environment", environment),
        ("episodes", f"{dataset.num_episodes:,}"),
        ("steps", f"{dataset.num_steps:,}"),
        ("return, mean ± std", f"{three_digits(returns.mean())} ± {three_digits(spread)}"),
        ("return, IQM", three_digits(iqm(returns))),
        *cut_off_rows(
            int((dataset.episode_lengths >= max_steps).sum()), dataset.num_episodes, max_steps
        ),
        ("hash", content_hash(dataset)[:12]),
    ):
        table.add_row(*map(escape, row))
    return table
