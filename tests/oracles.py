"""What updates are compared with, in NumPy and float64: small networks, their gradients, Adam, and
experience made up.

Nothing here uses what it judges: no function of etude's computes a number that an assertion relies
on.
"""

import math

import jax
import numpy as np

from etude.data.transition import Transition


class Adam:
    """Kingma & Ba, 2015, algorithm 1, over a list of arrays."""

    def __init__(self):
        self.first, self.second, self.count = 0.0, 0.0, 0

    def step(self, parameters, gradient, rate):
        """The parameters after a step along minus the gradient."""
        if not self.count:
            self.first, self.second = (
                [np.zeros_like(g, float) for g in gradient] for _ in range(2)
            )
        self.count += 1
        self.first = [0.9 * m + 0.1 * g for m, g in zip(self.first, gradient, strict=True)]
        self.second = [0.999 * v + 0.001 * g**2 for v, g in zip(self.second, gradient, strict=True)]
        return [
            x - rate * (m / (1 - 0.9**self.count)) / (np.sqrt(v / (1 - 0.999**self.count)) + 1e-8)
            for x, m, v in zip(parameters, self.first, self.second, strict=True)
        ]


def clip_by_global_norm(gradient, limit):
    """(the gradient, no longer than `limit`, and how long it was)."""
    norm = math.sqrt(sum((g**2).sum() for g in gradient))
    return [g * min(1, limit / norm) for g in gradient], norm


def global_norm(tree):
    """The Euclidean length of all numbers of a pytree."""
    return math.sqrt(sum((np.asarray(x, float) ** 2).sum() for x in jax.tree.leaves(tree)))


def polyak(targets, parameters, rate):
    """Targets after they moved this share of the way."""
    return [(1 - rate) * t + rate * x for t, x in zip(targets, parameters, strict=True)]


def weights_of(mlp):
    """The weight and bias of each layer of an MLP in turn, in float64."""
    return [np.asarray(x, float) for layer in mlp.layers for x in (layer.weight, layer.bias)]


def mlp_forward(weights, x):
    """(the hidden layer, the outputs) of a network of one hidden layer of rectifiers."""
    w1, b1, w2, b2 = weights
    hidden = np.maximum(np.asarray(x, float) @ w1.T + b1, 0)
    return hidden, hidden @ w2.T + b2


def mlp_backward(weights, x, hidden, back):
    """(the gradient of the weights, that of x), given that of the outputs."""
    into = (back @ weights[2]) * (hidden > 0)
    return [into.T @ x, into.sum(0), back.T @ hidden, back.sum(0)], into @ weights[0]


def adam_moment(optimizer):
    """Adam's first moment, wherever in an optax state it lies: after one step a tenth of the
    gradient that it was given."""
    return next(
        part.mu
        for part in jax.tree.leaves(optimizer, is_leaf=lambda x: hasattr(x, "mu"))
        if hasattr(part, "mu")
    )


def choices(n):
    """A drawer of discrete actions, for `experience`."""
    return lambda rng, leading: rng.integers(n, size=leading, dtype=np.int32)


def reals(n):
    """A drawer of actions in [-1, 1]ⁿ, for `experience`."""
    return lambda rng, leading: rng.uniform(-1, 1, (*leading, n)).astype(np.float32)


def experience(seed, *leading, action, reward=(0.0, 1.0), observation=(0.0, 1.0), ends=0.3):
    """Transitions of three features with leading axes; `reward` and `observation` are means and
    standard deviations.

    `ends` is the share of terminations, and of truncations, so that some steps are both.
    """
    rng = np.random.default_rng(seed)
    seen, after = rng.normal(*observation, size=(2, *leading, 3)).astype(np.float32)
    terminated, truncated = rng.random((2, *leading)) < ends
    return Transition(
        seen,
        action(rng, leading),
        rng.normal(*reward, size=leading).astype(np.float32),
        after,
        terminated,
        truncated,
    )
