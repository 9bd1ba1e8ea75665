"""Q-learning in a table (Watkins, 1989), and its on-policy kin: SARSA (Rummery & Niranjan, 1994), expected SARSA."""
import functools
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from etude import spaces
from etude.estimators import errors
from etude.experience import Transition, example
from etude.exploration import epsilon_greedy
from etude.schedules import falling
from etude.spaces import Spec
from etude.struct import replace, static, struct, traced

Array = jax.Array
Metrics = dict[str, Array]


@struct
class QLearningState:
    q: Array                   # [state, action]
    waiting: Any               # sarsa: Waiting; the others have none
    steps: Array               # int32: environment steps taken


@struct
class Waiting:
    """SARSA's last step in each copy, [env], when it is not learned from yet for want of the action that comes next."""
    transition: Transition
    there: Array               # bool


@struct
class QLearning:
    """Action values in a table: Discrete observations and actions, ε-greedy play, one update a step in the order lived."""
    learning_rate: float = traced(0.1, above=0, at_most=1)  # α: the share of the way to the target that a value goes
    harmonic_decay: float = traced(math.inf, above=0)     # environment steps h after which α is a half: α / (1 + steps / h)
    discount: float = traced(0.99, at_least=0, at_most=1)  # γ, per environment step
    initial_epsilon: float = traced(1.0, at_least=0, at_most=1)    # of a random action, at the start
    final_epsilon: float = traced(0.05, at_least=0, at_most=1)    # and from exploration_steps on
    exploration_steps: float = traced(10_000.0, above=0)  # environment steps over which epsilon falls linearly
    initial_value: float = traced(0.0)                    # of every action; more than can be had makes the untried tempting
    target: Literal["q_learning", "sarsa", "expected_sarsa"] = static("q_learning")  # the value of s': best, lived or expected
    rollout_length: int = static(1, at_least=1)           # environment steps of each copy between updates, which act on an old q

    default_num_envs: ClassVar[int] = 1

    def init(self, key: Array, spec: Spec) -> QLearningState:
        """The table before the first step; no randomness is in it."""
        states, actions = spaces.table(spec, self.target)
        q = jnp.full((states, actions), self.initial_value, jnp.float32)
        none = jnp.zeros(spec.num_envs, bool)
        blank = jax.tree.map(lambda x: jnp.zeros((spec.num_envs, *x.shape), x.dtype), example(spec))
        return QLearningState(q, Waiting(blank, none) if self.target == "sarsa" else (), jnp.int32(0))

    def act(self, state: QLearningState, observation: Array, memory: Any, key: Array, explore: bool) -> tuple[Array, Any]:
        """The best action by q, the first of equals; when exploring, with probability ε one at random."""
        values = state.q[observation]                                           # [env, action]
        return epsilon_greedy(key, values, self.epsilon(state.steps)) if explore else values.argmax(-1), memory

    def epsilon(self, steps: Array) -> Array:
        return falling(steps, self.initial_epsilon, self.final_epsilon, self.exploration_steps)

    def update(self, state: QLearningState, experience: Transition, key: Array) -> tuple[QLearningState, Metrics]:
        """One update for each moment of the experience, in the order lived; the copies' steps of one moment go together.

        The metrics are means over the steps learned from, and "updates" is their number.
        """
        rate = self.learning_rate / (1 + state.steps / self.harmonic_decay)     # Σ α diverges, Σ α² does not
        learn = functools.partial(self.learn, rate=rate, epsilon=self.epsilon(state.steps))
        (q, waiting), sums = jax.lax.scan(learn, (state.q, state.waiting), replace(experience, memory=()))
        count, loss, value = (x.sum() for x in sums)
        metrics = {"q_loss": loss / jnp.maximum(count, 1), "q_value": value / jnp.maximum(count, 1), "updates": count}
        return QLearningState(q, waiting, state.steps + experience.reward.size), metrics

    def learn(self, learned: tuple[Array, Any], now: Transition, rate: Array, epsilon: Array) -> tuple[tuple[Array, Any], Any]:
        """What a moment teaches, `now` being [env].

        SARSA learns from a step when it knows the next action, a moment later and before anything is learned from that:
        the order of the textbook (Sutton & Barto, 2018, section 6.4). The end of an episode has no next action to wait for;
        where it was cut off, the expected one stands in.
        """
        q, waiting = learned
        if self.target != "sarsa":
            q, sums = fit_q(q, now, self.estimate_target(q, now, epsilon), jnp.ones_like(now.done), rate)
            return (q, waiting), sums
        before = waiting.transition
        lived = errors.one_step_target(before.reward, q[before.next_observation, now.action], before.terminated, self.discount)
        q, earlier = fit_q(q, before, lived, waiting.there, rate)
        q, last = fit_q(q, now, self.estimate_target(q, now, epsilon), now.done, rate)
        return (q, Waiting(now, ~now.done)), jax.tree.map(jnp.add, earlier, last)

    def estimate_target(self, q: Array, now: Transition, epsilon: Array) -> Array:
        """r + γ (1 - terminated) V(s'): Q's largest value, or for SARSA what ε-greedy play expects of it."""
        values = q[now.next_observation]                                        # [env, action]
        future = errors.greedy_value(values)
        if self.target != "q_learning":
            future = (1 - epsilon) * future + epsilon * values.mean(-1)
        return errors.one_step_target(now.reward, future, now.terminated, self.discount)


def fit_q(q: Array, step: Transition, target: Array, ready: Array, rate: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    """Q(s, a) ← Q(s, a) + α (target - Q(s, a)) for the copies that are `ready` [env].

    Copies in one state with one action at one moment move its value by the mean of their errors, for the sum would
    overshoot. Also how many copies learned, and the sums of their losses and values.
    """
    place = step.observation, step.action
    error = target - q[place]
    together = jnp.zeros_like(q).at[place].add(ready)[place]
    moved = q.at[place].add(rate * ready * error / jnp.maximum(together, 1))
    return moved, (ready.sum(), (ready * errors.squared(error)).sum(), (ready * q[place]).sum())


SARSA = functools.partial(QLearning, target="sarsa")

ALGORITHMS = {
    "q-learning": (QLearning, "Q-learning in a table: Discrete observations and actions"),
    "sarsa": (SARSA, "SARSA, on-policy Q-learning, in a table: Discrete observations and actions"),
}
