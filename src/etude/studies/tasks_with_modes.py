"""Tasks whose expert does one thing or another in the same state, and clones that play them.

Of each episode is told whether it succeeded, and which of the expert's ways it went: its mode. The
episodes are those of the tasks in JAX, which are equal to those for Gymnasium.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from etude.algorithms.imitation.bc import BC
from etude.algorithms.imitation.cloning import AnyHead
from etude.algorithms.imitation.heads.autoregressive import Autoregressive
from etude.algorithms.imitation.heads.deterministic import Deterministic
from etude.algorithms.imitation.heads.diffusion import Diffusion
from etude.algorithms.imitation.heads.direct import Direct
from etude.algorithms.imitation.heads.flow import Flow
from etude.algorithms.imitation.heads.latent import Latent
from etude.algorithms.imitation.heads.mixture import Mixture
from etude.algorithms.protocol import Outside, init_state
from etude.data.dataset import Dataset
from etude.data.transition import Transition
from etude.environments import make
from etude.environments.tasks import avoiding_env, fork_env, push_env
from etude.environments.tasks.avoiding_env import avoiding_route
from etude.errors import InvalidInput
from etude.optim.averaging import EMA
from etude.rollout import bind_policy, init_rollout_state, rollout

HIDDEN = (128, 128)  # of the features, and of each head that has hidden layers of its own
HEADS: dict[str, AnyHead] = {
    "deterministic": Deterministic(),
    "direct": Direct(),
    "mixture": Mixture(components=10),
    "latent": Latent(latent_size=2, hidden=(64, 64)),
    "autoregressive": Autoregressive(),
    "flow": Flow(hidden=HIDDEN),
    "diffusion": Diffusion(hidden=HIDDEN),
}


class TaskWithModes(NamedTuple):
    """A task, what its modes are, and what a picture of it shows."""

    max_steps: int
    num_modes: int
    # positions [time, n] of an episode -> its mode, from 0; -1 where it has none
    mode_of: Callable[[np.ndarray], int]
    discs: tuple[tuple[tuple[float, float], float], ...]  # (center, radius) of what is in the way
    limits: tuple[tuple[float, float], tuple[float, float]]  # of x and y


def fork_side(positions: np.ndarray) -> int:
    """1 where a point ends on the left of the fork, else 0; positions are [time, 2]."""
    return int(positions[-1, 1] > 0)


def push_side(positions: np.ndarray) -> int:
    """The side on which the pusher first came behind the block: 1 left, 0 right, -1 neither.

    Positions are observations of Push, [time, 4].
    """
    pusher, block = positions[:, :2], positions[:, 2:]
    is_behind = pusher[:, 0] < block[:, 0]
    first = int(is_behind.argmax())
    return int(pusher[first, 1] > block[first, 1]) if is_behind.any() else -1


TASKS = {
    "etude/Fork-v0": TaskWithModes(
        fork_env.NUM_STEPS, 2, fork_side, ((fork_env.DISC, fork_env.RADIUS),), ((-1, 1), (-1, 1))
    ),
    "etude/Avoiding-v0": TaskWithModes(
        avoiding_env.MAX_STEPS,
        avoiding_env.NUM_ROUTES,
        avoiding_route,
        tuple((disc, avoiding_env.RADIUS) for disc in avoiding_env.DISCS),
        ((0, avoiding_env.FINISH), (-1, 1)),
    ),
    "etude/Push-v0": TaskWithModes(
        push_env.MAX_STEPS,
        2,
        push_side,
        (((0.0, 0.0), push_env.BLOCK_RADIUS), (push_env.TARGET, push_env.TOLERANCE)),
        ((-1, 1), (-1, 1)),
    ),
}


class EpisodeOutcome(NamedTuple):
    """An episode: its positions [time, n], the last one included, and whether it succeeded."""

    positions: np.ndarray
    is_success: bool


def task_with_modes(environment: str) -> TaskWithModes:
    """The task of this id; raises InvalidInput for one whose modes nobody has told."""
    if environment not in TASKS:
        raise InvalidInput(
            f"the modes of {environment!r} are not known; give one of {', '.join(TASKS)}"
        )
    return TASKS[environment]


def cloning_with(head: AnyHead, gradient_steps: int, chunk: int = 1, execute: int = 1) -> BC:
    """Behavior cloning with a head; the weights of flow and diffusion are averaged."""
    return BC(
        head=head,
        ema=EMA() if isinstance(head, Flow | Diffusion) else None,
        hidden=HIDDEN,
        batch_size=128,
        learning_rate=3e-3,
        learning_rate_decay=float(gradient_steps),
        gradient_steps=gradient_steps,
        chunk=chunk,
        execute=execute,
    )


def play_clones(
    cloning: Any, dataset: Dataset, environment: str, seeds: int, episodes: int
) -> Iterator[list[EpisodeOutcome]]:
    """Yield the episodes of the clones of seeds 0, 1, ..., each after one update of training.

    Episodes are played without `explore`, so the noise of a mixture or a normal is left out.
    """
    task = task_with_modes(environment)
    copies, outside = make(environment, episodes, "jax"), Outside(dataset)

    @jax.jit
    def train_and_play(key):
        key_init, key_update, key_reset, key_play = jax.random.split(key, 4)
        state = init_state(cloning, key_init, dataset.spec, outside)
        state, _ = cloning.update(state, (), key_update, outside)
        policy = bind_policy(cloning, state, copies)
        start = init_rollout_state(copies, policy, key_reset)
        return rollout(copies, policy, start, key_play, task.max_steps)[1]

    for seed in range(seeds):
        yield first_episodes(jax.device_get(train_and_play(jax.random.key(seed))))


def first_episodes(played: Transition) -> list[EpisodeOutcome]:
    """The first episode of each copy of transitions [time, env, ...], which is complete."""
    ends = played.done.argmax(0)
    return [
        EpisodeOutcome(
            np.concatenate([played.observation[:1, i], played.next_observation[: end + 1, i]]),
            bool(played.reward[end, i] == 1),
        )
        for i, end in enumerate(ends)
    ]


def recorded_episodes(dataset: Dataset) -> list[EpisodeOutcome]:
    """The episodes of a dataset."""
    steps = jax.device_get(dataset.transitions)
    ends = np.cumsum(np.asarray(dataset.episode_lengths))
    return [
        EpisodeOutcome(
            np.concatenate([steps.observation[start:end], steps.next_observation[end - 1 : end]]),
            bool(steps.reward[end - 1] == 1),
        )
        for start, end in zip(ends - np.asarray(dataset.episode_lengths), ends, strict=True)
    ]


def count_modes(task: TaskWithModes, episodes: list[EpisodeOutcome]) -> list[int]:
    """How many of the episodes that succeeded went each way, [mode]."""
    modes = [task.mode_of(episode.positions) for episode in episodes if episode.is_success]
    return [modes.count(mode) for mode in range(task.num_modes)]
