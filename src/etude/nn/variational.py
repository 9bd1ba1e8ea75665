"""Variational Bayesian layers: a distribution over weights in place of weights, by backpropagation.

Each weight and bias is an independent normal with a learned mean and spread (Bayes by backprop;
Blundell et al., 2015):

    q(w) = N(μ, σ²),   σ = log(1 + exp(ρ)),   prior p(w) = N(0, prior_std²)

The fit maximizes a lower bound of the log evidence of the data, per row:

    log p(data) / N >= -E_q[NLL of a row] - KL(q || p) / N,   N = rows in the training set

There are two ways to apply a network, and each has its use:

    network(x, key)       to fit: every row has weights of its own, by local reparameterization
    network.draw(key)     to predict: an ordinary network with one sample of all weights. Several
                          draws disagree where there were no data: epistemic uncertainty. Keep one
                          for all rows of a plan, for what is not known does not change on the way.

The prior takes the place of weight decay: give the optimizer none, which would pull ρ to 0.
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from etude.nn.linear import affine
from etude.nn.networks import MLP, Activation, make_mlp
from etude.struct import static, struct
from etude.types import Array


@struct
class VariationalLinear:
    """A linear layer with a normal distribution over each weight and bias."""

    mean: eqx.nn.Linear  # μ: weight [outputs, inputs], bias [outputs] or None
    rho: eqx.nn.Linear  # ρ of the same shapes

    def __call__(self, x: Array, key: Array) -> Array:
        """A sample of the output of each row, [..., inputs] to [..., outputs].

        Its distribution is the one under weights sampled anew for each row, at the price of one
        more product (local reparameterization; Kingma et al., 2015, section 2.3):

            b ~ N(x μᵀ + μ_bias, x² σᵀ² + σ_bias²)
        """
        variance = affine(jax.tree.map(jnp.square, self.std), x**2)
        # an input of 0 may leave no variance, and the gradient of √0 is infinite
        std = jnp.sqrt(jnp.maximum(variance, jnp.finfo(variance.dtype).tiny))
        return affine(self.mean, x) + std * jax.random.normal(key, std.shape, std.dtype)

    @property
    def std(self) -> eqx.nn.Linear:
        """σ of the weight and of the bias, as a layer."""
        return jax.tree.map(jax.nn.softplus, self.rho)

    def draw(self, key: Array) -> eqx.nn.Linear:
        """A linear layer with one sample of the weights, μ + σ ε, the same for all its inputs."""
        mean, restore = ravel_pytree(self.mean)
        std, _ = ravel_pytree(self.std)
        return restore(mean + std * jax.random.normal(key, mean.shape, mean.dtype))

    def kl(self, prior_std: float | Array) -> Array:
        """KL(q || p) = Σ [log(prior_std / σ) + (σ² + μ²) / (2 prior_std²) - ½], in nats."""
        mean, std = (ravel_pytree(layer)[0] for layer in (self.mean, self.std))
        squared = (std**2 + mean**2) / prior_std**2
        return (jnp.log(prior_std / std) + (squared - 1) / 2).sum()


@struct
class VariationalMLP:
    """Multilayer perceptron of variational layers, [..., inputs] to [..., outputs]."""

    layers: tuple[VariationalLinear, ...]
    activation: Activation = static("relu")

    def __call__(self, x: Array, key: Array) -> Array:
        """A sample of the output of each row, with noise of its own in every layer and row."""
        *hidden_keys, last_key = jax.random.split(key, len(self.layers))
        for layer, layer_key in zip(self.layers[:-1], hidden_keys, strict=True):
            x = getattr(jax.nn, self.activation)(layer(x, layer_key))
        return self.layers[-1](x, last_key)

    def draw(self, key: Array) -> MLP:
        """An MLP with one sample of all weights; `vmap` over keys stacks draws as [draw, ...]."""
        keys = jax.random.split(key, len(self.layers))
        layers = tuple(layer.draw(key) for layer, key in zip(self.layers, keys, strict=True))
        return MLP(layers, (None,) * (len(layers) - 1), self.activation)

    def kl(self, prior_std: float | Array) -> Array:
        """KL(q || p) of all weights and biases, in nats."""
        return jnp.stack([layer.kl(prior_std) for layer in self.layers]).sum()


def make_variational_mlp(
    key: Array,
    sizes: Sequence[int],
    activation: Activation = "relu",
    initial_std: float | Array = 0.1,
) -> VariationalMLP:
    """A variational MLP with layers of these sizes, inputs first.

    Args:
        key: Of the means, which are initialized as in `make_mlp`.
        sizes: Of the input, each hidden layer and the output.
        activation: Between the layers.
        initial_std: σ at the start is `initial_std` / √inputs, above 0. It is small beside the
            weights, or their noise would hide the data and the prior alone would be fitted.

    Returns:
        The network.
    """
    means = make_mlp(key, sizes, activation).layers
    return VariationalMLP(tuple(to_variational(layer, initial_std) for layer in means), activation)


def to_variational(layer: eqx.nn.Linear, initial_std: float | Array) -> VariationalLinear:
    """The variational layer with the means of a linear one, and σ = `initial_std` / √inputs."""
    rho = jnp.log(jnp.expm1(initial_std / math.sqrt(layer.weight.shape[-1])))  # softplus⁻¹(σ)
    return VariationalLinear(layer, jax.tree.map(lambda x: jnp.full_like(x, rho), layer))


def negative_elbo(nll: Array, kl: Array, num_rows: int | Array) -> Array:
    """The loss of a variational network per row, in nats: the mean NLL + KL(q || p) / N.

    `num_rows` N times it, negated, is a lower bound of the log evidence of the data. N counts the
    rows of the training set: with those of a batch, or the number of batches, the prior would have
    another weight, and the uncertainty another size (Blundell et al., 2015, section 3.4).

    Args:
        nll: Negative log likelihood of each row under a sample of weights, [row], of any batch.
        kl: KL(q || p) of all weights.
        num_rows: N, of the training set.

    Returns:
        The loss.
    """
    return nll.mean() + kl / num_rows
