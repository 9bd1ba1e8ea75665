"""Known rewards and ends of steps: functions of (state, action, next state), not learned ones.

    reward(s, a, s') -> r, []      terminated(s, a, s') -> bool, []

They are of one step, in JAX. s and s' are the environment's own observations; the action a is in
the policy's units: in [-1, 1] for a bounded Box, which `to_environment_action` converts, and from 0
for Discrete. A learned model then predicts the next observation alone.

Built in are those of the JAX ports whose observation tells the state, and of Gymnasium's MuJoCo
what follows from the observation:

    InvertedPendulum-v5            reward and end
    InvertedDoublePendulum-v5      the end: the tip's height is Gymnasium's within 0.001 m under
                                   uniformly random actions (0.014 m under full force at random)
    Hopper-v5, Walker2d-v5         the end, but for a Hopper with a velocity of 100 or more, which
                                   it observes clipped to 10
    HalfCheetah-v5                 that no step ends an episode

The other rewards are not functions of observations: a runner is paid for its mean velocity in a
step, and only those before and after are observed. Under random actions the latter's error is 0.22
m/s for HalfCheetah (mean velocity 0.50), 0.11 for Walker2d (0.88) and 0.04 for Hopper (0.34), and
that of the mean of both 0.14, 0.008 and 0.002. InvertedDoublePendulum pays for velocities that it
observes clipped.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etude.data.transition import Transition
from etude.errors import InvalidInput
from etude.models.true_models import STATE_FROM_OBSERVATION, port_of
from etude.spaces import to_environment_action
from etude.struct import static, struct
from etude.types import Array

StepFunction = Callable[[Any, Any, Any], Array]  # (s, a, s') -> [], of one step

TOLERANCE = 1e-3  # of a reward, relative
FLOOR = 1e-5  # of the largest recorded reward: how far the others may be off by rounding
ROUNDING = 4 * float(np.finfo(np.float32).eps)  # of an observation that was computed in float64


@struct
class KnownFunctions:
    """What is known of an environment's steps; two are equal if their functions are."""

    reward: StepFunction | None = static(None)  # None: to be learned
    terminated: StepFunction | None = static(None)


@struct
class RewardOfPort:
    """The reward of a step by the JAX port of an environment, of what was observed."""

    port: Any = static()
    state_from_observation: Callable[[Array], Array] = static()

    def __call__(self, state: Array, action: Array, next_state: Array) -> Array:
        action = to_environment_action(self.port.action_space, action)
        before, after = map(self.state_from_observation, (state, next_state))
        return self.port.reward(before, action, after)


@struct
class EndOfPort:
    """Whether a step ends the episode by the JAX port of an environment, of what was observed."""

    port: Any = static()
    state_from_observation: Callable[[Array], Array] = static()

    def __call__(self, state: Array, action: Array, next_state: Array) -> Array:
        return self.port.terminates(self.state_from_observation(next_state))


def never_ends(state: Array, action: Array, next_state: Array) -> Array:
    """Return False: only a time limit ends an episode."""
    return jnp.bool_(False)


def inverted_pendulum_ends(state: Array, action: Array, next_state: Array) -> Array:
    """Whether the pole's angle, of observations [4], is above 0.2 rad."""
    return ~jnp.isfinite(next_state).all() | (jnp.abs(next_state[1]) > 0.2)


def inverted_pendulum_reward(state: Array, action: Array, next_state: Array) -> Array:
    """1 for a step that does not end the episode, else 0."""
    return 1.0 - inverted_pendulum_ends(state, action, next_state)


def double_pendulum_ends(state: Array, action: Array, next_state: Array) -> Array:
    """Whether the tip is no higher than 1 m, of observations [9] with sines and cosines.

    The second angle is relative to the first; each link is 0.6 m long.
    """
    sine_1, sine_2, cosine_1, cosine_2 = next_state[1:5]
    return 0.6 * (cosine_1 + cosine_1 * cosine_2 - sine_1 * sine_2) <= 1


def hopper_ends(state: Array, action: Array, next_state: Array) -> Array:
    """Whether the torso is too low or leans, or a number of [11] is extreme."""
    height, angle = next_state[:2]
    healthy = (height > 0.7) & (jnp.abs(angle) < 0.2) & (jnp.abs(next_state[1:]) < 100).all()
    return ~healthy


def walker_ends(state: Array, action: Array, next_state: Array) -> Array:
    """Whether the torso of Walker2d, of observations [17], is too low, too high or leans."""
    height, angle = next_state[:2]
    return ~((height > 0.8) & (height < 2.0) & (jnp.abs(angle) < 1.0))


MUJOCO: dict[str, KnownFunctions] = {
    "InvertedPendulum-v5": KnownFunctions(inverted_pendulum_reward, inverted_pendulum_ends),
    "InvertedDoublePendulum-v5": KnownFunctions(terminated=double_pendulum_ends),
    "Hopper-v5": KnownFunctions(terminated=hopper_ends),
    "Walker2d-v5": KnownFunctions(terminated=walker_ends),
    "HalfCheetah-v5": KnownFunctions(terminated=never_ends),
}
USER_FUNCTIONS: dict[str, KnownFunctions] = {}  # environment id -> those of `register_reward`


def register_reward(
    environment: str, reward: StepFunction | None = None, terminated: StepFunction | None = None
) -> None:
    """Register the reward and the end of an environment's steps, which learned models then know.

    A module that registers an environment may register these too. They take precedence over those
    of etude; what is not given stays as it is there, or is learned. A second call replaces the
    first.

    Args:
        environment: Gymnasium id of the environment.
        reward: (s, a, s') -> reward of one step, [], in JAX; s and s' are observations, and a is in
            [-1, 1] for a bounded Box, and from 0 for Discrete.
        terminated: (s, a, s') -> whether the step terminates the episode, [], not by a time limit.

    Raises:
        InvalidInput: where neither is given, or one is no function.
    """
    if reward is None and terminated is None:
        raise InvalidInput(
            f"neither a reward nor an end of {environment!r} is given; give reward=, terminated= "
            "or both, functions of (state, action, next_state)"
        )
    for role, function in (("reward", reward), ("terminated", terminated)):
        if function is not None and not callable(function):
            raise InvalidInput(
                f"{role} is {function!r}; give a function of (state, action, next_state)"
            )
    USER_FUNCTIONS[environment.split(":")[-1]] = KnownFunctions(reward, terminated)


def known_functions(environment: str) -> KnownFunctions:
    """Return what is known of an environment's steps: registered by the user, or built in.

    Raises InvalidInput where nothing is.
    """
    name = environment.split(":")[-1]
    user, own = USER_FUNCTIONS.get(name, KnownFunctions()), built_in_functions(name)
    known = KnownFunctions(user.reward or own.reward, user.terminated or own.terminated)
    if known == KnownFunctions():
        at_hand = ", ".join({**STATE_FROM_OBSERVATION, **MUJOCO, **USER_FUNCTIONS})
        raise InvalidInput(
            f"the reward and the end of steps of {environment!r} are not known; those of {at_hand} "
            "are. Let the model learn them, or give yours with etude.register_reward"
        )
    return known


def built_in_functions(environment: str) -> KnownFunctions:
    """Return the functions that etude has of an environment; both are None where it has none."""
    if environment not in STATE_FROM_OBSERVATION:
        return MUJOCO.get(environment, KnownFunctions())
    arguments = port_of(environment), STATE_FROM_OBSERVATION[environment]
    return KnownFunctions(RewardOfPort(*arguments), EndOfPort(*arguments))


def check_known_functions(known: KnownFunctions, transitions: Transition, environment: str) -> None:
    """Compare known functions with steps that were recorded in the environment.

    A reward may differ by 1e-3 of the recorded one, and by 1e-5 of the largest. Observations of
    float64 are rounded on their way to the functions, which jump where an episode ends. So a
    function may also agree on a next observation scaled by one plus or minus the rounding.

    Args:
        known: the functions.
        transitions: recorded steps [n], with observations, actions and rewards as they are.
        environment: what messages call it.

    Raises:
        InvalidInput: for a function that JAX cannot trace or that returns no single number, and for
            the first step on which one differs from the environment.
    """
    step = transitions.observation, transitions.action, transitions.next_observation
    for role, function, recorded in (
        ("reward", known.reward, np.asarray(transitions.reward, np.float32)),
        ("terminated", known.terminated, np.asarray(transitions.terminated, bool)),
    ):
        if function is None or not len(recorded):
            continue
        found = _values(role, function, step, environment)
        if role == "reward":
            floor = FLOOR * np.abs(recorded).max()
            agrees = np.abs(found - recorded) <= TOLERANCE * np.abs(recorded) + floor
        else:
            agrees = found.astype(bool) == recorded
        if not (agreed := agrees.any(0)).all():
            i = int(np.argmin(agreed))
            observation, action, next_observation = (
                f"{jax.tree.map(lambda x, i=i: np.asarray(x[i]).tolist(), part)!r:.300}"
                for part in step
            )
            raise InvalidInput(
                f"the known {role} of step {i} of {environment} is {found[0, i]}, and the "
                f"environment's own was {recorded[i]}, from observation {observation} by action "
                f"{action} (of a policy) to {next_observation}; mend it with "
                f"etude.register_reward({environment!r}, {role}=...), or let the model learn it"
            )


def _values(role: str, function: StepFunction, step: tuple, environment: str) -> np.ndarray:
    """The values [3, n] of a function at recorded steps: as they are, and moved by the rounding."""
    observation, action, next_observation = step

    def at(scale: float) -> Array:
        scaled = jax.tree.map(
            lambda x: x * scale if jnp.issubdtype(x.dtype, jnp.floating) else x, next_observation
        )
        return jax.vmap(function)(observation, action, scaled)

    try:
        values = jax.jit(lambda: jnp.stack([at(1 + offset) for offset in (0, ROUNDING, -ROUNDING)]))
        found = np.asarray(values())
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidInput(
            f"the known {role} of {environment} raised {type(error).__name__}: {reason}; it is "
            "traced by JAX: write it in jax.numpy, as a function of one step, (state, action, "
            "next_state)"
        ) from error
    if found.shape[2:]:
        raise InvalidInput(
            f"the known {role} of {environment} has shape {list(found.shape[2:])}; return a single "
            "number, as of one step"
        )
    return found
