"""The variance of policy gradient estimates by weight: returns, rewards to go and baselines.

On a small MDP with a softmax policy the true gradient is known and episodes are cheap. The gradient
of one episode is Σₜ ∇log π(aₜ | sₜ) wₜ. It is unbiased with every weight w studied here; the
variance differs.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.estimators import baselines
from etude.reporting import figures
from etude.storage import files
from etude.struct import replace
from etude.tabular import evaluation, policy_gradient
from etude.tabular.mdp import MDP, random_mdp
from etude.types import Array

# the MDP: numbers of states and actions, and the probability that a step terminates
STATES, ACTIONS, TERMINATION = 6, 3, 0.25
MAX_STEPS = 80  # of an episode; all but one in 10⁹ have ended by then
REWARD_STD = 3.0  # standard deviation of the reward over states
WEIGHTS = ("whole return", "reward to go", "average baseline", "optimal baseline", "value baseline")


def measure_gradient_variance(
    episodes: int = 20_000, seed: int = 0, out: str | Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Measure the variance of the policy gradient with each weight, and draw it.

    Writes policy_gradient_variance.png and .json into the directory `out`. Returns the directory
    and, for each weight, variance (the trace of the covariance of one episode's gradient) and error
    (the distance of the mean gradient from the true one in standard errors, about 1 for an unbiased
    estimate).

    Raises InvalidInput for fewer than 100 episodes, and for a directory with a measurement in it.
    """
    if episodes < 100:
        raise InvalidInput(f"episodes is {episodes}; give at least 100")
    directory = Path(out) if out is not None else Path("runs") / "policy_gradient_variance"
    if (directory / "policy_gradient_variance.json").exists():
        raise InvalidInput(f"{directory} holds a measurement already; give another --out")
    key_mdp, key_reward, key_policy, key_episodes = jax.random.split(jax.random.key(seed), 4)
    mdp = random_mdp(key_mdp, STATES, ACTIONS, TERMINATION)
    state_reward = REWARD_STD * jax.random.normal(key_reward, (STATES, 1, 1))
    mdp = replace(mdp, reward=mdp.reward + state_reward)
    logits = jax.random.normal(key_policy, (STATES, ACTIONS))
    statistics = jax.device_get(
        jax.jit(estimator_variance, static_argnums=3)(mdp, logits, key_episodes, episodes)
    )
    results = {
        name: {key: float(value) for key, value in statistics[name].items()} for name in WEIGHTS
    }
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(
        directory / "policy_gradient_variance.json", {"episodes": episodes, "seed": seed, **results}
    )
    figures.draw_bars(
        directory / "policy_gradient_variance.png",
        {name: statistics["variance"] for name, statistics in results.items()},
        "variance of one episode's gradient",
        title="Variance of the policy gradient by weight",
        subtitle=f"an MDP of {STATES} states, {episodes:,} episodes; all estimates are unbiased",
    )
    return directory, results


def estimator_variance(
    mdp: MDP, logits: Array, key: Array, episodes: int
) -> dict[str, dict[str, Array]]:
    """Return the variance and the error of the mean for each weight, from `episodes` episodes."""
    # [episode, time]
    state, action, reward, alive = sample_episodes(mdp, logits, key, episodes)
    reward_to_go = jnp.cumsum(reward[:, ::-1], 1)[:, ::-1]
    # [episode, time, action]
    scores = policy_gradient.score(logits)[state, action] * alive[..., None]
    squared_scores = (scores**2).sum(-1)
    whole_return = jnp.broadcast_to(reward_to_go[:, :1], reward_to_go.shape)
    value = evaluation.policy_value(mdp, jax.nn.softmax(logits), 1.0)
    baseline = lambda weight: baselines.leave_one_out_optimal(
        baselines.safe_divide((weight * reward_to_go).sum(1), weight.sum(1)), weight.sum(1)
    )
    weights = (
        whole_return,
        reward_to_go,
        reward_to_go - baseline(alive)[:, None],
        reward_to_go - baseline(squared_scores)[:, None],
        reward_to_go - value[state],
    )
    true_gradient = policy_gradient.policy_gradient_theorem(mdp, logits, 1.0)

    def statistics(weight):
        state_one_hot = jax.nn.one_hot(state, STATES)  # a score has entries in the row of one state
        gradient = jnp.einsum("ets,eta,et->esa", state_one_hot, scores, weight)
        variance = gradient.var(0).sum()
        return {
            "variance": variance,
            "error": jnp.linalg.norm(gradient.mean(0) - true_gradient)
            / jnp.sqrt(variance / episodes),
        }

    return {name: statistics(weight) for name, weight in zip(WEIGHTS, weights, strict=True)}


def sample_episodes(
    mdp: MDP, logits: Array, key: Array, episodes: int
) -> tuple[Array, Array, Array, Array]:
    """Sample episodes: (state, action, reward, alive), [episode, time].

    `alive` is false after the end of an episode, where the reward is 0.
    """

    def step(carry, key):
        state, alive = carry
        key_action, key_next, key_end = jax.random.split(key, 3)
        action = jax.random.categorical(key_action, logits[state])
        next_state = jax.random.categorical(key_next, jnp.log(mdp.transition[state, action]))
        terminated = (
            jax.random.uniform(key_end, state.shape) < mdp.termination[state, action, next_state]
        )
        outputs = state, action, mdp.reward[state, action, next_state] * alive, alive
        return (next_state, alive & ~terminated), outputs

    key_initial, key_steps = jax.random.split(key)
    initial_state = jax.random.categorical(key_initial, jnp.log(mdp.initial), shape=(episodes,))
    initial_carry = initial_state, jnp.ones(episodes, bool)
    outputs = jax.lax.scan(step, initial_carry, jax.random.split(key_steps, MAX_STEPS))[1]
    state, action, reward, alive = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), outputs)
    return state, action, reward, alive
