"""Tabular Q-learning (Watkins, 1989), SARSA (Rummery & Niranjan, 1994) and expected SARSA."""

import functools
import math
from typing import Any, ClassVar, Literal, cast

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common.exploration import epsilon_greedy
from etude.algorithms.protocol import algorithm
from etude.counters import count_up
from etude.data.transition import Transition, zeros_like_spec
from etude.estimators import losses
from etude.nn.action_masks import beside_mask, legal_actions, masked, space_beside_mask
from etude.optim.schedules import linear_schedule
from etude.spaces import Discrete, EnvironmentSpec, Space
from etude.struct import replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class QLearningState:
    q: Array  # [state, action]
    pending: Any  # a PendingTransition for "sarsa"; () for the other kinds of TD target
    steps: Array  # int32: environment steps taken, summed over all environment copies
    observation_space: Space = static()  # Discrete, or a Dict of that and an action mask


@struct
class PendingTransition:
    """SARSA's transition of each environment copy, [env], stored until its next action is taken."""

    transition: Transition  # of states by their numbers
    valid: Array  # bool: a transition is stored; false at the start and after an episode


@algorithm
class QLearning:
    """Tabular Q-learning, SARSA or expected SARSA, by td_target_kind: Discrete spaces only."""

    learning_rate: float = traced(0.1, above=0, at_most=1)
    """Initial step size α₀: the fraction of the TD error that one update adds to the value."""
    harmonic_decay_steps: float = traced(math.inf, above=0)
    """Environment steps, summed over all environment copies, h after which α is halved: α = α₀ / (1
    + steps / h); inf: constant."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    initial_epsilon: float = traced(1.0, at_least=0, at_most=1)
    """Initial probability ε of a random action."""
    final_epsilon: float = traced(0.05, at_least=0, at_most=1)
    """Probability ε of a random action after exploration_steps."""
    exploration_steps: float = traced(10_000.0, above=0, infinite=True)
    """Environment steps, summed over all environment copies, over which ε falls linearly from
    initial_epsilon to final_epsilon."""
    initial_value: float = traced(0.0)
    """Initial value of every action, in units of the return; above every true value it makes
    untried actions attractive (optimistic initialization)."""
    td_target_kind: Literal["q_learning", "sarsa", "expected_sarsa"] = static("q_learning")
    """Value of the next state in the TD target: the maximum over actions ("q_learning",
    off-policy), that of the next action taken ("sarsa", on-policy), or the expectation under the
    ε-greedy policy ("expected_sarsa", on-policy)."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each environment copy per update; during a rollout the table that
    chooses actions is fixed."""

    assumes: ClassVar[Assumptions] = Assumptions(
        ("Discrete",), discrete_observations=True, action_masks=True
    )

    def init(self, key: Array, spec: EnvironmentSpec) -> QLearningState:
        """Return a table full of `initial_value`; the key is not used."""
        states = cast(Discrete, space_beside_mask(spec.observation))
        q = jnp.full((states.n, spec.action.n), self.initial_value, jnp.float32)
        valid = jnp.zeros(spec.num_envs, bool)
        transition = jax.tree.map(
            lambda x: jnp.zeros((spec.num_envs, *x.shape), x.dtype),
            zeros_like_spec(replace(spec, observation=states)),
        )
        pending = PendingTransition(transition, valid) if self.td_target_kind == "sarsa" else ()
        return QLearningState(q, pending, jnp.int32(0), spec.observation)

    def act(
        self, state: QLearningState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """Return the greedy action, of ties the first; with `explore` random with probability ε."""
        q = state.q[beside_mask(state.observation_space, observation)]  # [env, action]
        legal = self.legal_actions(state, observation)
        if not explore:
            return masked(q, legal).argmax(-1), memory
        return epsilon_greedy(key, q, self.epsilon(state.steps), legal), memory

    def legal_actions(self, state: QLearningState, observation: Any) -> Array | None:
        """The legal actions, bool [..., action]; None where all always are."""
        return legal_actions(state.observation_space, Discrete(state.q.shape[-1]), observation)

    def epsilon(self, steps: Array) -> Array:
        """Return the probability of a random action after `steps` environment steps."""
        return linear_schedule(
            steps, self.initial_epsilon, self.final_epsilon, self.exploration_steps
        )

    def update(
        self, state: QLearningState, experience: Transition, key: Array
    ) -> tuple[QLearningState, Metrics]:
        """Update the table once for each time step of the experience [time, env], in order.

        The transitions of all environment copies at one time step update the table together. The
        metrics are means over the transitions learned from, and "updates" is their number; "q_loss"
        is half the squared TD error.
        """
        # Harmonic decay, with h harmonic_decay_steps: for finite h, Σ α diverges and Σ α² does not
        # (Robbins & Monro, 1951).
        learning_rate = self.learning_rate / (1 + state.steps / self.harmonic_decay_steps)
        learn_step = functools.partial(
            self.learn_step, learning_rate=learning_rate, epsilon=self.epsilon(state.steps)
        )
        next_legal = self.legal_actions(state, experience.next_observation)
        transitions = replace(
            experience,
            observation=beside_mask(state.observation_space, experience.observation),
            next_observation=beside_mask(state.observation_space, experience.next_observation),
            memory=(),
        )
        (q, pending), sums = jax.lax.scan(
            learn_step, (state.q, state.pending), (transitions, next_legal)
        )
        num_updates, loss_sum, value_sum = (x.sum() for x in sums)
        metrics = {
            "q_loss": loss_sum / jnp.maximum(num_updates, 1),
            "q_value": value_sum / jnp.maximum(num_updates, 1),
            "updates": num_updates,
        }
        steps = count_up(state.steps, experience.reward.size)
        return replace(state, q=q, pending=pending, steps=steps), metrics

    def truncate_episodes(self, state: QLearningState, is_cut: Array) -> QLearningState:
        """Drop the transitions that wait for a next action, which episodes cut off do not have."""
        if not state.pending:
            return state
        pending = replace(state.pending, valid=state.pending.valid & ~is_cut)
        return replace(state, pending=pending)

    def learn_step(
        self,
        carry: tuple[Array, Any],
        step: tuple[Transition, Array | None],
        learning_rate: Array,
        epsilon: Array,
    ) -> tuple[tuple[Array, Any], Any]:
        """Learn from the transitions [env] of one time step; `carry` is (q, pending).

        `step` is (transition, legal actions of the next state).

        SARSA updates Q(s, a) when it knows a', and before it updates Q(s', a') (Sutton & Barto,
        2018, section 6.4): the first update below is that of the pending transition. The second is
        that of a transition at the end of an episode, which has no next action and is not stored;
        if the episode was truncated, the expected Q(s', ·) under the ε-greedy policy replaces the
        next action's value.
        """
        (q, pending), (transition, next_legal) = carry, step
        if self.td_target_kind != "sarsa":
            target = self.estimate_target(q, transition, next_legal, epsilon)
            q, sums = update_table(
                q, transition, target, jnp.ones_like(transition.done), learning_rate
            )
            return (q, pending), sums
        pending_transition = pending.transition
        sarsa_target = losses.td_target(
            pending_transition.reward,
            q[pending_transition.next_observation, transition.action],
            pending_transition.terminated,
            self.discount,
        )
        q, pending_sums = update_table(
            q, pending_transition, sarsa_target, pending.valid, learning_rate
        )
        end_target = self.estimate_target(q, transition, next_legal, epsilon)
        q, end_sums = update_table(q, transition, end_target, transition.done, learning_rate)
        pending = PendingTransition(transition, ~transition.done)
        return (q, pending), jax.tree.map(jnp.add, pending_sums, end_sums)

    def estimate_target(
        self, q: Array, transition: Transition, next_legal: Array | None, epsilon: Array
    ) -> Array:
        """Return the TD target without the next action, r + γ (1 - terminated) V(s'), [env].

        V(s') is maxₐ Q(s', a) for Q-learning, else the expected Q(s', ·) under the ε-greedy policy,
        over the legal actions [env, action].
        """
        next_q = q[transition.next_observation]  # [env, action]
        next_value = losses.max_q(masked(next_q, next_legal))
        if self.td_target_kind != "q_learning":
            next_value = (1 - epsilon) * next_value + epsilon * next_q.mean(-1, where=next_legal)
        return losses.td_target(transition.reward, next_value, transition.terminated, self.discount)


def update_table(
    q: Array, transition: Transition, target: Array, valid: Array, learning_rate: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Update Q(s, a) ← Q(s, a) + α (target - Q(s, a)) for the transitions that are `valid` [env].

    Environment copies with the same state and action move its value by α times the mean of their TD
    errors, because the sum would overshoot. Also returns the number of valid transitions and the
    sums of their losses and of their Q(s, a) before the update.
    """
    index = transition.observation, transition.action
    losses.check_target("estimate_target", target, q[index])
    td_error = target - q[index]
    counts = jnp.zeros_like(q).at[index].add(valid)[index]
    new_q = q.at[index].add(learning_rate * valid * td_error / jnp.maximum(counts, 1))
    num_valid = valid.sum()
    loss_sum = (valid * losses.l2_loss(td_error)).sum()
    value_sum = (valid * q[index]).sum()
    return new_q, (num_valid, loss_sum, value_sum)


SARSA = functools.partial(QLearning, td_target_kind="sarsa")

# Name on the command line: (constructor, description).
ALGORITHMS = {
    "q-learning": (QLearning, "Q-learning in a table: Discrete observations and actions"),
    "sarsa": (SARSA, "SARSA, on-policy TD control, in a table: Discrete observations and actions"),
}
