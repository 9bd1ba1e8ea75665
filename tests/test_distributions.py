"""Policy heads against scipy, enumeration and frequencies."""
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from etude import distributions
from etude.distributions import Bernoulli, Categorical, MultiCategorical, Normal, num_parameters, over, pick
from etude.spaces import Box, Discrete, MultiBinary, MultiDiscrete, to_gymnasium

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
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
every_finite_space = pytest.mark.parametrize("space", FINITE.values(), ids=FINITE)


def head(space, *leading, seed=0, scale=1.0):
    """A distribution with random parameters [*leading, n]."""
    rng = np.random.default_rng(seed)
    n = num_parameters(space)
    log_std = jnp.float32(rng.normal(-0.5, 0.3, n)) if isinstance(space, Box) else ()
    return over(space, jnp.float32(rng.normal(0, scale, (*leading, n))), log_std)


def actions_of(space):
    """Every action of a finite space, [action, *shape]."""
    match space:
        case Discrete(n=n):
            return np.arange(n)
        case MultiDiscrete(sizes=sizes, shape=shape):
            return np.array(list(itertools.product(*map(range, sizes)))).reshape(-1, *shape)
        case MultiBinary(shape=shape):
            return np.array(list(itertools.product((0, 1), repeat=math.prod(shape))), np.int8).reshape(-1, *shape)


@jax.jit
def told(choice, key):
    """What a distribution says, with its judgement of its own sample."""
    sample = choice.sample(key)
    return dict(sample=sample, mode=choice.mode(), log_prob=choice.log_prob(sample), entropy=choice.entropy())


@jax.jit
def log_probs(choice, actions):
    """Of each of several actions, [action], by a distribution without leading axes."""
    return jax.vmap(choice.log_prob)(actions)


@every_space
@pytest.mark.parametrize("leading", [(), (2, 3)], ids=str)
def test_shapes_and_dtypes(space, leading):
    says, zeros = told(head(space, *leading), KEY), space.zeros()
    for action in (says["sample"], says["mode"]):
        assert action.shape == (*leading, *zeros.shape)
        assert np.dtype(action.dtype).kind == np.dtype(zeros.dtype).kind
        assert action.dtype == jnp.int8 or not isinstance(space, MultiBinary)
    assert says["log_prob"].shape == says["entropy"].shape == leading


@every_space
def test_leading_axes_are_independent(space):
    """Each row is judged as if it stood alone."""
    choice = head(space, 2, 3)
    together = told(choice, KEY)
    for i, j in [(0, 0), (1, 2)]:
        if isinstance(space, Box):
            alone = Normal(choice.mean[i, j], choice.log_std, space.shape)
        else:
            alone = over(space, choice.logits[i, j])
        says = told(alone, KEY)
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
        says = told(choice, KEY)
        assert says["entropy"] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-4)
        np.testing.assert_array_equal(says["mode"], actions[p.argmax()])


@every_finite_space
def test_samples_come_as_often_as_they_should(space):
    choice, rounds = head(space), 2_000
    many = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, 3, *x.shape)), choice)
    samples = np.array([told(many, key)["sample"] for key in jax.random.split(KEY, rounds)]).reshape(6 * rounds, 1, -1)
    actions = actions_of(space)
    p = np.exp(np.asarray(log_probs(choice, actions), float))
    seen = (samples == actions.reshape(len(actions), -1)).all(-1).sum(0)
    assert seen.sum() == 6 * rounds
    assert scipy.stats.chisquare(seen, 6 * rounds * p / p.sum()).pvalue > 1e-4


def test_categorical_against_scipy():
    logits = np.random.default_rng(0).normal(size=(6, 4))
    action = np.array([0, 1, 2, 3, 0, 2])
    p = scipy.special.softmax(logits, -1)
    choice = Categorical(jnp.float32(logits))
    np.testing.assert_allclose(choice.log_prob(action), np.log(p[np.arange(6), action]), rtol=1e-5)
    np.testing.assert_allclose(choice.entropy(), scipy.stats.entropy(p, axis=-1), rtol=1e-5)


def test_parts_of_a_multicategorical_are_read_in_row_major_order():
    space = MultiDiscrete((2, 3, 2, 2), (0,) * 4, (2, 2))
    logits = jnp.array([0, 9, 0, 0, 9, 9, 0, 0, 9], jnp.float32)
    np.testing.assert_array_equal(over(space, logits).mode(), [[1, 2], [0, 1]])


def test_bernoulli_against_scipy():
    logits = np.random.default_rng(0).normal(0, 2, (5, 3))
    on = np.random.default_rng(1).integers(2, size=(5, 3))
    p = scipy.special.expit(logits)
    choice = Bernoulli(jnp.float32(logits), (3,))
    np.testing.assert_allclose(choice.log_prob(jnp.int8(on)), scipy.stats.bernoulli.logpmf(on, p).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(choice.entropy(), scipy.stats.bernoulli(p).entropy().sum(-1), rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)], ids=str)
def test_normal_against_scipy(shape):
    n = math.prod(shape)
    rng = np.random.default_rng(0)
    mean, log_std, action = rng.normal(size=(4, n)), rng.normal(size=n), rng.normal(0, 3, (4, n))
    choice = Normal(jnp.float32(mean), jnp.float32(log_std), shape)
    expected = scipy.stats.norm(mean, np.exp(log_std))
    np.testing.assert_allclose(choice.log_prob(jnp.float32(action.reshape(4, *shape))),
                               expected.logpdf(action).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(choice.entropy(), expected.entropy().sum(-1), rtol=1e-5)


def test_samples_of_a_normal_are_normal():
    choice = Normal(jnp.float32([1, -2]), jnp.log(jnp.float32([0.5, 2])), (2,))
    many = Normal(jnp.broadcast_to(choice.mean, (20_000, 2)), choice.log_std, (2,))
    samples = np.asarray(many.sample(KEY), float)
    standard = (samples - [1, -2]) / [0.5, 2]
    assert scipy.stats.kstest(standard.ravel(), "norm").pvalue > 1e-4
    assert abs(np.corrcoef(standard.T)[0, 1]) < 0.03
    np.testing.assert_allclose(-many.log_prob(samples).mean(), choice.entropy(), atol=0.03)          # Monte Carlo


@pytest.mark.parametrize("choice", [Categorical(jnp.float32([0, 1])), Bernoulli(jnp.float32([0, 1]), (2,))], ids=str)
def test_saturated_logits_stay_finite(choice):
    entropy = jax.jit(jax.value_and_grad(lambda choice: choice.entropy()))
    for logit in (-1e3, 1e3):
        value, slope = entropy(jax.tree.map(lambda x, logit=logit: x * logit, choice))
        assert jnp.isfinite(value) and jnp.isfinite(slope.logits).all()
        assert value == pytest.approx(0 if isinstance(choice, Categorical) else math.log(2), abs=1e-6)


@every_space
def test_the_space_says_how_many_parameters(space):
    expected = {Discrete: lambda: space.n, MultiDiscrete: lambda: sum(space.sizes)}
    assert num_parameters(space) == expected.get(type(space), lambda: math.prod(space.shape))()
    assert type(head(space)) is {Discrete: Categorical, MultiDiscrete: MultiCategorical, MultiBinary: Bernoulli,
                                 Box: Normal}[type(space)]


@every_finite_space
def test_samples_are_in_the_space(space):
    """Choices count from 0; the environment's own start is added on the way to it."""
    plain = Discrete(space.n) if isinstance(space, Discrete) else space
    if isinstance(space, MultiDiscrete):
        plain = MultiDiscrete(space.sizes, (0,) * len(space.sizes), space.shape)
    allowed = to_gymnasium(plain)
    for sample in np.asarray(told(head(space, 2, 3), KEY)["sample"]).reshape(6, *plain.zeros().shape):
        assert allowed.contains(sample.astype(allowed.dtype))


@every_space
def test_keys_decide(space):
    choice = head(space, 2, 3)
    one, again, other = (told(choice, key)["sample"] for key in (KEY, KEY, jax.random.key(1)))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_parts_of_a_choice_are_drawn_independently():
    choice = over(MultiDiscrete((2, 2), (0, 0), (2,)), jnp.zeros((20_000, 4)))
    assert abs(np.corrcoef(choice.sample(KEY).T)[0, 1]) < 0.03


def test_pick():
    values = jnp.arange(24.0).reshape(2, 3, 4)
    action = jnp.int32([[0, 3, 1], [2, 2, 0]])
    expected = [[values[i, j, action[i, j]] for j in range(3)] for i in range(2)]
    np.testing.assert_array_equal(pick(values, action), expected)
    assert distributions.pick(jnp.float32([5, 6]), jnp.int32(1)) == 6
