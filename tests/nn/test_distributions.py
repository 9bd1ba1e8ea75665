"""Policy heads against scipy, enumeration and frequencies."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from etude.nn.distributions import (
    MASKED_LOGIT,
    Bernoulli,
    Categorical,
    MultiCategorical,
    Normal,
    SquashedNormal,
    StateDependentNormal,
    broadcast_params,
    distribution_for,
    masked_distribution,
    num_parameters,
    squashed_distribution_for,
)
from etude.spaces import (
    Box,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    space_to_gymnasium,
    to_environment_action,
)
from etude.trees import batched_index

KEY = jax.random.key(0)
SPACES = {
    "discrete": Discrete(4, start=3),
    "multidiscrete": MultiDiscrete((2, 3), (0, 5), (2,)),
    "multidiscrete matrix": MultiDiscrete((2, 3, 1, 2), (0,) * 4, (2, 2)),
    "multibinary": MultiBinary((3,)),
    "multibinary matrix": MultiBinary((2, 2)),
    "box": Box((2,), low=-1.0, high=1.0),
    "scalar box": Box(()),
    "box matrix": Box((2, 3)),
}
FINITE = {name: space for name, space in SPACES.items() if not isinstance(space, Box)}


def some_in_the_fast_tier(spaces):
    """Matrices and numbers by themselves are left to the slow one."""
    return pytest.mark.parametrize(
        "space",
        [
            pytest.param(space, id=name, marks=[pytest.mark.slow] * (" " in name))
            for name, space in spaces.items()
        ],
    )


every_space = some_in_the_fast_tier(SPACES)
every_finite_space = some_in_the_fast_tier(FINITE)


def head(space, *leading, seed=0, scale=1.0):
    """A distribution with random parameters [*leading, n]."""
    rng = np.random.default_rng(seed)
    n = num_parameters(space)
    log_std = rng.normal(-0.5, 0.3, n).astype(np.float32) if isinstance(space, Box) else ()
    return distribution_for(space, rng.normal(0, scale, (*leading, n)).astype(np.float32), log_std)


def actions_of(space):
    """Every action of a finite space, [action, *shape]."""
    match space:
        case Discrete(n=n):
            return np.arange(n)
        case MultiDiscrete(sizes=sizes, shape=shape):
            return np.array(list(itertools.product(*map(range, sizes)))).reshape(-1, *shape)
        case MultiBinary(shape=shape):
            return np.array(
                list(itertools.product((0, 1), repeat=math.prod(shape))), np.int8
            ).reshape(-1, *shape)


@functools.partial(jax.jit, static_argnums=1)
def say(choice, method, *arguments):
    """What one method says, in one program."""
    return getattr(choice, method)(*arguments)


def described(choice, key):
    """What a distribution says, with its judgment of its own sample, in NumPy."""
    return jax.device_get(everything(choice, key))


@jax.jit
def everything(choice, key):
    sample = choice.sample(key)
    return dict(
        sample=sample,
        mode=choice.mode(),
        log_prob=choice.log_prob(sample),
        entropy=choice.entropy(),
    )


@jax.jit
def log_probs(choice, actions):
    """Of each of several actions, [action], by a distribution without leading axes."""
    return jax.vmap(choice.log_prob)(actions)


@every_space
@pytest.mark.parametrize("leading", [pytest.param((), marks=pytest.mark.slow), (2, 3)], ids=str)
def test_shapes_and_dtypes(space, leading):
    says, zeros = jax.eval_shape(everything, head(space, *leading), KEY), space.zeros()
    for action in (says["sample"], says["mode"]):
        assert action.shape == (*leading, *zeros.shape)
        assert np.dtype(action.dtype).kind == np.dtype(zeros.dtype).kind
        assert action.dtype == jnp.int8 or not isinstance(space, MultiBinary)
    assert says["log_prob"].shape == says["entropy"].shape == leading


@every_space
def test_leading_axes_are_independent(space):
    """Each row is judged as if it stood alone."""
    choice = head(space, 2, 3)
    together = described(choice, KEY)
    for i, j in [(0, 0), (1, 2)]:
        if isinstance(space, Box):
            alone = Normal(choice.mean[i, j], choice.log_std, space.shape)
        else:
            alone = distribution_for(space, choice.logits[i, j])
        says = described(alone, KEY)
        log_prob = log_probs(alone, together["sample"][i, j][None])[0]
        np.testing.assert_allclose(log_prob, together["log_prob"][i, j], rtol=1e-5)
        np.testing.assert_allclose(says["entropy"], together["entropy"][i, j], rtol=1e-5)
        np.testing.assert_array_equal(says["mode"], together["mode"][i, j])


@every_finite_space
def test_probabilities_of_all_actions_sum_to_one_and_give_the_entropy(space):
    actions = actions_of(space)
    for seed in range(3):
        choice = head(space, seed=seed, scale=2.0)
        p = np.exp(np.asarray(log_probs(choice, actions), float))
        assert p.sum() == pytest.approx(1, rel=1e-5)
        says = described(choice, KEY)
        assert says["entropy"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-4)
        np.testing.assert_array_equal(says["mode"], actions[p.argmax()])


@pytest.mark.slow
@every_finite_space
def test_samples_come_as_often_as_they_should(space):
    choice, count = head(space), 12_000
    many = jax.tree.map(lambda x: np.broadcast_to(x, (count, *x.shape)), choice)
    samples = np.asarray(say(many, "sample", KEY)).reshape(count, 1, -1)
    actions = actions_of(space)
    p = np.exp(np.asarray(log_probs(choice, actions), float))
    seen = (samples == actions.reshape(len(actions), -1)).all(-1).sum(0)
    assert seen.sum() == count
    assert scipy.stats.chisquare(seen, count * p / p.sum()).pvalue > 1e-4


def test_categorical_against_scipy():
    logits = np.random.default_rng(0).normal(size=(6, 4))
    action = np.array([0, 1, 2, 3, 0, 2])
    p = scipy.special.softmax(logits, -1)
    choice = Categorical(np.float32(logits))
    np.testing.assert_allclose(
        say(choice, "log_prob", action), np.log(p[np.arange(6), action]), rtol=1e-5
    )
    np.testing.assert_allclose(say(choice, "entropy"), scipy.stats.entropy(p, axis=-1), rtol=1e-5)


def test_parts_of_a_multicategorical_are_read_in_row_major_order():
    space = MultiDiscrete((2, 3, 2, 2), (0,) * 4, (2, 2))
    logits = np.float32([0, 9, 0, 0, 9, 9, 0, 0, 9])
    np.testing.assert_array_equal(say(distribution_for(space, logits), "mode"), [[1, 2], [0, 1]])


def test_bernoulli_against_scipy():
    logits = np.random.default_rng(0).normal(0, 2, (5, 3))
    on = np.random.default_rng(1).integers(2, size=(5, 3))
    p = scipy.special.expit(logits)
    choice = Bernoulli(np.float32(logits), (3,))
    np.testing.assert_allclose(
        say(choice, "log_prob", np.int8(on)), scipy.stats.bernoulli.logpmf(on, p).sum(-1), rtol=1e-5
    )
    np.testing.assert_allclose(
        say(choice, "entropy"), scipy.stats.bernoulli(p).entropy().sum(-1), rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)], ids=str)
def test_normal_against_scipy(shape):
    n = math.prod(shape)
    rng = np.random.default_rng(0)
    mean, log_std, action = rng.normal(size=(4, n)), rng.normal(size=n), rng.normal(0, 3, (4, n))
    choice = Normal(np.float32(mean), np.float32(log_std), shape)
    expected = scipy.stats.norm(mean, np.exp(log_std))
    np.testing.assert_allclose(
        say(choice, "log_prob", np.float32(action.reshape(4, *shape))),
        expected.logpdf(action).sum(-1),
        rtol=1e-4,
    )
    np.testing.assert_allclose(say(choice, "entropy"), expected.entropy().sum(-1), rtol=1e-5)


def test_samples_of_a_normal_are_normal():
    choice = Normal(np.float32([1, -2]), np.log(np.float32([0.5, 2])), (2,))
    many = Normal(np.broadcast_to(choice.mean, (20_000, 2)), choice.log_std, (2,))
    samples = np.asarray(say(many, "sample", KEY), float)
    standard = (samples - [1, -2]) / [0.5, 2]
    assert scipy.stats.kstest(standard.ravel(), "norm").pvalue > 1e-4
    assert abs(np.corrcoef(standard.T)[0, 1]) < 0.03
    log_prob = np.asarray(say(many, "log_prob", samples.astype(np.float32)))
    np.testing.assert_allclose(-log_prob.mean(), say(choice, "entropy"), atol=0.03)  # Monte Carlo


@pytest.mark.parametrize(
    "choice", [Categorical(np.float32([0, 1])), Bernoulli(np.float32([0, 1]), (2,))], ids=str
)
def test_saturated_logits_stay_finite(choice):
    entropy = jax.jit(jax.value_and_grad(lambda choice: choice.entropy()))
    for logit in (-1e3, 1e3):
        value, slope = entropy(jax.tree.map(lambda x, logit=logit: x * logit, choice))
        assert np.isfinite(value) and np.isfinite(slope.logits).all()
        assert value == pytest.approx(
            0 if isinstance(choice, Categorical) else math.log(2), abs=1e-6
        )


@every_space
def test_the_space_says_how_many_parameters(space):
    expected = {Discrete: lambda: space.n, MultiDiscrete: lambda: sum(space.sizes)}
    assert num_parameters(space) == expected.get(type(space), lambda: math.prod(space.shape))()
    assert (
        type(head(space))
        is {
            Discrete: Categorical,
            MultiDiscrete: MultiCategorical,
            MultiBinary: Bernoulli,
            Box: Normal,
        }[type(space)]
    )


@pytest.mark.slow
@every_finite_space
def test_samples_are_in_the_space(space):
    """Choices count from 0; the environment's own start is added on the way to it."""
    plain = Discrete(space.n) if isinstance(space, Discrete) else space
    if isinstance(space, MultiDiscrete):
        plain = MultiDiscrete(space.sizes, (0,) * len(space.sizes), space.shape)
    allowed = space_to_gymnasium(plain)
    for sample in np.asarray(described(head(space, 2, 3), KEY)["sample"]).reshape(
        6, *plain.zeros().shape
    ):
        assert allowed.contains(sample.astype(allowed.dtype))


@pytest.mark.slow
@every_space
def test_keys_decide(space):
    choice = head(space, 2, 3)
    one, again, other = (described(choice, key)["sample"] for key in (KEY, KEY, jax.random.key(1)))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_parts_of_a_choice_are_drawn_independently():
    choice = distribution_for(
        MultiDiscrete((2, 2), (0, 0), (2,)), np.zeros((20_000, 4), np.float32)
    )
    assert abs(np.corrcoef(np.asarray(say(choice, "sample", KEY)).T)[0, 1]) < 0.03


def test_pick():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    action = np.int32([[0, 3, 1], [2, 2, 0]])
    expected = [[values[i, j, action[i, j]] for j in range(3)] for i in range(2)]
    np.testing.assert_array_equal(batched_index(values, action), expected)
    assert batched_index(np.float32([5, 6]), np.int32(1)) == 6


# The squashed normal

WIDE = Box((1,), low=-3.0, high=7.0)
# the 1st and 3rd have both bounds
MIXED = Box((2, 2), low=(-3.0, -math.inf, -1.0, 0.0), high=(7.0, math.inf, 1.0, math.inf))


def mixed(*leading, seed=0):
    mean, log_std = np.random.default_rng(seed).normal(0, 0.7, (2, *leading, 4)).astype(np.float32)
    return squashed_distribution_for(MIXED, mean, log_std)


def exact_log_prob(mean, log_std, u, squashed):
    """In float64, element by element, of the action that u becomes."""
    mean, log_std, u = (np.asarray(x, float) for x in (mean, log_std, u))
    log_slope = -2 * np.logaddexp(u, -u) + 2 * math.log(2)  # 1 - tanh² = 4 / (e^u + e^-u)²
    return (
        scipy.stats.norm(mean, np.exp(log_std)).logpdf(u) - np.where(squashed, log_slope, 0)
    ).sum(-1)


@jax.jit
def environment_density(choice, actions):
    """Of environment actions [sample, *shape] in WIDE."""
    return jnp.exp(jax.vmap(lambda action: choice.environment_log_prob(WIDE, action))(actions))


@pytest.mark.slow
# in the middle, at both ends, near one
@pytest.mark.parametrize("mean, std", [(0.3, 0.6), (-0.5, 1.5), (2.0, 0.2)])
def test_a_squashed_density_is_one_over_its_box_and_that_of_its_samples(mean, std):
    choice = squashed_distribution_for(WIDE, np.float32([mean]), np.log(np.float32([std])))
    edges = np.linspace(-3, 7, 100_001)
    density = np.asarray(
        environment_density(choice, np.float32((edges[:-1] + edges[1:]) / 2)[:, None]), float
    )
    mass = density * (10 / 100_000)
    assert mass.sum() == pytest.approx(1, abs=1e-3)
    n = 50_000
    many = squashed_distribution_for(
        WIDE, np.full((n, 1), mean, np.float32), np.log(np.float32([std]))
    )
    samples = np.asarray(jax.jit(lambda many: to_environment_action(WIDE, many.sample(KEY)))(many))
    # 20 bins of about the same mass
    bins = np.flatnonzero(np.diff(np.floor(np.cumsum(mass) * 20).clip(0, 19))) + 1
    seen = np.histogram(samples, np.concatenate([[-3], edges[bins], [7]]))[0]
    expected = np.array([part.sum() for part in np.split(mass, bins)])
    assert seen.sum() == n and len(seen) == 20
    assert scipy.stats.chisquare(seen, n * expected / expected.sum()).pvalue > 1e-4


def test_a_mixed_box_is_squashed_where_it_has_both_bounds():
    choice = mixed(5)
    squashed = np.array([True, False, True, False])
    assert choice.squashed == tuple(squashed)
    mode = np.asarray(say(choice, "mode")).reshape(5, 4)
    np.testing.assert_allclose(
        mode, np.where(squashed, np.tanh(choice.mean), choice.mean), rtol=1e-6
    )
    action = np.asarray(say(choice, "sample", KEY))
    assert action.shape == (5, 2, 2)
    flat = np.asarray(action, float).reshape(5, 4)
    assert (abs(flat[:, squashed]) < 1).all() and (abs(flat[:, ~squashed]) > 1).any()
    u = np.where(squashed, np.arctanh(np.where(squashed, flat, 0)), flat)
    expected = exact_log_prob(choice.mean, choice.log_std, u, squashed)
    np.testing.assert_allclose(say(choice, "log_prob", action), expected, rtol=1e-4)
    halves = math.log(5) + math.log(1)  # of the first, from -3 to 7, and the third
    in_environment = jax.jit(
        lambda choice, action: choice.environment_log_prob(
            MIXED, to_environment_action(MIXED, action)
        )
    )
    told = np.asarray(in_environment(choice, action))
    whole = flat[:, 3] >= 0  # the fourth is clipped at 0
    assert 0 < whole.sum() < 5
    np.testing.assert_allclose(told[whole], expected[whole] - halves, rtol=1e-4)


def test_a_normal_is_a_squashed_normal_of_which_nothing_is_squashed():
    plain = head(Box((2, 3)), 4)
    choice = squashed_distribution_for(Box((2, 3)), plain.mean, plain.log_std)
    action = 3 * np.asarray(say(plain, "mode"))
    for method, *arguments in (("sample", KEY), ("log_prob", action), ("mode",)):
        np.testing.assert_array_equal(
            say(choice, method, *arguments), say(plain, method, *arguments)
        )


@jax.jit
def evaluated(choice, key):
    """Samples with their log π, what is said of their actions, and gradients: of both through the
    action and with it held, and of what is said of the action, likewise."""
    noise, squashed = jax.random.normal(key, choice.mean.shape), np.array(choice.squashed)
    pair = choice.sample_and_log_prob(key)

    def through(choice):
        u = choice.mean + jnp.exp(choice.log_std) * noise
        return choice.log_prob(jnp.where(squashed, jnp.tanh(u), u)).sum()

    def described(choice, part, reparameterized):
        return choice.sample_and_log_prob(key, reparameterized)[part].sum()

    slopes = [jax.grad(described)(choice, part, way) for part in (0, 1) for way in (True, False)]
    expected = (
        jax.grad(through)(choice),
        jax.grad(lambda choice: choice.log_prob(pair[0]).sum())(choice),
    )
    return pair, choice.log_prob(pair[0]), slopes, expected


def test_a_sample_is_judged_as_its_action_would_be():
    """In value; and in gradient, through the action or with the action held."""
    choice = mixed(6)
    (action, log_prob), of_action, (moved, stayed, along, score), expected = jax.device_get(
        evaluated(choice, KEY)
    )
    np.testing.assert_allclose(action, say(choice, "sample", KEY), rtol=1e-6)
    np.testing.assert_allclose(log_prob, of_action, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip((along, score), expected, strict=True):
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-3, atol=2e-3)
        np.testing.assert_allclose(ours.log_std, theirs.log_std, rtol=1e-3, atol=2e-3)
    assert (
        (abs(along.mean - score.mean) > 0.01).any()
        and (moved.mean != 0).all()
        and not stayed.mean.any()
    )


def test_a_squashed_density_is_exact_however_near_the_bound():
    """At |u| = 20 the action is ±1, or as near to it as tanh is compiled to be."""
    choice = mixed(6)
    mean = (
        np.random.default_rng(0)
        .permutation(np.repeat([-20, -8, 0, 8, 20, 20], 4))
        .reshape(6, 4)
        .astype(np.float32)
    )
    choice = SquashedNormal(jnp.asarray(mean), choice.log_std, (2, 2), choice.squashed)
    u = mean + np.exp(np.asarray(choice.log_std, float)) * np.asarray(
        jax.random.normal(KEY, (6, 4)), float
    )
    (action, log_prob), *others = evaluated(choice, KEY)
    squashed = np.array(choice.squashed)
    flat = abs(np.asarray(action).reshape(6, 4))[:, squashed]
    assert (flat[abs(mean[:, squashed]) == 20] > 1 - 3e-7).all() and (
        flat[mean[:, squashed] == 0] < 1
    ).all()
    np.testing.assert_allclose(
        log_prob, exact_log_prob(mean, choice.log_std, u, squashed), rtol=1e-4, atol=1e-4
    )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(others))


def test_actions_at_the_bounds_are_judged_as_the_nearest_inside():
    choice = SquashedNormal(np.zeros(1, np.float32), np.zeros(1, np.float32), (1,))
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(choice.log_prob)))(
        np.float32([[-1], [1], [2**-24 - 1], [1 - 2**-24]])
    )
    value, slope = np.asarray(value), np.asarray(slope)
    assert np.isfinite(value).all() and np.isfinite(slope).all()
    np.testing.assert_array_equal(value[:2], value[2:])
    inside = np.arctanh(1 - 2.0**-24)
    np.testing.assert_allclose(value, exact_log_prob(0, 0, [[inside]], True)[0], rtol=1e-5)


# Divergences


@jax.jit
def divergences(p, q):
    """KL from one to the other, and to itself; of normals also with the other's parameters written
    out for each row."""
    return p.kl(q), p.kl(p), p.kl(broadcast_params(q))


def pairs(space, seed):
    return head(space, 2, seed=seed), head(space, 2, seed=seed + 1, scale=1.5)


@every_finite_space
def test_a_divergence_is_the_sum_over_all_actions(space):
    p, q = pairs(space, 0)
    kl, itself, _ = divergences(p, q)
    np.testing.assert_allclose(itself, 0, atol=1e-6)
    actions = actions_of(space)
    for i in range(2):
        log_p, log_q = (
            np.asarray(log_probs(distribution_for(space, x.logits[i]), actions), float)
            for x in (p, q)
        )
        assert kl[i] == pytest.approx((np.exp(log_p) * (log_p - log_q)).sum(), rel=1e-4, abs=1e-6)
        assert kl[i] > 0.1


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)], ids=str)
def test_a_divergence_of_normals_is_the_mean_of_scipys_log_ratio(shape):
    """That ratio is a parabola, whose mean three nodes of Gauss and Hermite give exactly."""
    p, q = pairs(Box(shape), 0)
    kl, itself, settled_kl = divergences(p, q)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    mean, other = np.asarray(p.mean, float), np.asarray(q.mean, float)
    std, other_std = (np.exp(np.asarray(x.log_std, float)) for x in (p, q))
    x = mean + std * nodes[:, None, None]  # [node, row, n]
    ratio = scipy.stats.norm(mean, std).logpdf(x) - scipy.stats.norm(other, other_std).logpdf(x)
    expected = np.tensordot(weights / weights.sum(), ratio, 1).sum(-1)
    np.testing.assert_allclose(kl, expected, rtol=1e-4)
    np.testing.assert_allclose(settled_kl, kl, rtol=1e-6)
    np.testing.assert_allclose(itself, 0, atol=1e-6)


# The normal with state-dependent noise

STATES, FEATURES = 3, 4


def noisy(shape=(2,), seed=0):
    """In three states."""
    rng, n = np.random.default_rng(seed), math.prod(shape)
    mean, features, log_std = (
        rng.normal(0, 0.6, size).astype(np.float32)
        for size in ((STATES, n), (STATES, FEATURES), (FEATURES, n))
    )
    return StateDependentNormal(mean, features, log_std, shape)


def marginal_std(choice):
    """Of the action, [state, n]: √(Σ_f φ_f² σ_f²)."""
    features, std = np.asarray(choice.features, float), np.exp(np.asarray(choice.log_std, float))
    return np.sqrt(
        [
            [sum((row[f] * std[f, i]) ** 2 for f in range(FEATURES)) for i in range(std.shape[1])]
            for row in features
        ]
    )


@jax.jit
def under(choice, keys):
    """Samples [key, state, *shape], each key for all states; and those of each key when it is split
    among them."""
    one_for_all = jax.vmap(lambda key: choice.sample(jnp.broadcast_to(key, STATES)))
    return one_for_all(keys), jax.vmap(choice.sample)(keys)


@pytest.mark.parametrize("shape", [(), (2,), (2, 2)], ids=str)
def test_what_state_dependent_noise_makes_of_an_action_is_normal(shape):
    choice, n = noisy(shape), math.prod(shape)
    expected = scipy.stats.norm(np.asarray(choice.mean, float), marginal_std(choice))
    says = described(choice, KEY)
    sample = np.asarray(says["sample"], float)
    assert sample.shape == (STATES, *shape)
    np.testing.assert_allclose(
        says["log_prob"], expected.logpdf(sample.reshape(STATES, n)).sum(-1), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(says["entropy"], expected.entropy().sum(-1), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(says["mode"].reshape(STATES, n), choice.mean)


@pytest.mark.slow
def test_samples_over_keys_have_the_moments_of_the_marginal():
    """And states under one matrix of noise go together as their features do; under a matrix each,
    not at all."""
    choice, rounds = noisy(), 10_000
    together, apart = (
        np.asarray(x, float) - np.asarray(choice.mean, float)
        for x in under(choice, jax.random.split(KEY, rounds))
    )
    std = marginal_std(choice)
    for noise in (together, apart):
        assert scipy.stats.kstest((noise / std).reshape(-1, 6)[:, 0], "norm").pvalue > 1e-4
        np.testing.assert_allclose(noise.mean(0) / std, 0, atol=4 / math.sqrt(rounds))
        np.testing.assert_allclose(noise.std(0), std, rtol=0.03)
    features, sigma = np.asarray(choice.features, float), np.exp(np.asarray(choice.log_std, float))
    for i in range(2):
        covariance = features @ np.diag(sigma[:, i] ** 2) @ features.T
        np.testing.assert_allclose(
            np.cov(together[..., i].T), covariance, atol=0.05 * covariance.max()
        )
        np.testing.assert_allclose(np.corrcoef(apart[..., i].T), np.eye(STATES), atol=0.04)
    assert abs(np.corrcoef(together[:, 0].T)[0, 1]) < 0.04  # nor do the parts of an action


def test_one_key_is_one_matrix_of_noise():
    """Linear in the features: those of the sum of two states are the sum of theirs; the same key
    again is the same noise."""
    choice = noisy()
    features = np.stack([*choice.features[:2], choice.features[0] + 2 * choice.features[1]])
    choice = StateDependentNormal(choice.mean, features, choice.log_std, choice.shape)
    keys = jax.random.split(KEY, 3)
    together, apart = jax.device_get(under(choice, keys))
    noise = np.asarray(together - choice.mean, float)
    np.testing.assert_allclose(noise[:, 2], noise[:, 0] + 2 * noise[:, 1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(under(choice, keys)[0], together)
    assert (abs(noise[0] - noise[1]) > 1e-3).all()
    assert not np.allclose(
        apart[:, 2] - choice.mean[2],
        apart[:, 0] - choice.mean[0] + 2 * (apart[:, 1] - choice.mean[1]),
    )


def test_a_settled_choice_can_be_cut_anywhere():
    """Each row of a settled one says of an action what it said among the others."""
    plain, spread, choices = head(Box((2,)), STATES), noisy(), head(FINITE["multidiscrete"], STATES)
    assert broadcast_params(choices) is choices
    for choice in (plain, spread):
        flat = broadcast_params(choice)
        assert isinstance(flat, Normal) and all(
            x.shape == (STATES, 2) for x in jax.tree.leaves(flat)
        )
        row = jax.tree.map(lambda x: np.asarray(x)[[2, 0]], flat)
        action = np.float32([[0.3, -0.2]] * STATES)
        whole = np.asarray(say(choice, "log_prob", action))
        np.testing.assert_allclose(say(row, "log_prob", action[:2]), whole[[2, 0]], rtol=1e-5)
    np.testing.assert_allclose(
        np.exp(broadcast_params(spread).log_std), marginal_std(spread), rtol=1e-4
    )


def test_a_divergence_with_state_dependent_noise_is_that_of_the_marginals():
    """Also from one that was settled to one that is not, as after an update."""
    p, q = noisy(), noisy(seed=1)
    kl, itself, from_settled = divergences(p, q)
    plain = [
        Normal(choice.mean, np.float32(np.log(marginal_std(choice))), (2,)) for choice in (p, q)
    ]
    np.testing.assert_allclose(kl, divergences(*plain)[0], rtol=1e-3)
    np.testing.assert_allclose(from_settled, kl, rtol=1e-5)
    np.testing.assert_allclose(say(broadcast_params(p), "kl", q), kl, rtol=1e-5)
    np.testing.assert_allclose(itself, 0, atol=1e-6)


def test_a_masked_choice_is_that_of_what_is_left():
    """As if the forbidden one had never been there; the divergence is over what is left, too."""
    may = np.array([[True, True, False, True], [True] * 4])
    p, q = pairs(Discrete(4), 0)
    ours, theirs = masked_distribution(p, may), masked_distribution(q, may)
    left = [Categorical(np.delete(x.logits[0], 2)) for x in (p, q)]
    kl, itself, _ = divergences(ours, theirs)
    assert kl[0] == pytest.approx(float(say(left[0], "kl", left[1])), rel=1e-5) and itself[0] == 0
    assert kl[1] == pytest.approx(float(say(p, "kl", q)[1]), rel=1e-5)
    assert (
        ours.logits[0, 2] == MASKED_LOGIT
        and np.exp(np.asarray(say(ours, "log_prob", np.int32([2, 2]))))[0] == 0
    )
