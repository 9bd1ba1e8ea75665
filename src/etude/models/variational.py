"""A network with random weights, whose draws disagree where there were no data.

It is fitted by Bayes by backprop (Blundell et al., 2015): the mean negative log likelihood of a row
plus KL(q ‖ p) / N, N the rows that it is trained on. To plan, weights are drawn once for each
particle and kept for the whole plan, as a member of an ensemble is.
"""

import jax
import jax.numpy as jnp

from etude.models import network_dynamics
from etude.models.gaussian_network import (
    Gaussian,
    GaussianNetwork,
    LogVarianceBounds,
    initial_bounds,
    regression_loss,
)
from etude.models.model_rows import ModelRows
from etude.models.network_dynamics import NetworkFields
from etude.nn.networks import MLP, Activation
from etude.nn.variational import VariationalMLP, make_variational_mlp, negative_elbo
from etude.struct import static, struct, traced
from etude.types import Array


@struct
class VariationalWeights:
    """The distribution of the weights, and the bounds of the log-variance that they predict."""

    network: VariationalMLP
    bounds: LogVarianceBounds


@struct
class Variational(NetworkFields):
    """A variational Bayesian network (Blundell et al., 2015)."""

    hidden: tuple[int, ...] = static((20, 20), at_least=1)
    """Units of each hidden layer. With many more weights than rows the prior outweighs the data,
    and draws hardly disagree anywhere."""
    activation: Activation = static("tanh")
    """Activation function of the hidden layers."""
    learning_rate: float = traced(1e-2, above=0)
    """Step size of Adam."""
    gradient_steps: int = static(4_000, at_least=1)
    """Gradient steps of a fit at most; it ends earlier where no member gains by more."""
    draws: int = static(5, at_least=1)
    """Weights that are drawn to plan or to predict; each stands for a member of an ensemble."""
    prior_std: float = traced(1.0, above=0)
    """Standard deviation of each weight under the prior; smaller values smooth more."""
    initial_std: float = traced(0.1, above=0)
    """Standard deviation of each weight at the start, times the root of a layer's inputs."""

    has_noise = True  # it predicts the noise too
    weight_decay = 0.0  # the prior takes its place

    init = network_dynamics.init_dynamics
    fit = network_dynamics.fit_dynamics
    planning_model = network_dynamics.planning_model
    predict = network_dynamics.predict
    held_out_rows = network_dynamics.held_out_rows

    @property
    def num_members(self) -> int:
        """Members that predict."""
        return self.draws

    def make_weights(self, key: Array, inputs: int, targets: int) -> VariationalWeights:
        sizes = [inputs, *self.hidden, 2 * targets]
        network = make_variational_mlp(key, sizes, self.activation, self.initial_std)
        return VariationalWeights(network, initial_bounds(targets))

    def row_weights(self, key: Array, rows: ModelRows, in_training: Array) -> Array:
        return 1.0 * in_training[None]

    def loss(
        self, weights: VariationalWeights, x: Array, y: Array, key: Array, num_rows: Array
    ) -> Array:
        mean, v = jnp.split(weights.network(x[0], key), 2, -1)
        prediction = Gaussian(mean, weights.bounds.variance(v))
        nll = regression_loss(prediction, y[0], has_noise=True)
        kl = weights.network.kl(self.prior_std)
        return negative_elbo(nll, kl, num_rows) + weights.bounds.penalty()

    def central_members(self, weights: VariationalWeights) -> GaussianNetwork:
        """The network of the mean weights, alone."""
        layers = tuple(layer.mean for layer in weights.network.layers)
        mlp = MLP(layers, (None,) * (len(layers) - 1), self.activation)
        return jax.tree.map(lambda x: x[None], GaussianNetwork(mlp, weights.bounds))

    def draw_members(
        self, weights: VariationalWeights, errors: Array, key: Array
    ) -> GaussianNetwork:
        def draw(key):
            return GaussianNetwork(weights.network.draw(key), weights.bounds)

        return jax.vmap(draw)(jax.random.split(key, self.draws))
