"""Videos of a trained policy, in a file or in a window."""

import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from etude.errors import InvalidInput
from etude.keys import rendering_key
from etude.recording.window import check_screen
from etude.rollout import bind_policy, init_rollout_state, rollout
from etude.runs.options import AT_MOST, check_whole
from etude.storage import files
from etude.training import run_compiled


def render_episodes(
    run: Any,
    environment: Any,
    episodes: int,
    seed: int,
    explore: bool = False,
    pictures: bool = False,
    which: str = "last",
) -> Iterator[tuple[Any, float, bool]]:
    """Yield (frame, reward, done) of each step of the policy in the first seed's checkpoint.

    `environment` comes from `make_rendered` of the run's source. The frame is None without
    `pictures`, and where the environment draws none.
    """
    env = environment.vector_env.envs[0]
    policy = bind_policy(run.settings.algorithm, run.states(which=which)[0], environment, explore)

    @jax.jit
    def step(rollout_state, key):
        rollout_state, transition, _ = rollout(environment, policy, rollout_state, key, 1)
        return rollout_state, transition.reward[0, 0], transition.done[0, 0]

    key = rendering_key(seed)
    rollout_state = init_rollout_state(environment, policy, key)
    episodes_done = time = 0
    while episodes_done < episodes:
        frame = env.render() if pictures else None
        rollout_state, reward, done = run_compiled(
            step, rollout_state, jax.random.fold_in(key, time)
        )
        episodes_done, time = episodes_done + bool(done), time + 1
        yield frame, float(reward), bool(done)


def record_video(
    run: Any,
    directory: Path,
    episodes: int = 1,
    seed: int = 0,
    explore: bool = False,
    which: str = "last",
) -> list[Path]:
    """Record each episode to directory/episode_<n>.mp4 and return the paths.

    An episode is cut off as those of evaluations are.
    """
    files.refuse_links(run.directory)
    import imageio.v2 as imageio  # slow to import

    directory.mkdir(parents=True, exist_ok=True)
    paths, writer = [], None
    limit = run.settings.max_evaluation_steps
    # the encoder is another program, started without a fork of this process, so that the deadlock
    # JAX warns of cannot happen
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    with closing(run.settings.source.make_rendered("rgb_array", limit)) as environment:
        frames_per_second = environment.vector_env.envs[0].metadata.get("render_fps", 30)
        try:
            for frame, _, done in render_episodes(
                run, environment, episodes, seed, explore, pictures=True, which=which
            ):
                if frame is None:
                    raise InvalidInput(f"{run.settings.environment} draws no pictures")
                if writer is None:
                    paths.append(directory / f"episode_{len(paths) + 1}.mp4")
                    writer = imageio.get_writer(
                        paths[-1], fps=frames_per_second, macro_block_size=2
                    )
                writer.append_data(np.asarray(frame))
                if done:
                    writer.close()
                    writer = None
        finally:
            if writer is not None:
                writer.close()
    return paths


def watch(run: Any, episodes: int, seed: int, explore: bool = False) -> Iterator[float]:
    """Show the policy in a window and yield the return of each episode.

    An episode is cut off as those of evaluations are. Raises InvalidInput where there is no
    display, and for fewer than one episode or a seed that is not in [0, 2³²).
    """
    check_whole("episodes", episodes, 1, AT_MOST["evaluation_episodes"])
    check_whole("seed", seed, 0, AT_MOST["seed"])
    check_screen(f"make a video instead: etude evaluate {run.shown_directory} --video")
    episode_return, limit = 0.0, run.settings.max_evaluation_steps
    with closing(run.settings.source.make_rendered("human", limit)) as environment:
        for _, reward, done in render_episodes(run, environment, episodes, seed, explore):
            episode_return += reward
            if done:
                yield episode_return
                episode_return = 0.0
