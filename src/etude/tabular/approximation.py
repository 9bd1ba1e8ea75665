"""Value functions that cannot hold every value: what fitting does to the backup.

B contracts the largest difference, Π expands no weighted squares, and one after the other may
contract nothing. Values are linear in features here, V = X θ, which is enough to diverge. What
helps, and what does not, is exact and in the tests:

    the policy's own weights    with the stationary distribution of the policy that is judged Π B_π
                                contracts by γ in its
                                norm, and semi-gradient TD in small steps converges too (Tsitsiklis
                                & Van Roy, 1997); it says nothing of states where the policy never
                                is
    averaging features          one-hot groups of states make Π a mean, which does not expand the
                                largest difference: Π B
                                contracts by γ, whatever the weights (Gordon, 1995)
    a target network            no cure of Π B: with ever more steps between copies, a copy's move
                                becomes Π B itself. In
                                `two_states` it diverges for every number of them. In Baird's star,
                                where Π B contracts and only the semi-gradient does not, some steps
                                between copies are enough
    the true gradient           descends for small steps, slowly, and to the least Bellman error,
                                which need not be the best
                                policy's (Baird, 1995); without a model it needs two samples of
                                every step

An operator is a function of values alone: `functools.partial(backup, mdp, discount=0.9)`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from etude.struct import struct
from etude.tabular.dynamic_programming import Operator
from etude.tabular.mdp import MDP, make_mdp
from etude.types import Array

Regressor = Callable[[Array], Array]  # targets in, the values fitted to them out, of one shape


def fitted_value_iteration(
    operator: Operator, regress: Regressor, start: Array, iterations: int
) -> Array:
    """V ← regress(B V), with a known model: all the values, [iteration + 1, *start], the start
    first.

    For Q hand in the operator on Q and a regressor of its shape.
    """

    def step(v, _):
        v = regress(operator(v))
        return v, v

    return jnp.concatenate([start[None], jax.lax.scan(step, start, length=iterations)[1]])


def projection(features: Array, weights: Array | None = None) -> Array:
    """Π, [state, state]: takes values to the nearest that are linear in `features` [state,
    feature].

    Nearest in squares weighted by `weights` [state], all alike when none are given. Where several θ
    are as near, the one of least norm is taken.
    """
    root = jnp.ones(len(features)) if weights is None else jnp.sqrt(weights)
    return features @ (jnp.linalg.pinv(root[:, None] * features) * root)


def least_squares(features: Array, weights: Array | None = None) -> Regressor:
    """The regressor that is Π: `features` [..., feature] and `weights` [...] for values [...], of
    states or of choices."""
    flat = features.reshape(-1, features.shape[-1])
    onto = projection(flat, None if weights is None else weights.ravel())
    return lambda targets: (onto @ targets.ravel()).reshape(targets.shape)


def semi_gradient(
    operator: Operator,
    features: Array,
    weights: Array,
    start: Array,
    rate: float | Array,
    steps: int,
    copy_every: int = 1,
) -> Array:
    """The expected updates of TD, or of Q-learning, against a target θ' that is copied from θ
    before every so many:

        θ ← θ + α Σ d(x) [(B X θ')(x) - (X θ)(x)] X(x)

    all θ, [step + 1, feature], `start` first. `features` are [..., feature] and `weights` d [...],
    of states for an operator on V, of [state, action] for one on Q. The target is taken for a
    constant: that is no gradient of anything.
    """

    def step(carry, index):
        theta, target = carry
        target = jnp.where(index % copy_every == 0, theta, target)
        error = operator(features @ target) - features @ theta
        theta = theta + rate * jnp.tensordot(weights * error, features, error.ndim)
        return (theta, target), theta

    return jnp.concatenate([start[None], jax.lax.scan(step, (start, start), jnp.arange(steps))[1]])


def residual_gradient(
    operator: Operator,
    features: Array,
    weights: Array,
    start: Array,
    rate: float | Array,
    steps: int,
) -> Array:
    """Gradient descent on the Bellman error ½ Σ d(x) [(B X θ)(x) - (X θ)(x)]² (Baird, 1995): all θ,
    as `semi_gradient`."""

    def loss(theta):
        v = features @ theta
        return (weights * (operator(v) - v) ** 2).sum() / 2

    def step(theta, _):
        theta = theta - rate * jax.grad(loss)(theta)
        return theta, theta

    return jnp.concatenate([start[None], jax.lax.scan(step, start, length=steps)[1]])


@struct
class Counterexample:
    """A policy whose value is zero, and features that can say so, which fitting walks away from."""

    mdp: MDP
    policy: Array  # [state, action]: the one that is judged
    features: Array  # [state, feature]
    # [state]: how much each state counts in the fit, not as often as the policy is there
    weights: Array
    start: Array  # [feature]: θ


def two_states(end: float = 0.0) -> Counterexample:
    """Two states with values θ and 2θ, the first followed by the second, that by itself until play
    ends; rewards are zero.

    Π B multiplies θ by γ (6 - 4 end) / 5 when both states count alike: it diverges for γ above 5/6
    where `end` is 0, although θ = 0 is exact (Tsitsiklis & Van Roy, 1996; Sutton & Barto, 2018,
    example 11.1).
    """
    transition = [[[0, 1]], [[0, 1]]]
    terminates = [[[0, 0]], [[0, end]]]
    features, alike = jnp.array([[1.0], [2.0]]), jnp.full(2, 0.5)
    return Counterexample(
        make_mdp(transition, 0, terminates), jnp.ones((2, 1)), features, alike, jnp.ones(1)
    )


def baird() -> Counterexample:
    """Baird's star (1995) with seven states and eight features, as in Sutton & Barto, 2018, figure
    11.1.

    Action 0 leads to one of the six upper states, 1 to the seventh; rewards are zero. The policy
    judged always takes 1; states count alike, as one visits them who takes 0 six times out of
    seven. Semi-gradient steps diverge however small they are. The features are independent, so Π
    changes nothing and Π B contracts.
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
