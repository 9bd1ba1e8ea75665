"""Returns and advantages against the sums the papers write, on random shapes and random ends of
episodes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from etude.estimators import returns

gae = jax.jit(returns.gae)
discounted_returns = jax.jit(returns.discounted_returns)
n_step_returns = jax.jit(returns.n_step_returns, static_argnames="n")
n_step = jax.jit(returns.fold_n_steps)
running_returns = jax.jit(returns.running_returns)

SHAPES = [(1,), (6,), (4, 2, 2)]
STEPS = st.sampled_from([1, 3, 8])  # of an n-step return, each compiled by itself
numbers = st.floats(-10, 10, width=32, allow_subnormal=False)  # which XLA takes for zero on a CPU
shares = st.floats(0, 1, width=32)
quick = settings(deadline=None, max_examples=25)
close = dict(rtol=1e-4, atol=1e-4)


@st.composite
def experiences(draw, consistent=False):
    """A stretch of experience [time, ...] with its values; `consistent` ones are those of a value
    function of states."""
    shape = draw(st.sampled_from(SHAPES))
    real, flag = (
        arrays.arrays(dtype, shape, elements=elements, fill=st.nothing())
        for dtype, elements in ((np.float32, numbers), (bool, st.booleans()))
    )
    reward, value, next_value, terminated, truncated = (
        draw(part) for part in (real, real, real, flag, flag)
    )
    done = terminated | truncated
    if consistent:
        next_value[:-1] = np.where(done[:-1], next_value[:-1], value[1:])
    return dict(reward=reward, value=value, next_value=next_value, terminated=terminated, done=done)


def columns(experience):
    """The same, one copy after another as float64 [time], and the index of its column."""
    for index in np.ndindex(experience["reward"].shape[1:]):
        yield (
            (slice(None), *index),
            {
                name: x[(slice(None), *index)].astype(np.float64 if x.dtype != bool else bool)
                for name, x in experience.items()
            },
        )


def slow(function, experience, *arguments):
    """`function` of each column, in the shape of the experience."""
    result = np.zeros(experience["reward"].shape)
    for index, column in columns(experience):
        result[index] = function(column, *arguments)
    return result


def without_value(experience):
    return {name: x for name, x in experience.items() if name != "value"}


def slow_discounted(x, discount):
    """Gₜ = Σₖ γᵏ rₜ₊ₖ to the end of the episode, then γᵏ⁺¹ V unless it terminated."""
    totals = []
    for t in range(len(x["reward"])):
        total, weight = 0.0, 1.0
        for k in range(t, len(x["reward"])):
            total, weight = total + weight * x["reward"][k], weight * discount
            if x["done"][k]:
                break
        totals.append(total + (0 if x["terminated"][k] else weight * x["next_value"][k]))
    return totals


def slow_n_step(x, discount, n):
    """Sutton & Barto (2018), eq. 7.1."""
    totals = []
    for t in range(len(x["reward"])):
        total = 0.0
        for k in range(n):
            total += discount**k * x["reward"][t + k]
            if x["done"][t + k] or t + k == len(x["reward"]) - 1 or k == n - 1:
                break
        totals.append(
            total + (0 if x["terminated"][t + k] else discount ** (k + 1) * x["next_value"][t + k])
        )
    return totals


def slow_gae(x, discount, lambda_):
    """Schulman et al. (2016), eq. 16: Aₜ = Σₗ (γλ)ˡ δₜ₊ₗ to the end of the episode."""
    advantages = []
    for t in range(len(x["reward"])):
        total = 0.0
        for k in range(t, len(x["reward"])):
            future = 0.0 if x["terminated"][k] else x["next_value"][k]
            total += (discount * lambda_) ** (k - t) * (
                x["reward"][k] + discount * future - x["value"][k]
            )
            if x["done"][k]:
                break
        advantages.append(total)
    return advantages


def slow_running(x, discount):
    """Rₜ = Σₖ γᵗ⁻ᵏ rₖ over the steps of the episode so far."""
    totals = []
    for t in range(len(x["reward"])):
        total, k = 0.0, t
        while k >= 0 and (k == t or not x["done"][k]):
            total += discount ** (t - k) * x["reward"][k]
            k -= 1
        totals.append(total)
    return totals


@quick
@given(experiences(), shares)
def test_discounted_returns_are_the_sum_to_the_end(x, discount):
    np.testing.assert_allclose(
        discounted_returns(**without_value(x), discount=discount),
        slow(slow_discounted, x, discount),
        **close,
    )


@quick
@given(experiences(), shares, STEPS)
def test_n_step_returns_are_the_sum_of_n_rewards(x, discount, n):
    np.testing.assert_allclose(
        n_step_returns(**without_value(x), discount=discount, n=n),
        slow(slow_n_step, x, discount, n),
        **close,
    )


@quick
@given(experiences(), shares, shares)
def test_gae_is_the_sum_of_errors(x, discount, lambda_):
    np.testing.assert_allclose(
        gae(**x, discount=discount, lambda_=lambda_), slow(slow_gae, x, discount, lambda_), **close
    )


@quick
@given(experiences(), shares)
def test_running_returns_are_the_sum_so_far(x, discount):
    totals, end = running_returns(
        x["reward"], x["done"], discount, np.zeros(x["reward"].shape[1:], np.float32)
    )
    expected = slow(slow_running, x, discount)
    np.testing.assert_allclose(totals, expected, **close)
    np.testing.assert_allclose(end, np.where(x["done"][-1], 0, discount * expected[-1]), **close)


@pytest.mark.slow
@quick
@given(experiences(), shares)
def test_running_returns_go_on_in_the_next_stretch(x, discount):
    start = np.zeros(x["reward"].shape[1:], np.float32)
    whole, end = running_returns(x["reward"], x["done"], discount, start)
    first, carry = running_returns(x["reward"][:1], x["done"][:1], discount, start)
    rest, last = running_returns(x["reward"][1:], x["done"][1:], discount, carry)
    np.testing.assert_allclose(np.concatenate([first, rest]), whole, **close)
    np.testing.assert_allclose(last, end, **close)


@pytest.mark.slow
@quick
@given(experiences(), shares)
def test_without_decay_the_advantage_is_the_error_of_one_step(x, discount):
    error = x["reward"] + discount * np.where(x["terminated"], 0, x["next_value"]) - x["value"]
    np.testing.assert_allclose(gae(**x, discount=discount, lambda_=0), error, **close)


@pytest.mark.slow
@quick
@given(experiences(consistent=True), shares)
def test_with_decay_one_the_advantage_is_that_of_the_bootstrapped_return(x, discount):
    monte_carlo = discounted_returns(**without_value(x), discount=discount)
    np.testing.assert_allclose(
        gae(**x, discount=discount, lambda_=1) + x["value"], monte_carlo, **close
    )


@pytest.mark.slow
@quick
@given(experiences(consistent=True), shares, shares)
def test_the_advantage_mixes_n_step_returns(x, discount, lambda_):
    """Gλ = (1 - λ) Σₙ λⁿ⁻¹ G⁽ⁿ⁾, what is left going to the longest (Sutton & Barto, 2018, eq.
    12.3)."""
    longest = len(x["reward"])
    mix = lambda_**longest * np.asarray(discounted_returns(**without_value(x), discount=discount))
    for n in range(1, longest + 1):
        mix = mix + (1 - lambda_) * lambda_ ** (n - 1) * n_step_returns(
            **without_value(x), discount=discount, n=n
        )
    np.testing.assert_allclose(
        gae(**x, discount=discount, lambda_=lambda_) + x["value"], mix, **close
    )


@pytest.mark.slow
@quick
@given(experiences(), shares)
def test_one_step_bootstraps_at_once_and_many_never(x, discount):
    one = x["reward"] + discount * np.where(x["terminated"], 0, x["next_value"])
    np.testing.assert_allclose(
        n_step_returns(**without_value(x), discount=discount, n=1), one, **close
    )
    np.testing.assert_allclose(
        n_step_returns(**without_value(x), discount=discount, n=len(x["reward"])),
        discounted_returns(**without_value(x), discount=discount),
        **close,
    )


@pytest.mark.slow
@quick
@given(experiences(), shares)
def test_a_fold_is_one_step_worth_as_much_as_all(x, discount):
    """Its four parts against the loop, and together the first of the n-step returns."""
    n, rest = len(x["reward"]), x["reward"].shape[1:]
    after = {
        "value": x["next_value"],
        "index": np.arange(x["reward"].size * 2).reshape(*x["reward"].shape, 2),
    }
    reward, reached, terminated, bootstrap = n_step(
        x["reward"], after, x["terminated"], x["done"], discount
    )
    for index in np.ndindex(rest):
        column = (slice(None), *index)
        k = next((i + 1 for i in range(n) if x["done"][column][i]), n)
        total = sum(discount**i * float(x["reward"][column][i]) for i in range(k))
        np.testing.assert_allclose(reward[index], total, **close)
        np.testing.assert_allclose(bootstrap[index], discount**k, rtol=1e-5, atol=1e-30)
        assert terminated[index] == x["terminated"][column][k - 1]
        assert reached["value"][index] == x["next_value"][column][k - 1]
        np.testing.assert_array_equal(reached["index"][index], after["index"][column][k - 1])
    target = reward + bootstrap * ~terminated * reached["value"]
    np.testing.assert_allclose(
        target, n_step_returns(**without_value(x), discount=discount, n=n)[0], **close
    )


@pytest.mark.slow
@quick
@given(experiences(), shares)
def test_a_fold_of_one_step_is_that_step(x, discount):
    one = {name: part[:1] for name, part in x.items()}
    reward, after, terminated, bootstrap = n_step(
        one["reward"], one["next_value"], one["terminated"], one["done"], discount
    )
    for ours, theirs in (
        (reward, one["reward"]),
        (after, one["next_value"]),
        (terminated, one["terminated"]),
    ):
        np.testing.assert_array_equal(ours, theirs[0])
    np.testing.assert_array_equal(bootstrap, np.full(reward.shape, discount, np.float32))


def test_what_comes_after_the_end_of_a_fold_is_of_no_account():
    """Not even when it is no number; and the discount may be swept and learned, zero included."""
    nan, done = np.float32(np.nan), np.array([False, True, False])
    fold = lambda discount: returns.fold_n_steps(
        np.array([1, 2, nan]), np.array([5, 6, nan]), done & False, done, discount
    )

    @jax.jit
    def all_of_it(discounts):
        slopes = jax.vmap(jax.jacfwd(lambda discount: (fold(discount)[0], fold(discount)[3])))
        return jax.vmap(fold)(discounts), slopes(discounts)

    folded, (slope, slope_of_bootstrap) = all_of_it(np.float32([0, 0.5, 1]))
    np.testing.assert_allclose([x[1] for x in folded], [2, 6, 0, 0.25])
    np.testing.assert_allclose(folded[0][::2], [1, 3])
    assert slope[0] == 2 and slope_of_bootstrap[1] == 1


def estimates(x):
    """Every estimate [time, ...] that looks ahead."""
    rest = without_value(x)
    return [
        gae(**x, discount=0.9, lambda_=0.8),
        discounted_returns(**rest, discount=0.9),
        n_step_returns(**rest, discount=0.9, n=3),
    ]


@quick
@given(experiences(), st.integers(0, 5))
def test_nothing_crosses_the_end_of_an_episode(x, t):
    """Another episode after step t, to the last bit the same estimates up to it, and the other way
    round."""
    t = min(t, len(x["reward"]) - 1)
    x["done"][t] = True
    changed = {
        name: np.concatenate(
            [part[: t + 1], part[t + 1 :] * 3 + 1000 if part.dtype != bool else ~part[t + 1 :]]
        )
        for name, part in x.items()
    }
    changed["terminated"] &= changed["done"]
    for before, after in zip(estimates(x), estimates(changed), strict=True):
        np.testing.assert_array_equal(before[: t + 1], after[: t + 1])

    def so_far(reward, done, start):
        totals, end = running_returns(reward, done, 0.9, jnp.full(reward.shape[1:], start))
        return np.concatenate([totals[t + 1 :], end[None]])

    earlier = np.concatenate([x["reward"][: t + 1] + 1000, x["reward"][t + 1 :]])
    np.testing.assert_array_equal(
        so_far(x["reward"], x["done"], 0.0), so_far(earlier, x["done"], 77.0)
    )


@quick
@given(experiences())
def test_the_value_after_a_termination_is_of_no_account(x):
    other = {**x, "next_value": np.where(x["terminated"], x["next_value"] + 1000, x["next_value"])}
    for before, after in zip(estimates(x), estimates(other), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("estimate", range(3), ids=["gae", "discounted", "n-step"])
def test_a_truncation_bootstraps(estimate):
    """One step of reward 1, cut off before a state worth 5."""
    cut = dict(
        reward=np.ones(2, np.float32),
        value=np.zeros(2, np.float32),
        next_value=np.full(2, 5, np.float32),
        terminated=np.array([False, True]),
        done=np.array([True, True]),
    )
    np.testing.assert_allclose(estimates(cut)[estimate], [1 + 0.9 * 5, 1])


@pytest.mark.slow
@quick
@given(
    arrays.arrays(np.float32, (6,), elements=numbers),
    arrays.arrays(np.float32, (7,), elements=numbers),
    arrays.arrays(bool, (6,)),
    shares,
    shares,
    st.sampled_from([1, 3, 6, 8]),
)
def test_rlax_agrees(reward, value, terminated, discount, lambda_, n):
    """It knows no truncation: each step's discount is γ or 0, and values are those of consecutive
    states."""
    discounts = (discount * ~terminated).astype(np.float32)
    x = dict(reward=reward, next_value=value[1:], terminated=terminated, done=terminated)
    advantage = gae(value=value[:-1], **x, discount=discount, lambda_=lambda_)
    told = oracle(reward, discounts, value, lambda_, n)
    np.testing.assert_allclose(advantage, told["gae"], **close)
    np.testing.assert_allclose(advantage + value[:-1], told["lambda"], **close)
    np.testing.assert_allclose(
        discounted_returns(**x, discount=discount), told["discounted"], **close
    )
    np.testing.assert_allclose(n_step_returns(**x, discount=discount, n=n), told["n-step"], **close)
    folded, after, ended, bootstrap = n_step(
        reward[:n], value[1:][:n], terminated[:n], terminated[:n], discount
    )
    np.testing.assert_allclose(folded + bootstrap * ~ended * after, told["n-step"][0], **close)


@partial(jax.jit, static_argnames="n")
def oracle(reward, discounts, value, lambda_, n):
    return {
        "gae": rlax.truncated_generalized_advantage_estimation(reward, discounts, lambda_, value),
        "lambda": rlax.lambda_returns(reward, discounts, value[1:], jnp.float32(lambda_)),
        "discounted": rlax.discounted_returns(reward, discounts, value[1:]),
        "n-step": rlax.n_step_bootstrapped_returns(reward, discounts, value[1:], n),
    }


@pytest.mark.slow
def test_estimates_are_differentiable_in_discount_and_decay():
    """So that both can be swept and learned."""
    x = dict(
        reward=np.ones(3, np.float32),
        value=np.zeros(3, np.float32),
        next_value=np.ones(3, np.float32),
        terminated=np.zeros(3, bool),
        done=np.zeros(3, bool),
    )
    estimate = lambda discount, lambda_: returns.gae(**x, discount=discount, lambda_=lambda_)
    swept, slopes = jax.jit(
        lambda *at: (jax.vmap(estimate)(*at), jax.vmap(jax.jacfwd(estimate, 1))(*at))
    )(np.float32([0.5, 1]), np.float32([1, 0]))
    np.testing.assert_allclose(swept, [[1.5 + 0.75 + 0.375, 1.5 + 0.75, 1.5], [2, 2, 2]])
    assert slopes[1, 0] == 2  # A₀ = δ₀ + λ δ₁ + λ² δ₂
