"""Variational layers against Bayesian linear regression in closed form, and their two samples
against each other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from filling import filled

from etude.nn.networks import MLP, make_mlp
from etude.nn.variational import make_variational_mlp, negative_elbo, to_variational
from etude.struct import replace

KEY = jax.random.key(0)
NOISE, PRIOR = 0.5, 2.0  # standard deviations of the targets' noise and of the prior


def linear_layer(inputs, outputs, use_bias=True, seed=0):
    return filled(lambda: eqx.nn.Linear(inputs, outputs, use_bias=use_bias, key=KEY), seed)


def posterior(x, y):
    """(mean, precision) of the weights of Bayesian linear regression, in float64."""
    precision = x.T @ x / NOISE**2 + np.eye(x.shape[1]) / PRIOR**2
    return np.linalg.solve(precision, x.T @ y / NOISE**2), precision


def log_evidence(x, y):
    covariance = NOISE**2 * np.eye(len(x)) + PRIOR**2 * x @ x.T
    return scipy.stats.multivariate_normal(np.zeros(len(x)), covariance).logpdf(y)


kl = jax.jit(lambda network: network.kl(PRIOR))


@jax.jit
def fit(layer, x, y, num_rows):
    """The layer after Adam on the negative ELBO, its noise averaged over 32 samples of each row."""

    def loss(layer, key):
        output = layer(jnp.broadcast_to(x, (32, *x.shape)), key)[..., 0]
        nll = ((y - output) / NOISE) ** 2 / 2 + jnp.log(NOISE * jnp.sqrt(2 * jnp.pi))
        return negative_elbo(nll, layer.kl(PRIOR), num_rows)

    optimizer = optax.adam(optax.linear_schedule(0.1, 0, 800))

    def step(carry, key):
        layer, state = carry
        updates, state = optimizer.update(jax.grad(loss)(layer, key), state)
        return (optax.apply_updates(layer, updates), state), ()

    keys = jax.random.split(KEY, 800)
    return jax.lax.scan(step, (layer, optimizer.init(layer)), keys)[0][0]


def elbo(layer, x, y):
    """E_q[log p(y | x, w)] by its closed form, less the layer's own KL."""
    mean = np.asarray(layer.mean.weight[0], float)
    variance = np.log1p(np.exp(np.asarray(layer.rho.weight[0], float))) ** 2
    squared = (y - x @ mean) ** 2 + x**2 @ variance
    expected = -(squared / NOISE**2 + np.log(2 * np.pi * NOISE**2)).sum() / 2
    return expected - float(kl(layer))


def fitted(x, y, copies=1):
    """(the layer, its means, its variances) for data that are there `copies` times."""
    start = to_variational(linear_layer(x.shape[1], 1, use_bias=False), 0.1)
    layer = jax.device_get(fit(start, np.float32(x), np.float32(y), np.float32(copies * len(x))))
    variance = np.log1p(np.exp(layer.rho.weight[0])) ** 2
    return layer, layer.mean.weight[0], variance


def regression(features, rows=12):
    """Rows whose features are not independent, so that the posterior's weights are not either."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(rows, features)) @ (np.eye(features) + 0.7)
    return x, x @ rng.normal(size=features) + NOISE * rng.normal(size=rows)


def test_the_fit_is_the_mean_field_optimum_of_bayesian_linear_regression():
    """q with the least KL to N(m, Λ⁻¹) among independent normals: mean m, variances 1 / diag Λ."""
    x, y = regression(3)
    mean, precision = posterior(x, y)
    layer, found_mean, found_variance = fitted(x, y)
    np.testing.assert_allclose(found_mean, mean, atol=0.02)
    np.testing.assert_allclose(found_variance, 1 / np.diag(precision), rtol=0.05)
    # the marginal variances are others: the optimum is narrower than the posterior
    assert (found_variance < 0.8 * np.diag(np.linalg.inv(precision))).all()
    assert elbo(layer, x, y) < log_evidence(x, y) - 0.1

    # the same rows twice
    mean, precision = posterior(np.concatenate([x, x]), np.concatenate([y, y]))
    _, found_mean, halved = fitted(x, y, copies=2)
    np.testing.assert_allclose(found_mean, mean, atol=0.02)
    np.testing.assert_allclose(halved, 1 / np.diag(precision), rtol=0.05)
    np.testing.assert_allclose(halved, found_variance / 2, rtol=0.06)


def test_the_bound_is_the_evidence_where_the_posterior_has_independent_weights():
    """In one dimension, and in several with orthogonal features.

    Here one feature is always 0, and a row is all 0, whose output has no variance.
    """
    x, y = regression(3)
    x = np.concatenate([np.zeros((1, 3)), 4 * np.linalg.qr(x[1:])[0] * [1, 0.5, 0]])
    layer, _, variance = fitted(x, y)
    np.testing.assert_allclose(elbo(layer, x, y), log_evidence(x, y), atol=0.02)
    np.testing.assert_allclose(variance[2], PRIOR**2, rtol=0.05)


INPUTS = np.float32([[0.5, -1, 2], [0.5, -1, 2], [0, 0, 0]])  # [row, input]: two of them are equal


def variational_mlp():
    """An MLP 3-4-2 with another σ, about 0.3, for each weight."""
    network = jax.eval_shape(lambda: make_variational_mlp(KEY, (3, 4, 2), "tanh"))
    rng = np.random.default_rng(3)
    draw = lambda x, center: np.float32(rng.normal(center, 0.5, x.shape))
    layers = [
        replace(
            layer,
            mean=jax.tree.map(lambda x: draw(x, 0), layer.mean),
            rho=jax.tree.map(lambda x: draw(x, -1), layer.rho),
        )
        for layer in network.layers
    ]
    return replace(network, layers=tuple(layers))


@pytest.fixture(scope="module")
def samples():
    """(the network, samples [key, row, output] by local reparameterization, and by draws)."""
    network = variational_mlp()

    @jax.jit
    def sample(network, keys):
        drawn = jax.vmap(network.draw)(keys)
        apply = jax.vmap(lambda network: network(INPUTS))
        return jax.vmap(lambda key: network(INPUTS, key))(keys), apply(drawn), drawn

    keys = jax.random.wrap_key_data(np.arange(30_000, dtype=np.uint32).reshape(-1, 2))
    return network, *jax.device_get(sample(network, keys))


def exact_moments(network, x):
    """(mean, variance) of the outputs of a row: the hidden units are independent normals."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    first, second = (
        [np.asarray(part, float) for part in (layer.mean.weight, layer.mean.bias)]
        + [
            np.log1p(np.exp(np.asarray(part, float))) ** 2
            for part in (layer.rho.weight, layer.rho.bias)
        ]
        for layer in network.layers
    )
    center, variance = first[0] @ x + first[1], first[2] @ x**2 + first[3]
    units = np.tanh(center[:, None] + np.sqrt(variance)[:, None] * points)  # [unit, point]
    mean, square = units @ weights, units**2 @ weights
    of_products = (second[0] ** 2 + second[2]) @ square - second[0] ** 2 @ mean**2
    return second[0] @ mean + second[1], of_products + second[3]


def test_both_samples_have_the_moments_of_the_distribution_of_weights(samples):
    network, *both, _ = samples
    for sampled in both:
        for row, x in enumerate(INPUTS):
            mean, variance = exact_moments(network, x)
            np.testing.assert_allclose(sampled[:, row].mean(0), mean, atol=0.03)
            np.testing.assert_allclose(sampled[:, row].var(0), variance, rtol=0.05)


def test_a_draw_is_the_same_for_all_rows_and_local_noise_is_not(samples):
    _, local, of_draws, drawn = samples
    np.testing.assert_allclose(of_draws[:, 0], of_draws[:, 1], rtol=1e-5, atol=1e-6)
    assert abs(np.corrcoef(local[:, 0, 0], local[:, 1, 0])[0, 1]) < 0.03
    # weights are independent of each other, and so are keys
    assert isinstance(drawn, MLP)
    weights = np.concatenate(
        [x.reshape(len(x), -1) for layer in drawn.layers for x in (layer.weight, layer.bias)], 1
    )
    correlation = np.corrcoef(weights.T) - np.eye(weights.shape[1])
    assert np.abs(correlation).max() < 0.04


def test_kl_is_the_integral_of_its_definition():
    network = variational_mlp()
    w = np.linspace(-12, 12, 20_001)
    expected = 0.0
    for layer in network.layers:
        for mean, rho in zip(*(jax.tree.leaves(x) for x in (layer.mean, layer.rho)), strict=True):
            for m, s in zip(np.ravel(mean), np.log1p(np.exp(np.ravel(rho))), strict=True):
                q, p = scipy.stats.norm(m, s), scipy.stats.norm(0, PRIOR)
                expected += np.trapezoid(q.pdf(w) * (q.logpdf(w) - p.logpdf(w)), w)
    np.testing.assert_allclose(kl(network), expected, rtol=1e-4)


def test_it_starts_with_the_means_of_an_mlp_and_the_spread_asked_for():
    sizes = (3, 4, 2)
    ours, plain = jax.device_get(
        jax.jit(lambda: (make_variational_mlp(KEY, sizes, "silu", 0.2), make_mlp(KEY, sizes)))()
    )
    for layer, expected, inputs in zip(ours.layers, plain.layers, sizes, strict=False):
        np.testing.assert_array_equal(layer.mean.weight, expected.weight)
        for rho in (layer.rho.weight, layer.rho.bias):
            np.testing.assert_allclose(np.log1p(np.exp(rho)), 0.2 / np.sqrt(inputs), rtol=1e-4)
    assert ours.activation == "silu"
