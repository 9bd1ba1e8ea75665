"""An ensemble of networks, whose disagreement says what the model does not know.

Members differ by the rows that each counts (bootstrap; Breiman, 1996), or by their start alone
(Lakshminarayanan et al., 2017). With one member without noise it is a single deterministic network.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.models import network_dynamics
from etude.models.gaussian_network import Gaussian, GaussianNetwork, initial_bounds, regression_loss
from etude.models.model_rows import ModelRows, bootstrap_weights
from etude.models.network_dynamics import NetworkFields
from etude.nn.networks import make_mlp
from etude.struct import replace, static, struct, traced
from etude.types import Array


@struct
class Ensemble(NetworkFields):
    """An ensemble of probabilistic or deterministic networks (Chua et al., 2018)."""

    members: int = static(5, at_least=1)
    """Networks of the ensemble."""
    elites: int = static(5, at_least=1)
    """Members that predict: those with the least error on the rows held out."""
    differ_by: Literal["rows", "start"] = static("rows")
    """What makes members differ: rows, each counts a bootstrap sample of its own; start, all count
    the same rows and differ by their first weights."""
    weight_decay: float = traced(1e-4, at_least=0)
    """Weight decay of AdamW, as a factor of the step size."""
    has_noise: bool = static(True)
    """Whether a member predicts the noise too, with a variance for each input; without it, the loss
    is the squared error."""

    def validate_fields(self) -> None:
        if self.elites > self.members:
            raise InvalidInput(
                f"elites is {self.elites}, more than the {self.members} members; give "
                f"--model.members {self.elites} or more, or fewer --model.elites"
            )

    init = network_dynamics.init_dynamics
    fit = network_dynamics.fit_dynamics
    planning_model = network_dynamics.planning_model
    predict = network_dynamics.predict
    held_out_rows = network_dynamics.held_out_rows

    @property
    def num_members(self) -> int:
        """Members that predict."""
        return self.elites

    def make_weights(self, key: Array, inputs: int, targets: int) -> GaussianNetwork:
        outputs = 2 * targets if self.has_noise else targets

        def make_member(key):
            mlp = make_mlp(key, [inputs, *self.hidden, outputs], self.activation)
            return GaussianNetwork(mlp, initial_bounds(targets), self.has_noise)

        return jax.vmap(make_member)(jax.random.split(key, self.members))

    def row_weights(self, key: Array, rows: ModelRows, in_training: Array) -> Array:
        if self.differ_by == "start":
            return jnp.broadcast_to(1.0 * in_training, (self.members, len(in_training)))
        return bootstrap_weights(key, rows, self.members) * in_training

    def loss(
        self, weights: GaussianNetwork, x: Array, y: Array, key: Array, num_rows: Array
    ) -> Array:
        def member_loss(member: GaussianNetwork, x: Array, y: Array) -> Array:
            prediction: Gaussian = member(x)
            return regression_loss(prediction, y, self.has_noise).mean()

        # the bounds are one for all members, though each has a copy of them
        losses = jax.vmap(member_loss)(share_bounds(weights), x, y)
        return losses.sum() + self.has_noise * weights.bounds.penalty() / self.members

    def central_members(self, weights: GaussianNetwork) -> GaussianNetwork:
        return weights

    def draw_members(self, weights: GaussianNetwork, errors: Array, key: Array) -> GaussianNetwork:
        elites = jnp.argsort(errors)[: self.elites]
        return jax.tree.map(lambda x: x[elites], weights)


def share_bounds(weights: GaussianNetwork) -> GaussianNetwork:
    """The members with the mean of their bounds, which so stay equal."""
    shared = jax.tree.map(lambda x: jnp.broadcast_to(x.mean(0), x.shape), weights.bounds)
    return replace(weights, bounds=shared)
