"""Heads that learn the distribution of the return: C51's categorical one and QR-DQN's quantiles."""

import jax
import jax.numpy as jnp

from etude.errors import InvalidInput
from etude.estimators import losses
from etude.struct import static, struct
from etude.types import Array, Metrics


@struct
class CategoricalHead:
    """Logits of evenly spaced returns, the atoms (C51; Bellemare et al., 2017)."""

    num_atoms: int = static(51, at_least=2)
    """Atoms of the distribution of the return."""
    v_min: float = static(-10.0)
    """Lowest return of the support; -10 and 10 are those of Atari games with clipped rewards."""
    v_max: float = static(10.0)
    """Highest return of the support."""
    tag = "categorical"

    def validate_fields(self) -> None:
        if not self.v_min < self.v_max:
            raise InvalidInput(
                f"v_min {self.v_min} is not below v_max {self.v_max}; they bound the returns of "
                "the distribution"
            )

    @property
    def support(self) -> Array:
        """The returns of the atoms, [atom]."""
        return jnp.linspace(self.v_min, self.v_max, self.num_atoms)

    def mean(self, outputs: Array) -> Array:
        """E[Z(s, a)], [...]."""
        return jax.nn.softmax(outputs) @ self.support

    def target(self, outputs: Array, reward: Array, discount: Array) -> Array:
        """The distribution of r + γ Z(s', a') projected onto the support, [..., atom]."""
        atoms = reward[..., None] + discount[..., None] * self.support
        return losses.categorical_projection(atoms, jax.nn.softmax(outputs), self.support)

    def loss(self, outputs: Array, target: Array) -> tuple[Array, Array]:
        """Cross entropy, and the KL divergence from target to outputs as TD error, each [...].

        Rainbow draws by that divergence (Hessel et al., 2018).
        """
        cross_entropy = -(target * jax.nn.log_softmax(outputs)).sum(-1)
        return cross_entropy, cross_entropy + jax.scipy.special.xlogy(target, target).sum(-1)

    def target_metrics(self, target: Array) -> Metrics:
        """The mass on the first and the last atom, where returns outside the support gather."""
        return {"support_edge_mass": (target[..., 0] + target[..., -1]).mean()}


@struct
class QuantileHead:
    """Evenly spaced quantiles of the return (QR-DQN; Dabney et al., 2018)."""

    num_atoms: int = static(51, at_least=2)
    """Quantiles of the return."""
    tag = "quantile"

    def mean(self, outputs: Array) -> Array:
        """E[Z(s, a)], [...]."""
        return outputs.mean(-1)

    def target(self, outputs: Array, reward: Array, discount: Array) -> Array:
        """Samples of r + γ Z(s', a'), [..., atom]."""
        return reward[..., None] + discount[..., None] * outputs

    def loss(self, outputs: Array, target: Array) -> tuple[Array, Array]:
        """The quantile Huber loss, and the absolute error of the mean as TD error, each [...]."""
        quantile_loss = losses.quantile_huber_loss(outputs, target)
        return quantile_loss, jnp.abs((target - outputs).mean(-1))

    def target_metrics(self, target: Array) -> Metrics:
        """Nothing."""
        return {}
