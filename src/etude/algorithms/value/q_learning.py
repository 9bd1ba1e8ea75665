"""Tabular Q-learning (Watkins, 1989), SARSA (Rummery & Niranjan, 1994) and expected SARSA."""

import functools
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from etude import spaces
from etude.algorithms.common.exploration import epsilon_greedy
from etude.data.transition import Transition, zeros_like_spec
from etude.estimators import losses
from etude.optim.schedules import linear_schedule
from etude.spaces import EnvironmentSpec
from etude.struct import replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class QLearningState:
    q: Array  # [state, action]
    pending: Any  # sarsa: PendingTransition; () for the others
    steps: Array  # int32: environment steps taken


@struct
class PendingTransition:
    """SARSA's latest transition of each copy, [env]; its target waits for the next action."""

    transition: Transition
    valid: Array  # bool: there is a transition to learn from


@struct
class QLearning:
    """Tabular action values, learned online by ε-greedy exploration: Discrete spaces only."""

    learning_rate: float = traced(0.1, above=0, at_most=1)
    """Step size α: the fraction by which an update moves a value to its target."""
    harmonic_decay_steps: float = traced(math.inf, above=0)
    """Environment steps h after which α is halved: α / (1 + steps / h); inf: never."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    initial_epsilon: float = traced(1.0, at_least=0, at_most=1)
    """Probability of a random action at the start."""
    final_epsilon: float = traced(0.05, at_least=0, at_most=1)
    """Probability of a random action from exploration_steps on."""
    exploration_steps: float = traced(10_000.0, above=0)
    """Environment steps over which epsilon falls linearly."""
    initial_value: float = traced(0.0)
    """Initial value of every action; above any true value it makes untried actions attractive."""
    td_target_kind: Literal["q_learning", "sarsa", "expected_sarsa"] = static("q_learning")
    """Value of the next state: of the best action, of the action taken, or the expected value."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each copy between updates; all of a rollout act on the same q."""

    default_num_envs: ClassVar[int] = 1

    def init(self, key: Array, spec: EnvironmentSpec) -> QLearningState:
        """A table full of `initial_value`; the key is not used."""
        num_states, num_actions = spaces.table_shape(spec, self.td_target_kind)
        q = jnp.full((num_states, num_actions), self.initial_value, jnp.float32)
        valid = jnp.zeros(spec.num_envs, bool)
        transition = jax.tree.map(
            lambda x: jnp.zeros((spec.num_envs, *x.shape), x.dtype), zeros_like_spec(spec)
        )
        pending = PendingTransition(transition, valid) if self.td_target_kind == "sarsa" else ()
        return QLearningState(q, pending, jnp.int32(0))

    def act(
        self, state: QLearningState, observation: Array, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The greedy action, the first of equals; when exploring, random with probability ε."""
        q = state.q[observation]  # [env, action]
        if not explore:
            return q.argmax(-1), memory
        return epsilon_greedy(key, q, self.epsilon(state.steps)), memory

    def epsilon(self, steps: Array) -> Array:
        """The probability of a random action after `steps` environment steps."""
        return linear_schedule(
            steps, self.initial_epsilon, self.final_epsilon, self.exploration_steps
        )

    def update(
        self, state: QLearningState, experience: Transition, key: Array
    ) -> tuple[QLearningState, Metrics]:
        """One update of the table for each time step of the experience [time, env], in order.

        The copies' transitions of one time step are learned together. The metrics are means over
        the transitions learned, and "updates" is their number.
        """
        # harmonic decay: Σ α diverges and Σ α² does not
        learning_rate = self.learning_rate / (1 + state.steps / self.harmonic_decay_steps)
        learn_step = functools.partial(
            self.learn_step, learning_rate=learning_rate, epsilon=self.epsilon(state.steps)
        )
        (q, pending), sums = jax.lax.scan(
            learn_step, (state.q, state.pending), replace(experience, memory=())
        )
        num_updates, loss_sum, value_sum = (x.sum() for x in sums)
        metrics = {
            "q_loss": loss_sum / jnp.maximum(num_updates, 1),
            "q_value": value_sum / jnp.maximum(num_updates, 1),
            "updates": num_updates,
        }
        return QLearningState(q, pending, state.steps + experience.reward.size), metrics

    def learn_step(
        self, carry: tuple[Array, Any], transition: Transition, learning_rate: Array, epsilon: Array
    ) -> tuple[tuple[Array, Any], Any]:
        """Learn from the transitions [env] of one time step; `carry` is q and the pending ones.

        SARSA learns from a transition one step late, when it knows the next action, and before it
        learns anything from that one (Sutton & Barto, 2018, section 6.4). The last transition of an
        episode has no next action, so SARSA learns from it at once; if the episode was truncated,
        the expected value takes the place of the next action's value.
        """
        q, pending = carry
        if self.td_target_kind != "sarsa":
            target = self.estimate_target(q, transition, epsilon)
            q, sums = update_table(
                q, transition, target, jnp.ones_like(transition.done), learning_rate
            )
            return (q, pending), sums
        previous = pending.transition
        sarsa_target = losses.td_target(
            previous.reward,
            q[previous.next_observation, transition.action],
            previous.terminated,
            self.discount,
        )
        q, previous_sums = update_table(q, previous, sarsa_target, pending.valid, learning_rate)
        last_target = self.estimate_target(q, transition, epsilon)
        q, last_sums = update_table(q, transition, last_target, transition.done, learning_rate)
        pending = PendingTransition(transition, ~transition.done)
        return (q, pending), jax.tree.map(jnp.add, previous_sums, last_sums)

    def estimate_target(self, q: Array, transition: Transition, epsilon: Array) -> Array:
        """r + γ (1 - terminated) V(s'), [env].

        V(s') is maxₐ Q(s', a) for Q-learning, else the expected Q of the ε-greedy policy.
        """
        next_q = q[transition.next_observation]  # [env, action]
        next_value = losses.max_q(next_q)
        if self.td_target_kind != "q_learning":
            next_value = (1 - epsilon) * next_value + epsilon * next_q.mean(-1)
        return losses.td_target(transition.reward, next_value, transition.terminated, self.discount)


def update_table(
    q: Array, transition: Transition, target: Array, valid: Array, learning_rate: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Q(s, a) ← Q(s, a) + α (target - Q(s, a)) for the transitions that are `valid` [env].

    Copies with the same state and action at the same time move its value by the mean of their
    errors, because the sum would overshoot. Also returns the number of valid transitions and the
    sums of their losses and values.
    """
    index = transition.observation, transition.action
    td_error = target - q[index]
    counts = jnp.zeros_like(q).at[index].add(valid)[index]
    new_q = q.at[index].add(learning_rate * valid * td_error / jnp.maximum(counts, 1))
    num_valid = valid.sum()
    loss_sum = (valid * losses.l2_loss(td_error)).sum()
    value_sum = (valid * q[index]).sum()
    return new_q, (num_valid, loss_sum, value_sum)


SARSA = functools.partial(QLearning, td_target_kind="sarsa")

ALGORITHMS = {
    "q-learning": (QLearning, "Q-learning in a table: Discrete observations and actions"),
    "sarsa": (SARSA, "SARSA, on-policy Q-learning, in a table: Discrete observations and actions"),
}
