"""λ-returns against the mixture that defines them, on random shapes and random ends of episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from etude.estimators import returns

lambda_returns = jax.jit(returns.lambda_returns)
discounted_returns = jax.jit(returns.discounted_returns)
gae = jax.jit(returns.gae)
oracle = jax.jit(rlax.lambda_returns)

SHAPES = [(1,), (6,), (5, 3)]
numbers = st.floats(-10, 10, width=32, allow_subnormal=False)  # which XLA takes for zero on a CPU
shares = st.floats(0, 1, width=32)
quick = settings(deadline=None, max_examples=50)
close = dict(rtol=1e-4, atol=1e-4)


@st.composite
def experiences(draw):
    """A stretch of experience [time, ...]; of its ends some are terminations, some cuts."""
    shape = draw(st.sampled_from(SHAPES))
    real, flag = (
        arrays.arrays(dtype, shape, elements=elements, fill=st.nothing())
        for dtype, elements in ((np.float32, numbers), (bool, st.booleans()))
    )
    reward, next_value, terminated, truncated = (draw(part) for part in (real, real, flag, flag))
    return dict(
        reward=reward, next_value=next_value, terminated=terminated, done=terminated | truncated
    )


def slow_return(x, t, n, discount):
    """G⁽ⁿ⁾ₜ: n rewards, then the value of the state reached unless it ended the episode."""
    total = sum(discount**k * x["reward"][t + k] for k in range(n))
    return total + (0 if x["terminated"][t + n - 1] else discount**n * x["next_value"][t + n - 1])


def slow_lambda(x, discount, lambda_):
    """(1 - λ) Σₙ λⁿ⁻¹ G⁽ⁿ⁾ₜ over all but the longest return, which gets what is left, λᴺ⁻¹ (eq.
    12.3)."""
    mixed = []
    for t in range(len(x["reward"])):
        longest = 1
        while not x["done"][t + longest - 1] and t + longest < len(x["reward"]):
            longest += 1
        total = lambda_ ** (longest - 1) * slow_return(x, t, longest, discount)
        for n in range(1, longest):
            total += (1 - lambda_) * lambda_ ** (n - 1) * slow_return(x, t, n, discount)
        mixed.append(total)
    return mixed


@quick
@given(experiences(), shares, shares)
def test_it_is_the_mixture_of_returns_of_every_length(x, discount, lambda_):
    expected = np.zeros(x["reward"].shape)
    for index in np.ndindex(x["reward"].shape[1:]):
        column = {
            name: part[(slice(None), *index)].astype(float if part.dtype != bool else bool)
            for name, part in x.items()
        }
        expected[(slice(None), *index)] = slow_lambda(column, discount, lambda_)
    np.testing.assert_allclose(
        lambda_returns(**x, discount=discount, lambda_=lambda_), expected, **close
    )


@quick
@given(experiences(), shares)
def test_without_decay_it_is_the_one_step_target(x, discount):
    one = x["reward"] + discount * np.where(x["terminated"], 0, x["next_value"])
    np.testing.assert_allclose(lambda_returns(**x, discount=discount, lambda_=0.0), one, **close)


@pytest.mark.slow
@quick
@given(experiences(), shares)
def test_with_decay_one_it_is_the_bootstrapped_sum_of_rewards(x, discount):
    np.testing.assert_allclose(
        lambda_returns(**x, discount=discount, lambda_=1.0),
        discounted_returns(**x, discount=discount),
        **close,
    )


@pytest.mark.slow
@quick
@given(experiences(), arrays.arrays(np.float32, (), elements=numbers), shares, shares)
def test_it_is_the_advantage_over_the_value_where_values_are_consistent(
    x, first, discount, lambda_
):
    value = np.concatenate([np.full_like(x["next_value"][:1], first), x["next_value"][:-1]])
    consistent = {**x, "next_value": x["next_value"].copy()}
    advantage = gae(**consistent, value=value, discount=discount, lambda_=lambda_)
    np.testing.assert_allclose(
        lambda_returns(**consistent, discount=discount, lambda_=lambda_), advantage + value, **close
    )


@pytest.mark.slow
@quick
@given(
    arrays.arrays(np.float32, (6,), elements=numbers),
    arrays.arrays(np.float32, (6,), elements=numbers),
    arrays.arrays(bool, (6,)),
    shares,
    shares,
)
def test_rlax_agrees(reward, next_value, terminated, discount, lambda_):
    """It knows no truncation: each step's discount is γ or 0."""
    expected = oracle(reward, np.float32(discount) * ~terminated, next_value, np.float32(lambda_))
    x = dict(reward=reward, next_value=next_value, terminated=terminated, done=terminated)
    np.testing.assert_allclose(
        lambda_returns(**x, discount=discount, lambda_=lambda_), expected, **close
    )


@quick
@given(experiences(), st.integers(0, 5))
def test_nothing_crosses_the_end_of_an_episode(x, t):
    """Another episode after step t, and to the last bit the same returns up to it."""
    t = min(t, len(x["reward"]) - 1)
    x["done"][t] = True
    changed = {
        name: np.concatenate(
            [part[: t + 1], part[t + 1 :] * 3 + 1000 if part.dtype != bool else ~part[t + 1 :]]
        )
        for name, part in x.items()
    }
    changed["terminated"] &= changed["done"]
    before, after = (lambda_returns(**y, discount=0.9, lambda_=0.8) for y in (x, changed))
    np.testing.assert_array_equal(before[: t + 1], after[: t + 1])


def test_a_truncation_bootstraps_and_a_termination_does_not():
    """Two steps of reward 1 before a state worth 5."""
    never, at_last = np.bool_([False, False]), np.bool_([False, True])
    x = dict(
        reward=np.ones(2, np.float32), next_value=np.float32([3, 5]), terminated=never, done=at_last
    )
    last = 1 + 0.9 * 5
    np.testing.assert_allclose(
        returns.lambda_returns(**x, discount=0.9, lambda_=0.5),
        [1 + 0.9 * (1.5 + last / 2), last],
        rtol=1e-6,
    )
    x["terminated"] = at_last
    np.testing.assert_allclose(
        returns.lambda_returns(**x, discount=0.9, lambda_=0.5),
        [1 + 0.9 * (1.5 + 0.5), 1],
        rtol=1e-6,
    )


@pytest.mark.slow
def test_it_can_be_swept_in_discount_and_decay():
    x = dict(
        reward=np.ones(3, np.float32),
        next_value=np.zeros(3, np.float32),
        terminated=jnp.zeros(3, bool),
        done=jnp.zeros(3, bool),
    )
    swept = jax.vmap(
        lambda discount, lambda_: returns.lambda_returns(**x, discount=discount, lambda_=lambda_)
    )(np.float32([0.5, 1]), np.float32([1, 0.5]))
    np.testing.assert_allclose(swept, [[1.75, 1.5, 1], [1.75, 1.5, 1]])
