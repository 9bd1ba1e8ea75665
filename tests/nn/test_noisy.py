"""Noisy layers: without their noise they are plain ones, and with it they spread as the paper
says."""

import jax
import jax.numpy as jnp
import numpy as np
from filling import call, filled

from etude.nn.networks import make_network
from etude.nn.noisy import NoisyLinear, add_noise_layers, sample_noise
from etude.spaces import Box
from etude.struct import replace

KEY = jax.random.key(0)
PLAIN = filled(lambda: make_network(KEY, Box((3,)), (8, 8), 2))
NOISY = add_noise_layers(PLAIN, 0.5)
OBSERVATION = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


draw = jax.jit(sample_noise)


def layers(net):
    return net.head.layers


def test_every_linear_layer_becomes_noisy_with_the_spread_of_its_inputs():
    assert all(isinstance(layer, NoisyLinear) for layer in layers(NOISY))
    for layer, inputs in zip(layers(NOISY), (3, 8, 8), strict=True):
        np.testing.assert_allclose(layer.weight_sigma, 0.5 / np.sqrt(inputs), rtol=1e-6)
        np.testing.assert_allclose(layer.bias_sigma, 0.5 / np.sqrt(inputs), rtol=1e-6)


def test_without_noise_it_is_the_plain_network():
    np.testing.assert_allclose(call(NOISY, OBSERVATION), call(PLAIN, OBSERVATION), rtol=1e-6)
    still = draw(add_noise_layers(PLAIN, 0.0), KEY)
    for ours, plain in zip(layers(still), layers(PLAIN), strict=True):
        np.testing.assert_array_equal(ours.weight, plain.weight)
        np.testing.assert_array_equal(ours.bias, plain.bias)
    np.testing.assert_allclose(call(still, OBSERVATION), call(PLAIN, OBSERVATION), rtol=1e-6)


def test_a_network_without_noisy_layers_stays_as_it_is():
    jax.tree.map(np.testing.assert_array_equal, sample_noise(PLAIN, KEY), PLAIN)


def test_noise_has_the_factors_and_the_variance_of_the_paper():
    """ε = f(x) f(y) with f(x)² = |x|: mean 0, variance (2/π), and rank one within a layer."""
    drawn = jax.device_get(
        jax.jit(jax.vmap(sample_noise, (None, 0)))(NOISY, jax.random.split(KEY, 20_000))
    )
    for layer, before in zip(layers(drawn), layers(NOISY), strict=True):
        noise = np.asarray((layer.weight - before.weight) / before.weight_sigma)
        np.testing.assert_allclose(noise.mean(0), 0, atol=0.05)
        np.testing.assert_allclose(noise.var(0), 2 / np.pi, rtol=0.1)
        minors = noise[:, 0, 0] * noise[:, 1, 1] - noise[:, 0, 1] * noise[:, 1, 0]
        np.testing.assert_allclose(minors, 0, atol=1e-4)
        bias = np.asarray((layer.bias - before.bias) / before.bias_sigma)
        np.testing.assert_allclose(bias.var(0), np.sqrt(2 / np.pi), rtol=0.1)
        np.testing.assert_allclose(
            noise / bias[..., None],
            (noise / bias[..., None])[:, :1].repeat(noise.shape[1], 1),
            rtol=2e-2,
            atol=2e-2 * np.abs(noise / bias[..., None]).max(),
        )


def test_layers_and_keys_have_noise_of_their_own():
    one, other, still = jax.device_get((*(draw(NOISY, jax.random.key(i)) for i in range(2)), NOISY))
    first, second = ((layers(one)[i].weight - layers(still)[i].weight)[:2, :2] for i in (1, 2))
    assert not np.allclose(first, second)
    assert not np.allclose(layers(one)[0].weight, layers(other)[0].weight)


def test_means_and_spreads_both_learn():
    """d/dσ of an output that is linear in the weight is the noise times its input."""
    layer = replace(NOISY, head=replace(NOISY.head, layers=layers(NOISY)[:1], norms=()))

    def output(net):
        return sample_noise(net, KEY)(jnp.asarray(OBSERVATION[0])).sum()

    gradient, drawn, still = jax.device_get(
        (jax.jit(jax.grad(output))(layer), draw(layer, KEY), layer)
    )
    noise = (layers(drawn)[0].weight - layers(still)[0].weight) / layers(still)[0].weight_sigma
    np.testing.assert_allclose(
        layers(gradient)[0].weight, np.broadcast_to(OBSERVATION[0], (8, 3)), rtol=1e-5
    )
    np.testing.assert_allclose(
        layers(gradient)[0].weight_sigma, noise * OBSERVATION[0], rtol=1e-3, atol=1e-5
    )
