"""What a plan is worth against a slow loop, and what committing to it costs against closed
forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etude.planning.plans import (
    open_loop_control,
    receding_horizon_control,
    return_of_plans,
    shift_plan,
)
from etude.planning.protocol import LiftedModel, ModelStep
from etude.planning.trajectory.lqr import LinearQuadratic, lqr
from etude.struct import struct

KEY = jax.random.key(0)


@struct
class Walk:
    """x ← x + u + chance; the reward is −x² − 0.1 u², and past `limit` nothing is gained any
    more."""

    noise: float = 1.0
    limit: float = jnp.inf

    def step(self, state, action, key):
        after = state + action + self.noise * jax.random.normal(key, state.shape)
        reward = -(state**2).sum() - 0.1 * (action**2).sum()
        return ModelStep(after, reward, 1.0 - (jnp.abs(after).max() > self.limit))

    @property
    def model(self):
        return LiftedModel(self.step)


@pytest.mark.parametrize("limit", [jnp.inf, 1.5])
def test_a_plan_is_worth_the_mean_of_its_particles(limit):
    """Against NumPy, one plan and one particle at a time, with the same chances for every plan; the
    end is the end."""
    walk, state, horizon, particles = Walk(limit=np.float32(limit)), np.float32([0.5]), 4, 5
    plans = jax.random.normal(KEY, (3, horizon, 1))
    score = jax.jit(
        lambda discount: return_of_plans(
            walk.model,
            state[None, None],
            KEY,
            discount=discount,
            particles=particles,
            final_value=lambda x: 10 + x[..., 0],
        )(plans)
    )
    steps = [jax.random.split(key, particles) for key in jax.random.split(KEY, horizon)]
    chances = [
        [np.asarray(jax.random.normal(step[p], (1,))) for step in steps] for p in range(particles)
    ]
    for discount in (1.0, 0.9, 0.0):
        expected, ends = np.zeros(3), 0
        for i, plan in enumerate(np.asarray(plans)):
            for chance in chances:
                x, alive = np.asarray(state), True
                for t in range(horizon):
                    if alive:
                        expected[i] += (
                            discount**t * -(x[0] ** 2 + 0.1 * plan[t, 0] ** 2) / particles
                        )
                        x = x + plan[t] + chance[t]
                        alive = abs(x[0]) <= limit
                expected[i] += alive * discount**horizon * (10 + x[0]) / particles
                ends += not alive
        assert (ends > 0) == (limit == 1.5) and ends < 15
        np.testing.assert_allclose(score(discount), expected, rtol=1e-4)


def test_rewards_count_as_far_as_the_episode_is_likely_to_have_gone_on():
    """E Σ γᵗ reachₜ rₜ with a chance of 3/4 to go on, and a last value; no reward after the end,
    even one that is not a number."""

    def step(state, action, key):
        after = state + action
        return ModelStep(after, jnp.where(state[0] > 2, jnp.nan, 1.0), 0.75 * (after[0] <= 2))

    def value(plan):
        score = return_of_plans(
            LiftedModel(step),
            jnp.zeros((1, 1, 1)),
            KEY,
            discount=0.5,
            final_value=lambda state: jnp.full(state.shape[:2], 8.0),
        )
        return score(plan[None])[0]

    values = jax.jit(jax.vmap(value))(jnp.stack([jnp.zeros((3, 1)), jnp.ones((3, 1)) * 3]))
    on, factor = 0.75, 0.5 * 0.75
    np.testing.assert_allclose(values, [1 + factor + factor**2 + on**3, 1.0], rtol=1e-6)


def test_what_is_left_of_a_plan():
    np.testing.assert_array_equal(
        shift_plan(jnp.array([[1, 2], [3, 4], [5, 6]])), [[3, 4], [5, 6], [5, 6]]
    )


@pytest.mark.slow
def test_committing_costs_what_the_noise_does_meanwhile():
    """On a noisy walk, the best plan made once and the best plan made anew: both cost what
    mathematics says they do.

    Without noise the optimum is u = K x. Open loop, chance adds up: the cost of the deterministic
    path and σ² (0 + 1 + … ). Closed loop, E x² follows m ← (1 + K)² m + σ², and a step costs (1 +
    0.1 K²) m.
    """
    horizon, runs, noise, start = 12, 4000, 0.5, 2.0
    F, C = np.float32([[1, 1]]), np.diag(np.float32([2, 0.2]))
    gains = lqr(LinearQuadratic(np.tile(F, (horizon, 1, 1)), np.tile(C, (horizon, 1, 1)))).K[
        :, 0, 0
    ]

    def planner(state, plan, key):
        def step(x, gain):
            return x + gain * x, gain * x

        return jax.lax.scan(step, state[0, 0], gains)[1]

    @jax.jit
    def returns(keys):
        model, state = Walk(noise=noise).model, jnp.full((1, 1, 1), start)
        plan = jnp.zeros((horizon, 1))
        committed = jax.vmap(lambda key: open_loop_control(model, planner, state, plan, key))(keys)
        looking = jax.vmap(
            lambda key: receding_horizon_control(model, planner, state, plan, key, horizon)
        )(keys)
        return committed.sum(1), looking.sum(1)

    committed, looking = map(np.asarray, returns(jax.random.split(KEY, runs)))

    k, x, path = np.asarray(gains, float), start, 0.0
    for gain in k:
        path, x = path + (1 + 0.1 * gain**2) * x**2, (1 + gain) * x
    m, closed = start**2, 0.0
    for _ in range(horizon):
        closed, m = closed + (1 + 0.1 * k[0] ** 2) * m, (1 + k[0]) ** 2 * m + noise**2
    for measured, cost in ((committed, path + noise**2 * sum(range(horizon))), (looking, closed)):
        np.testing.assert_allclose(measured.mean(), -cost, atol=4 * measured.std() / runs**0.5)
    assert looking.mean() > committed.mean() + 10  # what it costs not to look


def test_a_search_begins_with_what_is_left_of_the_last_plan_and_nothing_is_gained_after_the_end():
    """A planner that plans what it is given plays its first plan through, whose last action then
    goes on."""
    start = np.float32([[1], [2], [3]])
    rewards = receding_horizon_control(
        Walk(noise=0.0, limit=11.0).model,
        lambda state, plan, key: plan,
        jnp.zeros((1, 1, 1)),
        start,
        KEY,
        6,
    )
    states, actions = np.array([0, 1, 3, 6, 9]), np.array([1, 2, 3, 3, 3])
    np.testing.assert_allclose(rewards, [*(-(states**2) - 0.1 * actions**2), 0], rtol=1e-6)
