"""Replaying recorded episodes: the same seeds and actions should give the same episodes again."""

from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from etude.errors import EnvironmentFault, InvalidInput
from etude.spaces import EnvironmentSpec, gymnasium_dtype
from etude.storage.datasets.recorded_episodes import RecordedEpisodes


class Replay(NamedTuple):
    """What became of a replay."""

    episodes: int  # that were played again, up to the first difference
    steps: int  # that were the same
    without_seed: int  # episodes that could not be played again, side views aside
    cut_off: int  # truncated episodes that the environment itself would not have ended
    difference: str  # the first: its episode, step, field and both values; "" where all is the same


def replay_episodes(
    recorded: RecordedEpisodes, spec: EnvironmentSpec, make_env: Callable[[], gymnasium.Env]
) -> Replay:
    """Play episodes again from their seeds, until something differs.

    Observations, rewards and flags are compared bit for bit. What the environment gives in double
    precision may be recorded in single precision, as etude keeps it. An episode may be truncated
    where the environment goes on, since a recording may cut it off.

    Args:
        recorded: the episodes, with their seeds.
        spec: the spaces of the environment.
        make_env: makes the environment.

    Raises:
        InvalidInput: for episodes of which none has a seed.
        EnvironmentFault: where the environment fails.
    """
    recorded = recorded.by_episode()
    seeds, side_views = recorded.seeds, sum(recorded.is_side_view)
    without_seed = seeds.count(None) - side_views
    if all(seed is None for seed in seeds):
        raise InvalidInput(
            "no episode has the seed of its reset, so none can be played again; `etude record` "
            "keeps the seeds of Gymnasium environments that are played without noise"
            + (
                f"; {side_views:,} are what side cameras saw, which nobody played"
                * (side_views > 0)
            )
        )
    episodes = steps = cut_off = 0
    with closing(make_env()) as env:
        for number, seed in enumerate(seeds):
            if seed is None:
                continue
            values = {field: entries[number] for field, entries in recorded.fields.items()}
            try:
                length, difference, goes_on = _replay_episode(env, spec, values, seed)
            except (Exception, SystemExit) as error:
                raise EnvironmentFault(
                    f"the environment raised {type(error).__name__}: {error} in episode {number}, "
                    f"which began with seed {seed}"
                ) from error
            steps, cut_off = steps + length, cut_off + goes_on
            if difference:
                place = f"episode {number}, step {length}: {difference}"
                return Replay(episodes, steps, without_seed, cut_off, place)
            episodes += 1
    return Replay(episodes, steps, without_seed, cut_off, "")


def _replay_episode(env, spec, values, seed) -> tuple[int, str, bool]:
    """The number of equal steps, the difference after them, and whether the episode was cut off."""
    observation, _ = env.reset(seed=seed)
    leaves = jax.tree_util.tree_leaves_with_path(values["observations"])
    if difference := _difference(leaves, 0, observation):
        return 0, difference, False
    num_steps = len(values["actions"])
    for step in range(num_steps):
        action = _native(env.action_space, spec, values["actions"][step])
        observation, reward, terminated, truncated, _ = env.step(action)
        is_cut_off = step == num_steps - 1 and bool(values["truncations"][step]) and not truncated
        for field, given in (("terminations", terminated), ("truncations", truncated)):
            flag = bool(values[field][step])
            if flag != bool(given) and not (field == "truncations" and is_cut_off):
                return step, f"{field} is {flag}, and the environment gives {bool(given)}", False
        recorded = np.asarray(values["rewards"][step])
        if not _equal(recorded, reward):
            return step, f"rewards is {recorded}, and the environment gives {reward}", False
        if difference := _difference(leaves, step + 1, observation):
            return step, difference, False
        if is_cut_off:
            return step + 1, "", not terminated
    return num_steps, "", False


def _difference(leaves, row, observation):
    """The first part of an observation that differs from the row that was recorded, "" for none."""
    given = jax.tree.leaves(observation)
    for (path, array), value in zip(leaves, given, strict=True):
        there = np.asarray(array)[row]
        if not _equal(there, value):
            differs = np.argwhere(~_same(there, np.asarray(value)))
            element = tuple(differs[0]) if len(differs) else ()
            name = f"observations{jax.tree_util.keystr(path)}{[*map(int, element)] or ''}"
            after = "the reset" if row == 0 else "the step"
            return (
                f"after {after} {name} is {there[element]}, and the environment gives "
                f"{np.asarray(value)[element]}"
            )
    return ""


def _equal(there, given):
    given = np.asarray(given)
    return there.shape == given.shape and bool(_same(there, given).all())


def _same(there, given):
    """Where two arrays are the same, or would be in single precision."""
    if there.shape != given.shape:
        return np.zeros(there.shape, bool)
    same = (there == given) | ((there != there) & (given != given))
    if given.dtype == np.float64:
        with np.errstate(over="ignore"):
            same |= there == given.astype(np.float32)
    return same


def _native(space, spec, action) -> Any:
    """A recorded action as the environment takes it."""
    dtype = gymnasium_dtype(spec.action)
    if dtype is None:
        return int(action)
    native = np.asarray(action, dtype)
    if native.dtype == np.float64 and isinstance(space, gymnasium.spaces.Box):
        return native.clip(space.low, space.high)  # as etude clips what is rounded
    return native
