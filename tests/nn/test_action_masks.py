"""Which choices an observation allows, also of the observations that recurrent networks read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filling import call, filled

from etude.nn.action_masks import action_mask, beside_mask, legal_actions, masked, space_beside_mask
from etude.nn.history import History
from etude.nn.networks import make_dueling_network
from etude.spaces import Box, Composite, Discrete, MultiBinary, MultiDiscrete

KEY = jax.random.key(0)
CHOICES = Discrete(4)
SPACE = Composite((MultiBinary((4,)), Box((2,))), ("action_mask", "observation"))
RNG = np.random.default_rng(0)


def observations(*shape):
    """Random masks, of which each allows something, beside random numbers."""
    mask = RNG.random((*shape, 4)) < 0.5
    mask[..., 2] |= ~mask.any(-1)
    seen = RNG.normal(size=(*shape, 2)).astype(np.float32)
    return {"action_mask": mask.astype(np.int8), "observation": seen}


@pytest.mark.parametrize("form", ["step", "sequence", "successors", "n steps later"])
def test_the_mask_of_a_history_is_that_of_the_rows_it_gives_features_of(form):
    """Of the rows after the burn-in, or of what came after each, or after some later row."""
    time, n, burn_in = 5, 3, 2
    read, after = observations(time, n), observations(time, n)
    later = RNG.integers(0, time - burn_in, (time - burn_in, n))
    first = np.zeros((time, n), bool)
    history, wanted = {
        "step": (History({name: x[0] for name, x in read.items()}, ()), read["action_mask"][0]),
        "sequence": (History(read, (), first, burn_in=burn_in), read["action_mask"][burn_in:]),
        "successors": (
            History(read, (), first, after, burn_in=burn_in),
            after["action_mask"][burn_in:],
        ),
        "n steps later": (
            History(read, (), first, after, later, burn_in=burn_in),
            [
                [after["action_mask"][burn_in + later[t, i], i] for i in range(n)]
                for t in range(time - burn_in)
            ],
        ),
    }[form]
    np.testing.assert_array_equal(action_mask(SPACE, CHOICES, history), np.asarray(wanted) > 0)


def test_where_nothing_is_allowed_no_value_is_infinite():
    mask = np.int8([[0, 1, 0, 1], [0, 0, 0, 0]])
    legal = legal_actions(SPACE, CHOICES, {"action_mask": mask, "observation": np.zeros((2, 2))})
    np.testing.assert_array_equal(legal, [[0, 1, 0, 1], [1, 1, 1, 1]])
    values = masked(jnp.arange(8.0).reshape(2, 4), legal)
    np.testing.assert_array_equal(values, [[-np.inf, 1, -np.inf, 3], [4, 5, 6, 7]])


def test_without_a_mask_every_value_stays():
    values = jnp.arange(4.0)
    for space, seen in ((Box((2,)), np.zeros(2)), (Composite((Box((2,)),) * 2), (0, 1))):
        assert action_mask(space, CHOICES, seen) is None
        assert space_beside_mask(space) == space and beside_mask(space, seen) is seen
    assert masked(values, legal_actions(Box((2,)), CHOICES, np.zeros(2))) is values


def test_a_table_reads_what_stands_beside_the_mask():
    for names in (("action_mask", "state"), ("a state", "action_mask")):
        parts = {"action_mask": MultiBinary((4,))}
        space = Composite(tuple(parts.get(name, Discrete(7)) for name in names), names)
        seen = {name: 3 if name != "action_mask" else np.ones(4) for name in names}
        assert space_beside_mask(space) == Discrete(7) and beside_mask(space, seen) == 3
    assert space_beside_mask(SPACE) == Box((2,))
    both = Composite((*SPACE.parts, Discrete(2)), (*SPACE.names, "more"))
    assert space_beside_mask(both) == both


def test_the_advantages_of_a_dueling_network_are_over_the_mean_of_the_legal_ones():
    """So that what is forbidden has no part in the others' values."""
    network = filled(lambda: make_dueling_network(KEY, SPACE, (5,), 4, num_atoms=2))
    seen = observations(6)
    features = np.concatenate([seen["action_mask"], seen["observation"]], -1)
    value, advantage = (
        np.asarray(call(stream, features.astype(np.float32)), float)
        for stream in (network.head.value, network.head.advantage)
    )
    advantage = advantage.reshape(6, 4, 2)
    for i, outputs in enumerate(np.asarray(call(network, seen)).reshape(6, 4, 2)):
        legal = np.flatnonzero(seen["action_mask"][i])
        np.testing.assert_allclose(
            outputs[legal], value[i] + advantage[i, legal] - advantage[i, legal].mean(0), atol=1e-5
        )


def test_a_mask_of_rows_is_in_the_order_of_the_logits():
    space = Composite((MultiBinary((3, 2)), Box((2,))), SPACE.names)
    mask = RNG.integers(0, 2, (5, 3, 2))
    legal = action_mask(
        space, MultiDiscrete((2, 2, 2), (0,) * 3, (3,)), {"action_mask": mask, "observation": None}
    )
    np.testing.assert_array_equal(legal, mask.reshape(5, 6) > 0)
