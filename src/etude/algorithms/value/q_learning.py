"""Q-learning in a table (Watkins, 1989), and its on-policy kin: SARSA (Rummery & Niranjan, 1994),
expected SARSA."""

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
    pending: Any  # sarsa: Waiting; the others have none
    steps: Array  # int32: environment steps taken


@struct
class PendingTransition:
    """SARSA's last step in each copy, [env], when it is not learned from yet for want of the action
    that comes next."""

    transition: Transition
    valid: Array  # bool


@struct
class QLearning:
    """Action values in a table: Discrete observations and actions, ε-greedy play, one update a step
    in the order lived."""

    learning_rate: float = traced(0.1, above=0, at_most=1)
    """α: the share of the way to the target that a value goes."""
    half_life_steps: float = traced(math.inf, above=0)
    """Environment steps h after which α is a half: α / (1 + steps / h)."""
    discount: float = traced(0.99, at_least=0, at_most=1)
    """γ, per environment step."""
    initial_epsilon: float = traced(1.0, at_least=0, at_most=1)
    """Of a random action, at the start."""
    final_epsilon: float = traced(0.05, at_least=0, at_most=1)
    """And from exploration_steps on."""
    exploration_steps: float = traced(10_000.0, above=0)
    """Environment steps over which epsilon falls linearly."""
    initial_value: float = traced(0.0)
    """Of every action; more than can be had makes the untried tempting."""
    td_target_kind: Literal["q_learning", "sarsa", "expected_sarsa"] = static("q_learning")
    """The value of s': best, lived or expected."""
    rollout_length: int = static(1, at_least=1)
    """Environment steps of each copy between updates, which act on an old q."""

    default_num_envs: ClassVar[int] = 1

    def init(self, key: Array, spec: EnvironmentSpec) -> QLearningState:
        """The table before the first step; no randomness is in it."""
        states, actions = spaces.table_shape(spec, self.td_target_kind)
        q = jnp.full((states, actions), self.initial_value, jnp.float32)
        none = jnp.zeros(spec.num_envs, bool)
        blank = jax.tree.map(
            lambda x: jnp.zeros((spec.num_envs, *x.shape), x.dtype), zeros_like_spec(spec)
        )
        return QLearningState(
            q,
            PendingTransition(blank, none) if self.td_target_kind == "sarsa" else (),
            jnp.int32(0),
        )

    def act(
        self, state: QLearningState, observation: Array, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """The best action by q, the first of equals; when exploring, with probability ε one at
        random."""
        values = state.q[observation]  # [env, action]
        return epsilon_greedy(key, values, self.epsilon(state.steps)) if explore else values.argmax(
            -1
        ), memory

    def epsilon(self, steps: Array) -> Array:
        return linear_schedule(
            steps, self.initial_epsilon, self.final_epsilon, self.exploration_steps
        )

    def update(
        self, state: QLearningState, experience: Transition, key: Array
    ) -> tuple[QLearningState, Metrics]:
        """One update for each moment of the experience, in the order lived; the copies' steps of
        one moment go together.

        The metrics are means over the steps learned from, and "updates" is their number.
        """
        # Σ α diverges, Σ α² does not
        rate = self.learning_rate / (1 + state.steps / self.half_life_steps)
        learn = functools.partial(self.learn_step, rate=rate, epsilon=self.epsilon(state.steps))
        (q, waiting), sums = jax.lax.scan(
            learn, (state.q, state.pending), replace(experience, memory=())
        )
        count, loss, value = (x.sum() for x in sums)
        metrics = {
            "q_loss": loss / jnp.maximum(count, 1),
            "q_value": value / jnp.maximum(count, 1),
            "updates": count,
        }
        return QLearningState(q, waiting, state.steps + experience.reward.size), metrics

    def learn_step(
        self, learned: tuple[Array, Any], now: Transition, rate: Array, epsilon: Array
    ) -> tuple[tuple[Array, Any], Any]:
        """What a moment teaches, `now` being [env].

        SARSA learns from a step when it knows the next action, a moment later and before anything
        is learned from that: the order of the textbook (Sutton & Barto, 2018, section 6.4). The end
        of an episode has no next action to wait for; where it was cut off, the expected one stands
        in.
        """
        q, waiting = learned
        if self.td_target_kind != "sarsa":
            q, sums = fit_table(
                q, now, self.estimate_target(q, now, epsilon), jnp.ones_like(now.done), rate
            )
            return (q, waiting), sums
        before = waiting.transition
        lived = losses.td_target(
            before.reward, q[before.next_observation, now.action], before.terminated, self.discount
        )
        q, earlier = fit_table(q, before, lived, waiting.valid, rate)
        q, last = fit_table(q, now, self.estimate_target(q, now, epsilon), now.done, rate)
        return (q, PendingTransition(now, ~now.done)), jax.tree.map(jnp.add, earlier, last)

    def estimate_target(self, q: Array, now: Transition, epsilon: Array) -> Array:
        """r + γ (1 - terminated) V(s'): Q's largest value, or for SARSA what ε-greedy play expects
        of it."""
        values = q[now.next_observation]  # [env, action]
        future = losses.max_q(values)
        if self.td_target_kind != "q_learning":
            future = (1 - epsilon) * future + epsilon * values.mean(-1)
        return losses.td_target(now.reward, future, now.terminated, self.discount)


def fit_table(
    q: Array, step: Transition, target: Array, ready: Array, rate: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Q(s, a) ← Q(s, a) + α (target - Q(s, a)) for the copies that are `ready` [env].

    Copies in one state with one action at one moment move its value by the mean of their errors,
    for the sum would overshoot. Also how many copies learned, and the sums of their losses and
    values.
    """
    place = step.observation, step.action
    error = target - q[place]
    together = jnp.zeros_like(q).at[place].add(ready)[place]
    moved = q.at[place].add(rate * ready * error / jnp.maximum(together, 1))
    return moved, (ready.sum(), (ready * losses.l2_loss(error)).sum(), (ready * q[place]).sum())


SARSA = functools.partial(QLearning, td_target_kind="sarsa")

ALGORITHMS = {
    "q-learning": (QLearning, "Q-learning in a table: Discrete observations and actions"),
    "sarsa": (SARSA, "SARSA, on-policy Q-learning, in a table: Discrete observations and actions"),
}
