"""A trained policy played before the eyes: to a file, or in a window."""

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from etude.environments.registry import env_factory, make
from etude.errors import InvalidInput
from etude.rollout import init_rollout_state, initial_memory, rollout
from etude.training import run_compiled

# one of them says where windows go, on Linux
SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")


def render_episodes(
    run: Any, render_mode: str, episodes: int, seed: int, explore: bool = False
) -> Iterator[tuple[Any, float, bool]]:
    """Steps of whole episodes by the first seed's policy: (picture or None, reward, whether the
    episode ended)."""
    view = run.settings.env_kwargs
    view["options"] = {**view["options"], "render_mode": render_mode}
    environment: Any = make(run.settings.environment, 1, "gymnasium", **view)
    simulator = environment.vector_env.envs[0]
    algorithm, state = run.settings.algorithm, run.states()[0]

    def policy(observation, memory, key):
        return algorithm.act(state, observation, memory, key, explore=explore)

    @jax.jit
    def step(stage, key):
        stage, transition, _ = rollout(environment, policy, stage, key, 1)
        return stage, transition.reward[0, 0], transition.done[0, 0]

    try:
        key = jax.random.key(seed)
        stage = init_rollout_state(environment, key, initial_memory(environment, policy))
        ended = time = 0
        while ended < episodes:
            picture = simulator.render() if render_mode == "rgb_array" else None
            stage, reward, done = run_compiled(
                environment, step, stage, jax.random.fold_in(key, time)
            )
            ended, time = ended + bool(done), time + 1
            yield picture, float(reward), bool(done)
    finally:
        environment.close()


def record_video(
    run: Any, directory: Path, episodes: int = 1, seed: int = 0, explore: bool = False
) -> list[Path]:
    """Record each episode to directory/episode_<n>.mp4; the paths."""
    import imageio.v2 as imageio  # slow to import

    frames_per_second = _frames_per_second(run)
    directory.mkdir(parents=True, exist_ok=True)
    paths, writer = [], None
    # the encoder is a program of its own, started without copying this process: what JAX warns of
    # does not happen
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    try:
        for picture, _, done in render_episodes(run, "rgb_array", episodes, seed, explore):
            if picture is None:
                raise InvalidInput(f"{run.settings.environment} draws no pictures")
            if writer is None:
                paths.append(directory / f"episode_{len(paths) + 1}.mp4")
                writer = imageio.get_writer(paths[-1], fps=frames_per_second, macro_block_size=2)
            writer.append_data(np.asarray(picture))
            if done:
                writer.close()
                writer = None
    finally:
        if writer is not None:
            writer.close()
    return paths


def watch(run: Any, episodes: int, seed: int, explore: bool = False) -> Iterator[float]:
    """Show the policy in a window; the return of each episode as it ends. Raises InvalidInput where
    there is no screen."""
    if sys.platform.startswith("linux") and not any(map(os.environ.get, SCREENS)):
        raise InvalidInput(
            "there is no screen here to open a window on (DISPLAY is not set); "
            "make a video instead: "
            f"etude evaluate {run.directory} --video"
        )
    total = 0.0
    for _, reward, done in render_episodes(run, "human", episodes, seed, explore):
        total += reward
        if done:
            yield total
            total = 0.0


def _frames_per_second(run):
    simulator = env_factory(run.settings.environment, run.settings.options, "rgb_array")()
    rate = simulator.metadata.get("render_fps", 30)
    simulator.close()
    return rate
