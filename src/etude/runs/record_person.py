"""Recording a person, who plays in a window: each kept episode is on the disk before the next."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from etude.data.dataset import Dataset, episode_returns
from etude.environments.backends.watchdog import TIMEOUT
from etude.environments.registry import env_factory
from etude.environments.sources import EnvironmentLike, EnvironmentSource, environment_source
from etude.errors import EnvironmentFault, InvalidInput
from etude.recording.bindings import is_turn_based
from etude.recording.controls import make_controls
from etude.recording.play import PlayedEpisode, frames_per_second, play_in_window
from etude.recording.session import Session
from etude.recording.window import Window, check_screen
from etude.reporting.statistics import three_digits
from etude.runs.inspection import describe_replay
from etude.runs.interrupt import Interrupted
from etude.runs.options import AT_MOST, MAX_EVALUATION_STEPS, PERSON, RunOptions, check_whole
from etude.runs.replay import replay_episodes
from etude.spaces import EnvironmentSpec
from etude.storage.datasets.formats import check_new_path, read_dataset, read_recorded
from etude.storage.datasets.minari_writer import MinariWriter
from etude.storage.datasets.recorded_episodes import RecordedEpisodes


def record_person(
    environment: EnvironmentLike,
    *,
    out: str | Path,
    episodes: int | None = None,
    seed: int = 0,
    keys: str | None = None,
    speed: float = 1.0,
    wait: bool = False,
    mouse: bool = False,
    options: dict[str, Any] | None = None,
    environment_timeout: int = TIMEOUT,
    max_evaluation_steps: int = MAX_EVALUATION_STEPS,
    progress: bool = True,
) -> Dataset:
    """Record what a person plays in a window, as a dataset in Minari's layout.

    The window says what each key does. Enter keeps an episode, also an unfinished one, which is
    then truncated; Backspace discards it and tries it again from the same seed; Esc stops.

    Args:
        environment: as in `etude.train`; it draws pictures of the kind rgb_array.
        out: the directory of the dataset, a new one, which has each kept episode before the next
            one begins.
        episodes: after how many kept ones it stops; None: when the person stops.
        seed: of the first episode; the next ones follow it.
        keys: what keys mean; see `etude.recording.bindings`.
        speed: how many times as fast as the environment is meant to be.
        wait: take a step for each press of a key; environments that stand still do so in any case.
        mouse: the place of the mouse is the action, in a Box of two numbers.
        options, environment_timeout, max_evaluation_steps: as in `etude.train`. An episode that is
            cut off is truncated.
        progress: say what was recorded.

    Returns:
        The dataset.

    Raises:
        InvalidInput: for arguments that do not fit, before anybody plays; and where no episode was
            kept.
        EnvironmentFault: where the environment fails; the episodes kept before are there.
        Interrupted: after Ctrl-C; the episodes kept before are there.
    """
    RunOptions(
        seed=seed,
        options=options or {},
        environment_timeout=environment_timeout,
        max_evaluation_steps=max_evaluation_steps,
        expert=PERSON,
        keys=keys,
        speed=speed,
    ).validate_fields()
    if episodes is not None:
        check_whole("episodes", episodes, 1, AT_MOST["evaluation_episodes"])
    if seed + (episodes or 0) > AT_MOST["seed"]:
        raise InvalidInput(f"seed is {seed}, and episodes have seeds up to {AT_MOST['seed']:,}")
    check_hands(keys, mouse=mouse, wait=wait)
    check_directory(Path(out))
    path = Path(out).absolute()  # before an environment can change the working directory
    source = environment_source(environment, options, 1, False, environment_timeout)
    source.check_pictures("rgb_array")
    check_screen("a person needs one to play; take another expert here")
    with closing(source.make_rendered("rgb_array")) as rendered, Window() as window:
        env, spec = rendered.vector_env.envs[0], rendered.spec  # type: ignore[attr-defined]
        check_new_path(path, spec)
        wait = wait or is_turn_based(spec.id)
        controls = make_controls(spec, keys, frames_per_second(env), mouse, wait)
        session = Session(seed, wait, episodes)
        played = play_in_window(
            env,
            window,
            controls,
            session,
            speed=speed,
            max_steps=max_evaluation_steps,
            title=source.name,
        )
        successes = write_episodes(path, str(out), spec, played, options)
    if not successes:
        raise InvalidInput(f"no episode was kept, so {out} is not written")
    dataset = read_dataset(path, spec)
    if progress:
        console = Console(highlight=False)
        console.print(person_table(dataset, successes, source.name))
        console.print(f"written {out}", soft_wrap=True, markup=False)
        said = replay_text(source, read_recorded(path, spec), spec, options)
        console.print(said, soft_wrap=True, markup=False)
    return dataset


def check_hands(keys: str | None, *, mouse: bool, wait: bool) -> None:
    """Raise InvalidInput for two ways of playing at once."""
    if keys is not None and mouse:
        raise InvalidInput("keys and mouse are two ways to say one action; leave out one of them")
    if wait and mouse:
        raise InvalidInput("wait takes a step for each key, and a mouse has none; leave out one")


def check_directory(out: Path) -> None:
    """Raise InvalidInput where no dataset can be written episode by episode."""
    if out.suffix == ".npz":
        raise InvalidInput(
            f"out is {out}, and what a person plays is written episode by episode, which an .npz "
            f"cannot hold; give {out.with_suffix('')}, and convert it with `etude dataset "
            f"{out.with_suffix('')} --to {out}`"
        )
    check_new_path(out)


def write_episodes(
    path: Path,
    out: str,
    spec: EnvironmentSpec,
    played: Iterator[PlayedEpisode],
    options: dict[str, Any] | None,
) -> list[bool | None]:
    """Write each episode before the next one begins; for each whether it was a success.

    The directory is made with the first episode, so that without one nothing is left. Messages
    call it `out`.
    """
    writer: MinariWriter | None = None
    successes: list[bool | None] = []
    try:
        try:
            for episode in played:
                if writer is None:
                    writer = MinariWriter(path, spec, options=options)
                append_episode(writer, episode)
                successes.append(episode.success)
        finally:
            if writer is not None:
                writer.close()
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {kept_text(len(successes), out)}") from None
    except EnvironmentFault as fault:
        kept = kept_text(len(successes), out)
        raise EnvironmentFault(f"{fault}; {kept}") from fault.__cause__
    except OSError as error:
        kept = kept_text(len(successes), out)
        raise InvalidInput(
            f"{out} cannot be written ({error.strerror or error}); {kept}. Make room, and record "
            "on to another --out"
        ) from error
    return successes


def kept_text(count: int, out: str) -> str:
    """What is on the disk where a recording ends early."""
    if not count:
        return "nothing is written"
    return f"{count:,} {'episode is' if count == 1 else 'episodes are'} in {out}"


def append_episode(writer: MinariWriter, episode: PlayedEpisode) -> None:
    """Write an episode, which is on the disk when this returns."""
    writer.append(
        observations=episode.observations,
        actions=episode.actions,
        rewards=episode.rewards,
        terminations=episode.terminations,
        truncations=episode.truncations,
        seed=episode.seed,
    )


def person_table(dataset: Dataset, successes: list[bool | None], environment: str) -> Table:
    """The table of what was recorded."""
    returns, told = episode_returns(dataset), [x for x in successes if x is not None]
    table = Table(title="recorded", title_justify="left", show_header=False)
    for row in (
        ("expert", PERSON),
        ("environment", environment),
        ("episodes", f"{dataset.num_episodes:,}"),
        ("steps", f"{dataset.num_steps:,}"),
        ("return, mean", three_digits(returns.mean())),
        *([("successes", f"{sum(told)} of {len(told)}")] if told else []),
    ):
        table.add_row(*map(escape, row))
    return table


def replay_text(
    source: EnvironmentSource,
    recorded: RecordedEpisodes,
    spec: EnvironmentSpec,
    options: dict[str, Any] | None,
) -> str:
    """Play the episodes again, and say whether the same seeds and actions gave them once more."""
    factory: Any = source  # a function's, where it has no id
    make_env = env_factory(source.name, options) if source.kind == "id" else factory.make_env
    replayed = replay_episodes(recorded, spec, make_env)
    if replayed.difference:
        return (
            f"the replay differs: {replayed.difference}; the environment is not deterministic "
            "given its seed"
        )
    return describe_replay(replayed)
