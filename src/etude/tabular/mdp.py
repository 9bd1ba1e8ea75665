"""Decision processes as arrays.

MDP      transition [state, action, next state], reward and end of the same shape, initial
         [state]
POMDP    an MDP whose states are not seen, but observations, emitted with probabilities [state,
         observation]
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
    """A Markov decision process whose whole law is known; `mdp` makes one of arrays, and holds them
    to what they must be."""

    transition: Array  # [state, action, next state]: probabilities, sum one over the last axis
    reward: Array  # [state, action, next state]: of that step, expected
    # [state, action, next state]: the probability that the step is the episode's last
    termination: Array
    initial: Array  # [state]: probabilities of the first state

    @property
    def num_states(self) -> int:
        return self.transition.shape[0]

    @property
    def num_actions(self) -> int:
        return self.transition.shape[1]

    @property
    def continues(self) -> Array:
        """The probability that play goes on in a state, [state, action, next state]; rows sum to
        one or less."""
        return self.transition * (1 - self.termination)

    @property
    def expected_reward(self) -> Array:
        """r(s, a), [state, action]."""
        return (self.transition * self.reward).sum(-1)


@struct
class POMDP:
    """A decision process seen through observations."""

    mdp: MDP
    emission: Array  # [state, observation]: probabilities of what is seen in a state


def make_mdp(transition: Any, reward: Any, terminates: Any = 0.0, initial: Any = None) -> MDP:
    """An MDP from arrays.

    `reward` and `terminates` are [state, action, next state] or what broadcasts to it, such as
    [state, action, 1] or, where only the state reached counts, [next state]; `initial` is uniform
    when none is given.

    Raises InvalidInput where shapes do not fit, a number is not finite or a probability is none.
    """
    transition = as_numbers("transition", transition)
    if transition.ndim != 3 or transition.shape[0] != transition.shape[2] or not transition.size:
        raise InvalidInput(
            f"transition has shape {transition.shape}; it must be [state, action, state]"
        )
    states = len(transition)
    reward, terminates = (
        broadcast(name, x, transition.shape)
        for name, x in (("reward", reward), ("terminates", terminates))
    )
    initial = np.full(states, 1 / states) if initial is None else as_numbers("initial", initial)
    if initial.shape != (states,):
        raise InvalidInput(
            f"initial has shape {initial.shape}; it must be ({states},), one probability a state"
        )
    if wrong := first_index(~np.isfinite(reward)):
        raise InvalidInput(
            f"reward is {reward[wrong]} at [state, action, next state] {list(wrong)}; it must be "
            "finite"
        )
    check_probabilities("terminates", terminates)
    check_distributions("transition", transition)
    check_distributions("initial", initial)
    return MDP(*map(jnp.asarray, (transition, reward, terminates, initial)))


def make_pomdp(process: MDP, emission: Any) -> POMDP:
    """A POMDP from an MDP and the probabilities [state, observation] of what is seen in its states.

    Raises InvalidInput where the shape does not fit or a probability is none.
    """
    emission = as_numbers("emission", emission)
    if emission.ndim != 2 or len(emission) != process.num_states:
        raise InvalidInput(
            f"emission has shape {emission.shape}; it must be [state, observation] of "
            f"{process.num_states} states"
        )
    check_distributions("emission", emission)
    return POMDP(process, jnp.asarray(emission))


def as_numbers(name: str, x: Any) -> np.ndarray:
    """`x` as an array of float64, for rows that sum to one in float32 may not do so to the last
    digit."""
    try:
        return np.asarray(x, np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} is no array of numbers: {error}") from error


def broadcast(name: str, x: Any, shape: tuple[int, ...]) -> np.ndarray:
    given = as_numbers(name, x)
    try:
        return np.broadcast_to(given, shape)
    except ValueError as error:
        raise InvalidInput(
            f"{name} has shape {given.shape}, which does not broadcast to transition's {shape}"
        ) from error


def check_probabilities(name: str, x: np.ndarray) -> None:
    if wrong := first_index(~((x >= 0) & (x <= 1 + 1e-6))):
        raise InvalidInput(
            f"{name} is {x[wrong]} at {list(wrong)}; a probability is between 0 and 1"
        )


def check_distributions(name: str, x: np.ndarray) -> None:
    """The numbers along the last axis must be probabilities, and their sum one."""
    check_probabilities(name, x)
    sums = x.sum(-1, keepdims=True)
    if wrong := first_index(abs(sums - 1) > 1e-6):
        where = f" in row {list(wrong[:-1])}" if x.ndim > 1 else ""
        raise InvalidInput(f"{name} sums to {sums[wrong]}{where}; probabilities sum to 1")


def first_index(wrong: np.ndarray) -> tuple[int, ...]:
    """The index of the first place that is wrong; empty when none is."""
    places = np.argwhere(wrong)
    return tuple(places[0].tolist()) if len(places) else ()


def random_mdp(key: Array, num_states: int, num_actions: int, end: float = 0.0) -> MDP:
    """An MDP of normal rewards and distributions drawn alike from all there are; each step is the
    last with probability `end`."""
    key_transition, key_reward, key_initial = jax.random.split(key, 3)
    shape = (num_states, num_actions, num_states)
    weights, start = (
        jax.random.exponential(key_transition, shape),
        jax.random.exponential(key_initial, shape[:1]),
    )
    transition = weights / weights.sum(-1, keepdims=True)  # Dirichlet(1, ..., 1)
    return MDP(
        transition, jax.random.normal(key_reward, shape), jnp.full(shape, end), start / start.sum()
    )


def from_gymnasium(environment: str | gymnasium.Env, **options: Any) -> MDP:
    """The MDP in the table of a toy-text environment: FrozenLake-v1, Taxi-v4, CliffWalking-v1, or
    one made with a map.

    `environment` is one, or its id, for which `options` are those of `gymnasium.make`. Gymnasium's
    time limit is not in it. Where one action leads to one state in several ways that pay
    differently, as on a slippery cliff, the reward is their mean: values are the same, only returns
    spread less.

    Raises InvalidInput for an environment that cannot be made or whose law is not in a table `P`.
    """
    if not isinstance(environment, str):
        if options:
            raise InvalidInput(
                f"options {options} are for an environment's id; {environment} is made already"
            )
        return from_table(environment)
    try:
        made = gymnasium.make(environment, **options)
    except (gymnasium.error.Error, TypeError) as error:
        given = f" with options {options}" if options else ""
        raise InvalidInput(f"environment {environment!r} cannot be made{given}: {error}") from error
    try:
        return from_table(made)
    finally:
        made.close()


def from_table(environment: gymnasium.Env) -> MDP:
    """The MDP in an environment's own table, P[state][action] = [(probability, next state, reward,
    terminated), ...]."""
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
    transition, reward, terminates = np.zeros((3, int(states.n), int(actions.n), int(states.n)))
    for state, choices in table.items():
        for action, ways in choices.items():
            for probability, successor, paid, ends in ways:  # several ways may lead to one state
                place = state, action, int(successor)
                transition[place] += probability
                reward[place] += probability * paid
                terminates[place] += probability * ends
    reached = np.where(transition > 0, transition, 1)
    return make_mdp(transition, reward / reached, terminates / reached, initial)


def observe(process: POMDP, belief: Array, observation: Array) -> Array:
    """Bayes' rule: what is believed of the state, [state], once an observation of it is there.

        b(s | o) ∝ p(o | s) b(s)

    Zero everywhere when such an observation could not be. The belief before the first observation
    is `mdp.initial`.
    """
    joint = process.emission[:, observation] * belief
    total = joint.sum()
    return jnp.where(total > 0, joint / jnp.where(total > 0, total, 1), 0)


def belief_update(process: POMDP, belief: Array, action: Array, observation: Array) -> Array:
    """What is believed of the state, [state], after an action and the observation that followed it,
    play going on.

        b'(s') ∝ p(o | s') Σₛ p(s' | s, a) b(s)
    """
    return observe(process, belief @ process.mdp.continues[:, action], observation)


def make_continuing(process: MDP) -> MDP:
    """The same process with no episode ever over: a step that would end one starts the next, s' ~
    initial."""
    ends = (process.transition * process.termination).sum(-1, keepdims=True)
    transition = process.continues + ends * process.initial
    reward = jnp.broadcast_to(process.expected_reward[..., None], transition.shape)
    return replace(
        process, transition=transition, reward=reward, termination=jnp.zeros_like(transition)
    )
