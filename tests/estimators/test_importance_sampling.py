"""Importance corrections against the products the papers write, and exactly, over every trajectory
of a small process."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from etude.estimators import importance_sampling, returns
from etude.tabular import evaluation
from etude.tabular.mdp import make_mdp

SHAPES = [(1,), (6,), (5, 3)]
# which XLA takes for zero on a CPU
numbers, ratios, shares, limits = (
    st.floats(low, high, width=32, allow_subnormal=False)
    for low, high in ((-10, 10), (-2, 2), (0, 1), (0.5, 4))
)
limits = limits | st.just(np.inf)
quick = settings(deadline=None, max_examples=40)
close = dict(rtol=1e-4, atol=1e-3)
NAMES = (
    "whole",
    "causal",
    "first order",
    "returns",
    "to go",
    "to go, later unweighted",
    "target",
    "advantage",
)


@st.composite
def experiences(draw):
    """A stretch of experience [time, ...]; values are those of a function of states."""
    shape = draw(st.sampled_from(SHAPES))
    log_ratio, reward, value, next_value, terminated, truncated = (
        draw(
            arrays.arrays(
                bool if elements is None else np.float32,
                shape,
                elements=elements,
                fill=st.nothing(),
            )
        )
        for elements in (ratios, numbers, numbers, numbers, None, None)
    )
    done = terminated | truncated
    next_value[:-1] = np.where(done[:-1], next_value[:-1], value[1:])
    return dict(
        log_ratio=log_ratio,
        reward=reward,
        value=value,
        next_value=next_value,
        terminated=terminated,
        done=done,
    )


@jax.jit
def fast(x, discount, lambda_, clip, other):
    """Everything at once, so that a shape is compiled once."""
    log_ratio, done = x["log_ratio"], x["done"]
    rest = [x[name] for name in ("reward", "next_value", "terminated", "done")]
    target, advantage = importance_sampling.vtrace(
        **x, discount=discount, lambda_=lambda_, rho_clip=clip, c_clip=other
    )
    each = (
        importance_sampling.trajectory_weight(log_ratio, done, clip),
        importance_sampling.per_decision_weight(log_ratio, done, clip),
        importance_sampling.first_order_weight(log_ratio, clip),
        importance_sampling.per_decision_returns(log_ratio, *rest, discount, clip),
        importance_sampling.reward_to_go(log_ratio, *rest, discount, clip=clip),
        importance_sampling.reward_to_go(log_ratio, *rest, discount, correct_returns=False),
        target,
        advantage,
    )
    return dict(zip(NAMES, each, strict=True))


def slow(x, discount, lambda_, clip, other):
    """The same of one copy [time], by loops over the definitions."""
    ratio, ends = np.exp(x["log_ratio"]), np.flatnonzero(x["done"])
    length = len(ratio)
    result = {name: np.zeros(length) for name in NAMES}
    for t in reversed(range(length)):
        first = max((end + 1 for end in ends if end < t), default=0)
        last = min((end for end in ends if end >= t), default=length - 1)
        causal = np.prod(ratio[first : t + 1])
        result["whole"][t] = min(np.prod(ratio[first : last + 1]), clip)
        result["causal"][t], result["first order"][t] = min(causal, clip), min(ratio[t], clip)
        bootstrap = 0 if x["terminated"][last] else x["next_value"][last]
        paid = [
            (k - t, x["reward"][k], np.minimum(ratio[t + 1 : k + 1], clip).prod())
            for k in range(t, last + 1)
        ]
        paid.append((last + 1 - t, bootstrap, paid[-1][2]))
        result["returns"][t] = sum(discount**k * reward * product for k, reward, product in paid)
        result["to go"][t] = min(causal, clip) * result["returns"][t]
        result["to go, later unweighted"][t] = causal * sum(
            discount**k * reward for k, reward, _ in paid
        )
        rho, c = np.minimum(ratio, clip), lambda_ * np.minimum(ratio, other)
        after = np.where(x["terminated"], 0, x["next_value"])
        error = rho * (x["reward"] + discount * after - x["value"])
        result["target"][t] = x["value"][t] + sum(
            discount ** (k - t) * np.prod(c[t:k]) * error[k] for k in range(t, last + 1)
        )
        ahead = (
            after[t] if t == last else (1 - lambda_) * after[t] + lambda_ * result["target"][t + 1]
        )
        result["advantage"][t] = rho[t] * (x["reward"][t] + discount * ahead - x["value"][t])
    return result


@quick
@given(experiences(), shares, shares, limits, limits)
def test_each_is_what_its_definition_says(x, discount, lambda_, clip, other):
    ours = fast(x, discount, lambda_, clip, other)
    for index in np.ndindex(x["reward"].shape[1:]):
        column = (slice(None), *index)
        one = {
            name: part[column].astype(float if part.dtype != bool else bool)
            for name, part in x.items()
        }
        for name, expected in slow(one, discount, lambda_, clip, other).items():
            np.testing.assert_allclose(ours[name][column], expected, **close, err_msg=name)


@pytest.mark.slow
@quick
@given(experiences(), shares, shares, st.floats(1, 4, width=32), st.floats(1, 4, width=32))
def test_on_policy_vtrace_is_the_lambda_return(x, discount, lambda_, clip, other):
    """With limits that leave a ratio of 1 alone, and its advantages are the generalized ones."""
    x["log_ratio"][:] = 0
    ours = fast(x, discount, lambda_, clip, other)
    rest = {name: x[name] for name in ("reward", "next_value", "terminated", "done")}
    np.testing.assert_allclose(
        ours["target"], lambda_returns(**rest, discount=discount, lambda_=lambda_), **close
    )
    advantage = gae(**rest, value=x["value"], discount=discount, lambda_=lambda_)
    np.testing.assert_allclose(ours["advantage"], advantage, **close)


lambda_returns, gae = jax.jit(returns.lambda_returns), jax.jit(returns.gae)
oracle = jax.jit(rlax.vtrace_td_error_and_advantage, static_argnames="stop_target_gradients")


@pytest.mark.slow
@quick
@given(experiences().filter(lambda x: x["reward"].shape == (6,)), shares, shares, limits)
def test_rlax_agrees(x, discount, lambda_, clip):
    """It knows no truncation, and no c̄ but 1."""
    x["done"] = x["terminated"]
    x["next_value"][:-1] = x["value"][1:]
    ours = fast(x, discount, lambda_, clip, 1.0)
    discounts = np.float32(discount) * ~x["terminated"]
    theirs = oracle(
        x["value"],
        x["next_value"],
        x["reward"],
        discounts,
        np.exp(x["log_ratio"]),
        np.float32(lambda_),
        clip_rho_threshold=clip,
        clip_pg_rho_threshold=clip,
        stop_target_gradients=False,
    )
    np.testing.assert_allclose(ours["target"], theirs.errors + x["value"], **close)
    np.testing.assert_allclose(ours["advantage"], theirs.pg_advantage, **close)


@quick
@given(experiences(), st.integers(0, 5))
def test_nothing_crosses_the_end_of_an_episode(x, t):
    """Another episode after step t, or before it, and to the last bit the same of this one."""
    t = min(t, len(x["reward"]) - 1)
    x["done"][t] = True
    settings = 0.9, 0.8, np.inf, 1.0
    before = fast(x, *settings)
    for other, kept in (
        (slice(t + 1, None), slice(None, t + 1)),
        (slice(None, t + 1), slice(t + 1, None)),
    ):
        changed = {name: part.copy() for name, part in x.items()}
        for part in changed.values():
            part[other] = ~part[other] if part.dtype == bool else 1 - part[other] / 2
        changed["done"] |= changed["terminated"]
        changed["done"][t] = True
        after = fast(changed, *settings)
        for name in before:
            np.testing.assert_array_equal(before[name][kept], after[name][kept], err_msg=name)


@pytest.mark.slow
def test_the_logarithm_of_a_weight_may_be_out_of_range_when_its_limit_is_not():
    """e³⁰⁰ is no float32; nor may an action that π never takes make a weight that is no number."""
    log_ratio, done = jnp.full(3, 100.0), jnp.bool_([False, False, True])
    for weight in (importance_sampling.trajectory_weight, importance_sampling.per_decision_weight):
        clipped, slope = jax.jvp(
            lambda x, weight=weight: weight(x, done, 20.0), (log_ratio,), (jnp.ones(3),)
        )
        np.testing.assert_allclose(clipped, 20, rtol=1e-6)
        np.testing.assert_array_equal(slope, 0)
    never = jnp.float32([0, -np.inf, 1])
    np.testing.assert_array_equal(importance_sampling.trajectory_weight(never, done), 0)
    np.testing.assert_array_equal(importance_sampling.per_decision_weight(never, done), [1, 0, 0])


# Over every trajectory

HORIZON, DISCOUNT = 3, 0.9


@jax.jit
def coefficients(log_ratio, reward, done):
    """What multiplies the reward of each step in an estimate of J, and its score in one of the
    gradient."""
    stretch = reward, jnp.zeros_like(reward), done, done, DISCOUNT
    whole, causal = (
        importance_sampling.trajectory_weight(log_ratio, done),
        importance_sampling.per_decision_weight(log_ratio, done),
    )
    first, plain = (
        importance_sampling.first_order_weight(log_ratio),
        returns.discounted_returns(*stretch),
    )
    return (
        {"whole": whole, "causal": causal, "first order": first},
        {
            "whole": whole * plain,
            "causal": importance_sampling.reward_to_go(log_ratio, *stretch),
            "returns of β": importance_sampling.reward_to_go(
                log_ratio, *stretch, correct_returns=False
            ),
            "first order": first * plain,
        },
    )


@jax.jit
def exact(process, logits):
    return jax.value_and_grad(
        lambda x: evaluation.expected_return(process, jax.nn.softmax(x), DISCOUNT, HORIZON)
    )(logits)


def enumerated(steps, seed):
    """{step: (J, ∇J, estimates of J, of ∇J)}, estimates being {name: (mean, variance)}, all of them
    exact.

    β is a softmax policy, and π is so far from it, in a process of 2 states and 2 actions over 3
    steps: 128 trajectories. In its stretch each comes after a step of another episode.
    """
    rng = np.random.default_rng(seed)
    transition, reward, initial = (
        rng.dirichlet([0.5, 0.5], (2, 2)),
        rng.normal(size=(2, 2, 2)),
        rng.dirichlet([1, 1]),
    )
    process, logits, change = make_mdp(transition, reward, 0, initial), *rng.normal(size=(2, 2, 2))
    paths = np.array(list(itertools.product((0, 1), repeat=2 * HORIZON + 1))).T
    states, actions = paths[: HORIZON + 1], paths[HORIZON + 1 :]  # [time, trajectory]
    at = states[:-1], actions
    rewards = reward[*at, states[1:]]
    ends = np.isin(np.arange(HORIZON + 1), (0, HORIZON))[:, None] & np.full(states.shape, True)
    power = DISCOUNT ** np.arange(HORIZON)[:, None]
    beta, result = scipy.special.softmax(logits, -1), {}
    probability = initial[states[0]] * (beta[at] * transition[*at, states[1:]]).prod(0)

    def moments(estimate):  # [trajectory, ...]
        mean = np.tensordot(probability, estimate, 1)
        return mean, np.tensordot(probability, (estimate - mean) ** 2, 1).sum()

    for step in steps:
        pi = scipy.special.softmax(logits + step * change, -1)
        led = (
            np.concatenate([np.full_like(x[:1], 3), x])
            for x in (np.log(pi[at] / beta[at]), rewards)
        )
        weights, to_go = jax.tree.map(lambda x: np.asarray(x)[1:], coefficients(*led, ends))
        # [time, trajectory, state, action]
        score = np.eye(2)[at[0]][..., None] * (np.eye(2)[actions] - pi[at[0]])[:, :, None]
        result[step] = (
            *jax.device_get(exact(process, logits + step * change)),
            {name: moments((power * x * rewards).sum(0)) for name, x in weights.items()},
            {
                name: moments(np.einsum("tn,tnsa->nsa", power * x, score))
                for name, x in to_go.items()
            },
        )
    return result


@pytest.fixture(scope="module")
def estimates():
    """Those of a process in which the ratios matter."""
    with jax.enable_x64(True):
        return enumerated((0.0, 0.01, 0.02, 1.0), seed=19)


def test_whole_and_causal_weights_are_unbiased_and_the_others_are_not(estimates):
    j, gradient, of_j, of_gradient = estimates[1.0]
    for name in ("whole", "causal"):
        np.testing.assert_allclose(of_j[name][0], j, rtol=1e-12)
        np.testing.assert_allclose(of_gradient[name][0], gradient, rtol=1e-12)
    for name in ("returns of β", "first order"):
        assert abs(of_gradient[name][0] - gradient).max() > 0.05 * abs(gradient).max()
    assert abs(of_j["first order"][0] / j - 1) > 0.01


def test_on_policy_all_are_the_same(estimates):
    j, gradient, of_j, of_gradient = estimates[0.0]
    for mean, variance in of_j.values():
        np.testing.assert_allclose(mean, j, rtol=1e-12)
        np.testing.assert_allclose(variance, of_j["whole"][1], rtol=1e-12)
    for mean, _ in of_gradient.values():
        np.testing.assert_allclose(mean, gradient, rtol=1e-12)


@pytest.mark.parametrize("name", ["returns of β", "first order"])
def test_what_is_left_out_is_of_first_order(estimates, name):
    """Half the step from β to π, half the bias of the gradient."""
    bias = {
        step: abs(estimates[step][3][name][0] - estimates[step][1]).max() for step in (0.01, 0.02)
    }
    np.testing.assert_allclose(bias[0.02] / bias[0.01], 2, rtol=0.02)


def test_variance_falls_with_every_ratio_that_is_left_out(estimates):
    """In this process, where the two policies are far apart."""
    _, _, of_j, of_gradient = estimates[1.0]
    variance = [of_j[name][1] for name in ("whole", "causal")]
    assert variance[1] < 0.9 * variance[0], variance
    variance = [of_gradient[name][1] for name in ("whole", "causal", "returns of β", "first order")]
    assert all(later < 0.9 * earlier for earlier, later in itertools.pairwise(variance)), variance


def test_causal_weights_vary_less_than_whole_ones_in_process_after_process():
    """In the gradient each time; in J there are exceptions, where what is left out would have
    cancelled."""
    with jax.enable_x64(True):
        drawn = [enumerated((1.0,), seed)[1.0][2:] for seed in range(10)]
    ratios = np.array(
        [[estimates["causal"][1] / estimates["whole"][1] for estimates in one] for one in drawn]
    )
    assert np.exp(np.log(ratios).mean(0)).max() < 0.9 and (ratios[:, 1] < 1).all(), ratios
