"""Tabular environments: an MDP as an environment, and an environment as an MDP."""

import jax
import jax.numpy as jnp
import numpy as np

from etude.environments.protocol import JaxEnvironment, StepResult
from etude.errors import InvalidInput
from etude.spaces import Discrete, to_environment_action
from etude.struct import struct
from etude.tabular.mdp import MDP, make_mdp
from etude.types import Array


@struct
class Tabular:
    """The environment of an MDP; the observation is the index of the state; no time limit.

    The reward depends on state, action and next state. The last next observation of an episode is
    the state in which it ends.
    """

    mdp: MDP

    @property
    def observation_space(self) -> Discrete:
        return Discrete(self.mdp.num_states)

    @property
    def action_space(self) -> Discrete:
        return Discrete(self.mdp.num_actions)

    def reset(self, key: Array) -> tuple[Array, Array]:
        state = sample_index(key, self.mdp.initial)
        return state, state

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, StepResult]:
        key_state, key_end = jax.random.split(key)
        next_state = sample_index(key_state, self.mdp.transition[state, action])
        index = state, action, next_state
        terminated = jax.random.uniform(key_end) < self.mdp.termination[index]
        return next_state, StepResult(
            next_state, self.mdp.reward[index].astype(jnp.float32), terminated, jnp.bool_(False)
        )


def sample_index(key: Array, probabilities: Array) -> Array:
    """Sample an index with `probabilities` [n]; rounding never yields one of probability zero."""
    cumulative = jnp.where(probabilities > 0, probabilities.cumsum(), 0)
    threshold = cumulative.max() * (1 - jax.random.uniform(key))  # above 0, for uniform is below 1
    return (cumulative >= threshold).argmax().astype(jnp.int32)  # the first


def mdp_from_environment(environment: JaxEnvironment, key: Array, samples: int = 1) -> MDP:
    """Estimate the MDP of a JaxEnvironment whose state is its observation in a Discrete space.

    Every pair of state and action is stepped `samples` times, and `samples` episodes are begun for
    each state. Probabilities are observed frequencies and rewards observed means: one sample is
    exact for deterministic steps, otherwise the error is about 1 / √samples. Truncation is no part
    of an MDP and is ignored.

    Raises InvalidInput for other spaces or states, and for fewer than one sample.
    """
    states, actions = environment.observation_space, environment.action_space
    for role, space in (("observation", states), ("action", actions)):
        if not isinstance(space, Discrete):
            raise InvalidInput(
                f"the {role} space is {space}; an environment as an MDP has Discrete observations "
                "and actions"
            )
    assert isinstance(states, Discrete) and isinstance(actions, Discrete)
    if samples < 1:
        raise InvalidInput(f"samples is {samples}; it must be at least 1")
    key_reset, key_step = jax.random.split(key)
    first_states, first_observations = jax.jit(jax.vmap(environment.reset))(
        jax.random.split(key_reset, samples * states.n)
    )
    if not (
        isinstance(first_states, jax.Array)
        and first_states.shape == first_observations.shape
        and (first_states == first_observations).all()
    ):
        raise InvalidInput(
            f"the state of {type(environment).__name__} is not its observation; unwrap it, for a "
            "time limit keeps a clock in its state"
        )
    state, action = (values.ravel() for values in np.indices((states.n, actions.n)))
    keys = jax.random.split(key_step, (samples, len(state)))
    try_all = jax.jit(jax.vmap(jax.vmap(environment.step), (None, None, 0)))
    _, result = try_all(
        jnp.asarray(state, first_observations.dtype),
        to_environment_action(actions, jnp.asarray(action, jnp.int32)),
        keys,
    )
    visits, reward, terminations = np.zeros((3, states.n, actions.n, states.n))
    for sums, values in ((visits, 1), (reward, result.reward), (terminations, result.terminated)):
        np.add.at(sums, (state, action, np.asarray(result.next_observation)), values)
    visits_or_one = np.maximum(visits, 1)
    initial = np.bincount(first_states, minlength=states.n) / len(first_states)
    return make_mdp(visits / samples, reward / visits_or_one, terminations / visits_or_one, initial)
