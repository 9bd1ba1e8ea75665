"""Networks of these tests begin with weights that compile quickly."""

import math
from unittest import mock

import jax
import numpy as np
import pytest


def constant(scale):
    """In place of orthogonal weights: drawing those takes longer to compile than a small network
    with its gradient, and what is tested here holds for any weights of that size."""

    def initial(key, shape):
        normal = np.random.default_rng(shape).normal(size=shape)
        return np.float32(scale / math.sqrt(shape[1]) * normal)

    return initial


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Tests of the system train as the package does."""
    if item.get_closest_marker("system"):
        return (yield)
    with mock.patch.object(jax.nn.initializers, "orthogonal", constant):
        return (yield)
