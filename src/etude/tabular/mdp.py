"""Markov decision processes as arrays: MDP, POMDP, Gymnasium's tables and belief updates.

MDP      transition [state, action, next state], reward and termination of the same shape, initial
         [state]
POMDP    an MDP with hidden states and emission probabilities [state, observation]
"""

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from etude.errors import InvalidInput
from etude.struct import replace, struct
from etude.types import Array


@struct
class MDP:
    """A Markov decision process; `make_mdp` makes one from arrays and validates them."""

    transition: Array  # [state, action, next state]: probabilities, which sum to 1 over next states
    reward: Array  # [state, action, next state]: expected reward of the step
    termination: Array  # [state, action, next state]: probability that the step is the last
    initial: Array  # [state]: probabilities of the initial state

    @property
    def num_states(self) -> int:
        return self.transition.shape[0]

    @property
    def num_actions(self) -> int:
        return self.transition.shape[1]

    @property
    def continues(self) -> Array:
        """The probability of the next state without termination, [state, action, next state]."""
        return self.transition * (1 - self.termination)

    @property
    def expected_reward(self) -> Array:
        """r(s, a), [state, action]."""
        return (self.transition * self.reward).sum(-1)


@struct
class POMDP:
    """A partially observable Markov decision process."""

    mdp: MDP
    emission: Array  # [state, observation]: probabilities of the observations of a state


def make_mdp(transition: Any, reward: Any, termination: Any = 0.0, initial: Any = None) -> MDP:
    """Make an MDP from arrays and validate them.

    `reward` and `termination` are [state, action, next state] or broadcast to it, such as [state,
    action, 1] or [next state]; `initial` is uniform by default.

    Raises InvalidInput where shapes do not fit, a reward is not finite, or probabilities are not in
    [0, 1] or do not sum to 1.
    """
    transition = as_numbers("transition", transition)
    if transition.ndim != 3 or transition.shape[0] != transition.shape[2] or not transition.size:
        raise InvalidInput(
            f"transition has shape {transition.shape}; it must be [state, action, state]"
        )
    num_states = len(transition)
    reward, termination = (
        broadcast(name, x, transition.shape)
        for name, x in (("reward", reward), ("termination", termination))
    )
    initial = (
        np.full(num_states, 1 / num_states) if initial is None else as_numbers("initial", initial)
    )
    if initial.shape != (num_states,):
        raise InvalidInput(
            f"initial has shape {initial.shape}; it must be ({num_states},), one probability a "
            "state"
        )
    if index := first_index(~np.isfinite(reward)):
        raise InvalidInput(
            f"reward is {reward[index]} at [state, action, next state] {list(index)}; it must be "
            "finite"
        )
    check_probabilities("termination", termination)
    check_distributions("transition", transition)
    check_distributions("initial", initial)
    return MDP(*jax.device_put((transition, reward, termination, initial)))


def make_pomdp(mdp: MDP, emission: Any) -> POMDP:
    """Make a POMDP from an MDP and emission probabilities [state, observation].

    Raises InvalidInput where the shape does not fit, or probabilities are not in [0, 1] or do not
    sum to 1.
    """
    emission = as_numbers("emission", emission)
    if emission.ndim != 2 or len(emission) != mdp.num_states:
        raise InvalidInput(
            f"emission has shape {emission.shape}; it must be [state, observation] of "
            f"{mdp.num_states} states"
        )
    check_distributions("emission", emission)
    return POMDP(mdp, jax.device_put(emission))


def as_numbers(name: str, x: Any) -> np.ndarray:
    """Copy `x` as float64, since rows that sum to one in float32 may not do so exactly."""
    try:
        return np.array(x, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} is no array of numbers: {error}") from error


def broadcast(name: str, x: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Broadcast `x` to the transition's `shape`, or raise InvalidInput."""
    array = as_numbers(name, x)
    try:
        return np.broadcast_to(array, shape)
    except ValueError as error:
        raise InvalidInput(
            f"{name} has shape {array.shape}, which does not broadcast to transition's {shape}"
        ) from error


def check_probabilities(name: str, x: np.ndarray) -> None:
    """Raise InvalidInput unless all elements are in [0, 1]."""
    if index := first_index(~((x >= 0) & (x <= 1 + 1e-6))):
        raise InvalidInput(
            f"{name} is {x[index]} at {list(index)}; a probability is between 0 and 1"
        )


def check_distributions(name: str, x: np.ndarray) -> None:
    """Raise InvalidInput unless the last axis holds probabilities that sum to 1."""
    check_probabilities(name, x)
    sums = x.sum(-1, keepdims=True)
    if index := first_index(abs(sums - 1) > 1e-6):
        row = f" in row {list(index[:-1])}" if x.ndim > 1 else ""
        raise InvalidInput(f"{name} sums to {sums[index]}{row}; probabilities sum to 1")


def first_index(mask: np.ndarray) -> tuple[int, ...]:
    """Return the index of the first True element, or () where there is none."""
    indices = np.argwhere(mask)
    return tuple(indices[0].tolist()) if len(indices) else ()


def random_mdp(key: Array, num_states: int, num_actions: int, termination: float = 0.0) -> MDP:
    """Sample an MDP with normal rewards and uniformly distributed (Dirichlet) transitions.

    Each step terminates with probability `termination`.
    """
    key_transition, key_reward, key_initial = jax.random.split(key, 3)
    shape = (num_states, num_actions, num_states)
    # normalized exponentials are Dirichlet(1, ..., 1)
    transition, initial = (
        jax.random.exponential(key_transition, shape),
        jax.random.exponential(key_initial, shape[:1]),
    )
    transition = transition / transition.sum(-1, keepdims=True)
    return MDP(
        transition,
        jax.random.normal(key_reward, shape),
        jnp.full(shape, termination),
        initial / initial.sum(),
    )


def from_gymnasium(environment: str | gymnasium.Env, **options: Any) -> MDP:
    """Read the MDP of a toy-text environment: FrozenLake-v1, Taxi-v4 or CliffWalking-v1.

    `environment` is the environment, or its id, with `options` for `gymnasium.make`. The MDP has no
    time limit. Where several entries of the table lead to the same state with different rewards, as
    on a slippery cliff, the reward is their mean: values are equal, only the variance of returns is
    smaller.

    Raises InvalidInput for an environment that cannot be made or has no transition table `P`.
    """
    if not isinstance(environment, str):
        if options:
            raise InvalidInput(
                f"options {options} are for an environment's id; {environment} is made already"
            )
        return from_table(environment)
    try:
        env = gymnasium.make(environment, **options)
    except (gymnasium.error.Error, TypeError) as error:
        suffix = f" with options {options}" if options else ""
        raise InvalidInput(
            f"environment {environment!r} cannot be made{suffix}: {error}"
        ) from error
    try:
        return from_table(env)
    finally:
        env.close()


def from_table(environment: gymnasium.Env) -> MDP:
    """Read the MDP from an environment's transition table.

    P[state][action] = [(probability, next state, reward, terminated), ...]
    """
    table, initial = (
        getattr(environment.unwrapped, name, None) for name in ("P", "initial_state_distrib")
    )
    states, actions = environment.observation_space, environment.action_space
    discrete = gymnasium.spaces.Discrete
    if (
        table is None
        or initial is None
        or not isinstance(states, discrete)
        or not isinstance(actions, discrete)
    ):
        raise InvalidInput(
            f"{environment} has no table of its transitions; FrozenLake-v1, Taxi-v4 and "
            "CliffWalking-v1 have one"
        )
    if getattr(environment.unwrapped, "fickle_passenger", False):
        raise InvalidInput(
            "a fickle passenger's change of mind is not in Taxi's table; make it with "
            "fickle_passenger=False"
        )
    transition, reward, termination = np.zeros((3, int(states.n), int(actions.n), int(states.n)))
    for state, actions_of_state in table.items():
        for action, entries in actions_of_state.items():
            # several entries may lead to one state
            for probability, next_state, entry_reward, terminated in entries:
                index = state, action, int(next_state)
                transition[index] += probability
                reward[index] += probability * entry_reward
                termination[index] += probability * terminated
    divisor = np.where(transition > 0, transition, 1)
    return make_mdp(transition, reward / divisor, termination / divisor, initial)


def observe(pomdp: POMDP, belief: Array, observation: Array) -> Array:
    """Condition a belief [state] on an observation by Bayes' rule.

        b(s | o) ∝ p(o | s) b(s)

    The result is zero for an observation of probability zero. The belief before the first
    observation is `pomdp.mdp.initial`.
    """
    joint = pomdp.emission[:, observation] * belief
    total = joint.sum()
    return jnp.where(total > 0, joint / jnp.where(total > 0, total, 1), 0)


def belief_update(pomdp: POMDP, belief: Array, action: Array, observation: Array) -> Array:
    """Return the belief [state] after an action and the next observation, without termination.

    b'(s') ∝ p(o | s') Σₛ p(s' | s, a) b(s)
    """
    return observe(pomdp, belief @ pomdp.mdp.continues[:, action], observation)


def make_continuing(mdp: MDP) -> MDP:
    """Make the MDP continuing: a step that would terminate leads to an initial state instead."""
    end_probability = (mdp.transition * mdp.termination).sum(-1, keepdims=True)
    transition = mdp.continues + end_probability * mdp.initial
    reward = jnp.broadcast_to(mdp.expected_reward[..., None], transition.shape)
    return replace(
        mdp, transition=transition, reward=reward, termination=jnp.zeros_like(transition)
    )
