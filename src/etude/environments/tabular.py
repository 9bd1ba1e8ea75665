"""From a process written down to an environment that plays it, and back."""

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
    """The environment of an MDP, whose state is its observation, a number; it has no time limit.

    The reward is that of state, action and next state. A state that is entered as the episode ends
    is still what is observed.
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
        after = sample_index(key_state, self.mdp.transition[state, action])
        place = state, action, after
        terminated = jax.random.uniform(key_end) < self.mdp.termination[place]
        return after, StepResult(
            after, self.mdp.reward[place].astype(jnp.float32), terminated, jnp.bool_(False)
        )


def sample_index(key: Array, probabilities: Array) -> Array:
    """A number drawn with `probabilities` [n]; never one whose probability is zero, whatever
    rounding does to their sums."""
    sums = jnp.where(probabilities > 0, probabilities.cumsum(), 0)
    point = sums.max() * (1 - jax.random.uniform(key))  # above 0, for uniform is below 1
    return (sums >= point).argmax().astype(jnp.int32)  # the first


def mdp_from_environment(environment: JaxEnvironment, key: Array, samples: int = 1) -> MDP:
    """The MDP of an environment written in JAX whose state is its observation, one number of a
    Discrete space.

    Every state and action is tried `samples` times, and as many episodes are begun as there are
    states, times `samples`: law and reward are the frequencies and the means seen. With one sample
    a deterministic step is exact; what is drawn at random is off by about 1 / √samples. Truncation
    is no part of an MDP, and is left out.

    Raises InvalidInput for other spaces or states, and for fewer than one sample.
    """
    states, actions = environment.observation_space, environment.action_space
    for role, space in (("observation", states), ("action", actions)):
        if not isinstance(space, Discrete):
            raise InvalidInput(
                f"the {role} space is {space}; an environment as an MDP has Discrete observations "
                "and actions"
            )
    if samples < 1:
        raise InvalidInput(f"samples is {samples}; it must be at least 1")
    key_reset, key_step = jax.random.split(key)
    first, seen = jax.jit(jax.vmap(environment.reset))(
        jax.random.split(key_reset, samples * states.n)
    )
    if not (isinstance(first, jax.Array) and first.shape == seen.shape and (first == seen).all()):
        raise InvalidInput(
            f"the state of {type(environment).__name__} is not its observation; unwrap it, for a "
            "time limit "
            "keeps a clock in its state"
        )
    state, action = (x.ravel() for x in np.indices((states.n, actions.n)))
    keys = jax.random.split(key_step, (samples, len(state)))
    try_all = jax.jit(jax.vmap(jax.vmap(environment.step), (None, None, 0)))
    _, outcome = try_all(
        jnp.asarray(state, seen.dtype),
        to_environment_action(actions, jnp.asarray(action, jnp.int32)),
        keys,
    )
    visits, reward, ends = np.zeros((3, states.n, actions.n, states.n))
    for sums, x in ((visits, 1), (reward, outcome.reward), (ends, outcome.terminated)):
        np.add.at(sums, (state, action, np.asarray(outcome.next_observation)), x)
    seen_at_all = np.maximum(visits, 1)
    initial = np.bincount(first, minlength=states.n) / len(first)
    return make_mdp(visits / samples, reward / seen_at_all, ends / seen_at_all, initial)
