"""Linear value function approximation: fitted value iteration, semi-gradients and divergence.

The backup B contracts in the sup norm, the projection Π does not expand a weighted 2-norm, and
their composition Π B may not contract in any norm. Linear values V = X θ are enough to diverge. The
tests verify exactly what helps and what does not:

    on-policy weights     With the stationary distribution of the evaluated policy as weights, Π B_π
                          contracts by γ in the weighted norm, and semi-gradient TD with small steps
                          converges (Tsitsiklis & Van Roy, 1997). States that the policy does not
                          visit have no weight.
    state aggregation     With one-hot features of groups of states Π averages and does not expand
                          the sup norm, so Π B contracts by γ for any weights (Gordon, 1995).
    target network        It does not cure Π B: with more and more steps between copies the change
                          per copy becomes that of Π B. In `two_states` it diverges for any number
                          of steps. In Baird's star, where Π B contracts and only the semi-gradient
                          diverges, enough steps between copies make it converge.
    residual gradient     With small steps it converges, slowly, to the least Bellman error, whose
                          policy need not be the best (Baird, 1995). Without a model it needs two
                          samples of every transition.

An operator is a function of values alone: `functools.partial(optimality_backup, mdp,
discount=0.9)`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from etude.struct import struct
from etude.tabular.dynamic_programming import Operator
from etude.tabular.mdp import MDP, make_mdp
from etude.types import Array

Regressor = Callable[[Array], Array]  # targets -> fitted values of the same shape


def fitted_value_iteration(
    operator: Operator, regress: Regressor, start: Array, iterations: int
) -> Array:
    """Iterate V ← regress(B V) with a known model: all iterates, [iteration + 1, *start].

    The first is `start`. For Q pass an operator on Q and a regressor of its shape.
    """

    def step(v, _):
        v = regress(operator(v))
        return v, v

    return jnp.concatenate([start[None], jax.lax.scan(step, start, length=iterations)[1]])


def projection(features: Array, weights: Array | None = None) -> Array:
    """Return the projection Π [state, state] onto the span of `features` [state, feature].

    It minimizes the squared error weighted by `weights` [state], uniform by default. Where θ is not
    unique, it takes the one of least norm.
    """
    sqrt_weights = jnp.ones(len(features)) if weights is None else jnp.sqrt(weights)
    return features @ (jnp.linalg.pinv(sqrt_weights[:, None] * features) * sqrt_weights)


def least_squares(features: Array, weights: Array | None = None) -> Regressor:
    """Return the projection Π as a regressor of values [...], of V or Q.

    `features` are [..., feature], `weights` [...].
    """
    flat_features = features.reshape(-1, features.shape[-1])
    matrix = projection(flat_features, None if weights is None else weights.ravel())
    return lambda targets: (matrix @ targets.ravel()).reshape(targets.shape)


def semi_gradient(
    operator: Operator,
    features: Array,
    weights: Array,
    start: Array,
    learning_rate: float | Array,
    steps: int,
    target_period: int = 1,
) -> Array:
    """Run expected semi-gradient updates of TD or Q-learning: all iterates θ, [step + 1, feature].

        θ ← θ + α Σ d(x) [(B X θ')(x) - (X θ)(x)] X(x)

    The target parameters θ' are copied from θ every `target_period` steps. The first iterate is
    `start`. `features` are [..., feature] and `weights` d [...], over states for an operator on V
    and over [state, action] for one on Q. The update ignores the derivative of the target, so it is
    not the gradient of any function.
    """

    def step(carry, index):
        theta, target = carry
        target = jnp.where(index % target_period == 0, theta, target)
        td_error = operator(features @ target) - features @ theta
        theta = theta + learning_rate * jnp.tensordot(weights * td_error, features, td_error.ndim)
        return (theta, target), theta

    return jnp.concatenate([start[None], jax.lax.scan(step, (start, start), jnp.arange(steps))[1]])


def residual_gradient(
    operator: Operator,
    features: Array,
    weights: Array,
    start: Array,
    learning_rate: float | Array,
    steps: int,
) -> Array:
    """Run gradient descent on the Bellman error ½ Σ d(x) [(B X θ)(x) - (X θ)(x)]² (Baird, 1995).

    Arguments and result are as in `semi_gradient`.
    """

    def loss(theta):
        v = features @ theta
        return (weights * (operator(v) - v) ** 2).sum() / 2

    def step(theta, _):
        theta = theta - learning_rate * jax.grad(loss)(theta)
        return theta, theta

    return jnp.concatenate([start[None], jax.lax.scan(step, start, length=steps)[1]])


@struct
class Counterexample:
    """A policy of value zero, which the features represent exactly, and a fit that diverges."""

    mdp: MDP
    policy: Array  # [state, action]: the policy to evaluate
    features: Array  # [state, feature]
    weights: Array  # [state]: weights of the fit, not the policy's state distribution
    start: Array  # [feature]: initial θ


def two_states(termination: float = 0.0) -> Counterexample:
    """Return two states with values θ and 2θ whose fit diverges (Sutton & Barto, example 11.1).

    The first state leads to the second, the second to itself until it terminates; rewards are zero.
    Under uniform weights Π B multiplies θ by γ (6 - 4 termination) / 5: without termination it
    diverges for γ above 5/6, although θ = 0 is exact (Tsitsiklis & Van Roy, 1996).
    """
    transition = [[[0, 1]], [[0, 1]]]
    terminations = [[[0, 0]], [[0, termination]]]
    features, uniform_weights = jnp.array([[1.0], [2.0]]), jnp.full(2, 0.5)
    mdp = make_mdp(transition, 0, terminations)
    return Counterexample(mdp, jnp.ones((2, 1)), features, uniform_weights, jnp.ones(1))


def baird() -> Counterexample:
    """Return Baird's star (1995) with seven states and eight features.

    As in Sutton & Barto, 2018, figure 11.1. Action 0 leads to one of the six upper states, 1 to the
    seventh; rewards are zero. The evaluated policy always takes 1. The weights are uniform, the
    state distribution of a behavior policy that takes 0 six times out of seven. Semi-gradient steps
    diverge for any step size. The features span all values, so Π is the identity and Π B contracts.
    """
    upper, lower = np.append(np.full(6, 1 / 6), 0), np.eye(7)[6]
    features = np.zeros((7, 8))
    features[range(6), range(6)], features[:6, 7] = 2, 1
    features[6, 6:] = 1, 2
    policy = jnp.tile(jnp.array([0.0, 1.0]), (7, 1))
    start = jnp.ones(8).at[6].set(10)  # figure 11.2
    return Counterexample(
        make_mdp([[upper, lower]] * 7, 0), policy, jnp.asarray(features), jnp.full(7, 1 / 7), start
    )
