"""Recording a person, who plays in a window: each kept episode is on the disk before the next."""

from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from etude.data.dataset import Dataset, episode_returns
from etude.environments.registry import env_factory
from etude.environments.sources import EnvironmentSource
from etude.errors import InvalidInput
from etude.recording.bindings import is_turn_based
from etude.recording.controls import make_controls
from etude.recording.play import PlayedEpisode, frames_per_second, play_in_window
from etude.recording.session import Session
from etude.recording.window import Window, check_screen, import_pygame
from etude.reporting.statistics import three_digits
from etude.runs.inspection import describe_replay
from etude.runs.interrupt import Interrupted
from etude.runs.options import AT_MOST, PERSON
from etude.runs.replay import replay_episodes
from etude.spaces import EnvironmentSpec
from etude.storage.datasets.formats import read_dataset, read_recorded
from etude.storage.datasets.minari_writer import MinariWriter


def check_person(
    source: EnvironmentSource,
    *,
    out: Path | None,
    stochastic: bool,
    noise: float,
    side_cameras: bool,
    torso: Any,
    frame_stack: int,
    action_masks: bool,
    keys: str | None,
    mouse: bool,
) -> None:
    """Raise InvalidInput for what a recording of a person cannot have, and without a screen."""
    for name, value in (
        ("stochastic", stochastic),
        ("noise", noise),
        ("side_cameras", side_cameras),
        ("torso", torso),
        ("frame_stack", frame_stack > 1 and frame_stack),
        ("action_masks", action_masks),
    ):
        if value:
            raise InvalidInput(
                f"{name} is {value!r:.80}, and the expert is a person, whose actions are recorded "
                "as they are, on what the environment itself observes; leave it out"
            )
    if keys is not None and mouse:
        raise InvalidInput("keys and mouse are two ways to say one action; leave out one of them")
    if out is None:
        raise InvalidInput("out is missing, and what a person plays is written episode by episode")
    if out.suffix == ".npz":
        raise InvalidInput(
            f"out is {out}, and what a person plays is written episode by episode, which an .npz "
            f"cannot hold; give {out.with_suffix('')}, and convert it with `etude dataset "
            f"{out.with_suffix('')} --to {out}`"
        )
    source.check_pictures("rgb_array")
    check_screen("a person needs one to play; take another expert here")
    import_pygame()


def record_person(
    source: EnvironmentSource,
    out: Path,
    *,
    episodes: int | None,
    seed: int,
    keys: str | None = None,
    speed: float = 1.0,
    wait: bool = False,
    mouse: bool = False,
    options: dict[str, Any] | None = None,
    max_steps: int,
    progress: bool = True,
) -> Dataset:
    """Record what a person plays in a window, as a dataset in Minari's layout.

    Args:
        source: of the environment, checked by `check_person`.
        out: the directory of the dataset, a new one.
        episodes: after how many kept ones it stops; None: when the person stops.
        seed: of the first episode; the next ones follow it.
        keys: what keys mean; see `etude.recording.bindings`.
        speed: how many times as fast as the environment is meant to be.
        wait: take a step for each press of a key; environments that stand still do so in any case.
        mouse: the place of the mouse is the action, in a Box of two numbers.
        options: keyword arguments of `gymnasium.make`, for the replay at the end.
        max_steps: after which an episode is truncated.
        progress: say what was recorded.

    Returns:
        The dataset.

    Raises:
        InvalidInput: for arguments that do not fit, and where no episode was kept.
        EnvironmentFault: where the environment fails; the episodes kept before are there.
        Interrupted: after Ctrl-C; the episodes kept before are there.
    """
    if seed + (episodes or 0) > AT_MOST["seed"]:
        raise InvalidInput(f"seed is {seed}, and episodes have seeds up to {AT_MOST['seed']:,}")
    with closing(source.make_rendered("rgb_array")) as environment, Window() as window:
        env, spec = environment.vector_env.envs[0], environment.spec  # type: ignore[attr-defined]
        wait = wait or is_turn_based(spec.id)
        controls = make_controls(spec, keys, frames_per_second(env), mouse, wait)
        session = Session(seed, wait, episodes)
        played = play_in_window(
            env, window, controls, session, speed=speed, max_steps=max_steps, title=source.name
        )
        successes = write_episodes(out, spec, played, options)
    if not successes:
        raise InvalidInput(f"no episode was kept, so {out} is not written")
    dataset = read_dataset(out, spec)
    if progress:
        report(out, spec, dataset, successes, source, options)
    return dataset


def write_episodes(
    out: Path, spec: EnvironmentSpec, played: Any, options: dict[str, Any] | None
) -> list[bool | None]:
    """Write each episode before the next one begins; for each whether it was a success.

    The directory is made with the first episode, so that without one nothing is left.
    """
    writer: MinariWriter | None = None
    successes: list[bool | None] = []
    try:
        for episode in played:
            if writer is None:
                writer = MinariWriter(out, spec, options=options)
            append_episode(writer, episode)
            successes.append(episode.success)
    except KeyboardInterrupt:
        kept = f"{len(successes):,} episodes are in {out}" if successes else "nothing is written"
        raise Interrupted(f"stopped; {kept}") from None
    finally:
        if writer is not None:
            writer.close()
    return successes


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


def report(
    out: Path,
    spec: EnvironmentSpec,
    dataset: Dataset,
    successes: list[bool | None],
    source: EnvironmentSource,
    options: dict[str, Any] | None,
) -> None:
    """Say what was recorded, and whether the same seeds and actions give it once more."""
    returns, told = episode_returns(dataset), [x for x in successes if x is not None]
    table = Table(title="recorded", title_justify="left", show_header=False)
    for row in (
        ("expert", PERSON),
        ("environment", source.name),
        ("episodes", f"{dataset.num_episodes:,}"),
        ("steps", f"{dataset.num_steps:,}"),
        ("return, mean", three_digits(returns.mean())),
        *([("successes", f"{sum(told)} of {len(told)}")] if told else []),
    ):
        table.add_row(*map(escape, row))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"written {out}", soft_wrap=True, markup=False)
    factory: Any = source  # a function's, where it has no id
    make_env = env_factory(source.name, options) if source.kind == "id" else factory.make_env
    replayed = replay_episodes(read_recorded(out, spec), spec, make_env)
    said = (
        f"the replay differs: {replayed.difference}; the environment is not deterministic given "
        "its seed"
        if replayed.difference
        else describe_replay(replayed)
    )
    console.print(said, soft_wrap=True, markup=False)
