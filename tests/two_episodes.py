"""Two recorded episodes, the dataset of them, and what is said of a path that is refused."""

import jax
import numpy as np
import pytest

from etude.data.dataset import make_dataset
from etude.errors import InvalidInput
from etude.spaces import Box, EnvironmentSpec
from etude.storage.datasets.formats import read_dataset
from etude.struct import replace

SPEC = EnvironmentSpec(Box((2,)), Box((1,), low=-1.0, high=1.0), 4, "House-v1")
# two episodes, of 3 steps to a failure and of 2 to a time limit
OBSERVATIONS = [np.arange(8.0).reshape(4, 2), 10 + np.arange(6.0).reshape(3, 2)]
ACTIONS = [np.array([[0.5], [-0.5], [1]]), np.array([[0.25], [0]])]
REWARDS = [np.array([1.0, 2, 3]), np.array([4.0, 5])]
TERMINATED = [np.array([0, 0, 1], bool), np.zeros(2, bool)]
TRUNCATED = [np.zeros(3, bool), np.array([0, 1], bool)]
RECORDED = dict(
    observations=OBSERVATIONS,
    actions=ACTIONS,
    rewards=REWARDS,
    terminations=TERMINATED,
    truncations=TRUNCATED,
)


def expected(**changes):
    return make_dataset(replace(SPEC, id=""), **RECORDED | changes)


def assert_same(dataset, other):
    assert jax.tree.structure(dataset) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, dataset, other)


def refusal(path, spec=SPEC, **options):
    with pytest.raises(InvalidInput) as refused:
        read_dataset(path, spec, **options)
    message = str(refused.value)
    assert message.startswith(str(path)) and message.count(str(path)) == 1
    assert "\n" not in message
    return message
