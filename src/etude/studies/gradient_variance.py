"""How far the policy gradient's estimates spread, by what an action is weighed with.

On a small decision process with a softmax policy, where the true gradient is known and episodes are
cheap, the gradient of one episode is Σₜ ∇log π(aₜ | sₜ) wₜ. All weights have it right on average;
what differs is the variance.
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

# of the process, each of whose steps is the last with this probability
STATES, ACTIONS, END = 6, 3, 0.25
LONGEST = 80  # steps; all but one episode in 10⁹ have ended by then
CONTRAST = 3.0  # standard deviation of what it pays in one state more than in another
WEIGHTS = ("whole return", "reward to go", "average baseline", "optimal baseline", "value baseline")


def measure_gradient_variance(
    episodes: int = 20_000, seed: int = 0, out: str | Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Measure the variance of the policy gradient by each weight, and draw it.

    Writes policy_gradient_variance.png and .json into the directory `out` and returns it and what
    the latter says: for each weight, variance (the trace of the covariance of one episode's
    gradient), and error, the distance of the mean gradient from the true one in units of what
    chance makes of it, about 1 where the estimate is unbiased.

    Raises InvalidInput for fewer than 100 episodes, and for a directory that holds a measurement
    already.
    """
    if episodes < 100:
        raise InvalidInput(f"episodes is {episodes}; give at least 100")
    directory = Path(out) if out is not None else Path("runs") / "policy_gradient_variance"
    if (directory / "policy_gradient_variance.json").exists():
        raise InvalidInput(f"{directory} holds a measurement already; give another --out")
    key_process, key_pay, key_policy, key_play = jax.random.split(jax.random.key(seed), 4)
    process = random_mdp(key_process, STATES, ACTIONS, END)
    pay = CONTRAST * jax.random.normal(key_pay, (STATES, 1, 1))
    process = replace(process, reward=process.reward + pay)
    logits = jax.random.normal(key_policy, (STATES, ACTIONS))
    found = jax.device_get(
        jax.jit(estimator_variance, static_argnums=3)(process, logits, key_play, episodes)
    )
    measured = {name: {key: float(value) for key, value in found[name].items()} for name in WEIGHTS}
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(
        directory / "policy_gradient_variance.json",
        {"episodes": episodes, "seed": seed, **measured},
    )
    figures.draw_bars(
        directory / "policy_gradient_variance.png",
        {name: one["variance"] for name, one in measured.items()},
        "variance of one episode's gradient",
        title="What an action is weighed with",
        subtitle=f"a decision process of {STATES} states, {episodes:,} episodes; all are right on "
        "average",
    )
    return directory, measured


def estimator_variance(
    process: MDP, logits: Array, key: Array, episodes: int
) -> dict[str, dict[str, Array]]:
    """For each weight its variance and the error of its mean, from so many episodes."""
    # [episode, time]
    state, action, reward, alive = sample_episodes(process, logits, key, episodes)
    to_go = jnp.cumsum(reward[:, ::-1], 1)[:, ::-1]
    # [episode, time, action]
    scores = policy_gradient.score(logits)[state, action] * alive[..., None]
    square = (scores**2).sum(-1)
    whole = jnp.broadcast_to(to_go[:, :1], to_go.shape)
    value = evaluation.policy_value(process, jax.nn.softmax(logits), 1.0)
    of_others = lambda weight: baselines.leave_one_out_optimal(
        baselines.safe_divide((weight * to_go).sum(1), weight.sum(1)), weight.sum(1)
    )
    weights = (
        whole,
        to_go,
        to_go - of_others(alive)[:, None],
        to_go - of_others(square)[:, None],
        to_go - value[state],
    )
    true = policy_gradient.policy_gradient_theorem(process, logits, 1.0)

    def judge(weight):
        rows = jax.nn.one_hot(state, STATES)  # the score is of one state's row
        gradient = jnp.einsum("ets,eta,et->esa", rows, scores, weight)
        variance = gradient.var(0).sum()
        return {
            "variance": variance,
            "error": jnp.linalg.norm(gradient.mean(0) - true) / jnp.sqrt(variance / episodes),
        }

    return {name: judge(weight) for name, weight in zip(WEIGHTS, weights, strict=True)}


def sample_episodes(
    process: MDP, logits: Array, key: Array, episodes: int
) -> tuple[Array, Array, Array, Array]:
    """(state, action, reward, whether the episode was still going on), [episode, time]; reward is 0
    where it was not."""

    def step(carry, key):
        state, alive = carry
        key_action, key_next, key_end = jax.random.split(key, 3)
        action = jax.random.categorical(key_action, logits[state])
        after = jax.random.categorical(key_next, jnp.log(process.transition[state, action]))
        ends = jax.random.uniform(key_end, state.shape) < process.termination[state, action, after]
        told = state, action, process.reward[state, action, after] * alive, alive
        return (after, alive & ~ends), told

    key_start, key_steps = jax.random.split(key)
    start = jax.random.categorical(key_start, jnp.log(process.initial), shape=(episodes,))
    begin = start, jnp.ones(episodes, bool)
    told = jax.lax.scan(step, begin, jax.random.split(key_steps, LONGEST))[1]
    state, action, reward, alive = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), told)
    return state, action, reward, alive
