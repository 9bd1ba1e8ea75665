"""The network of features of a policy with goals and a memory, whose memory never sees a goal.

    what is observed --Encoder--> --cell--> h,    (h, what is asked for) --layers--> features

What is asked for is the goal, and how many steps remain to achieve it.
"""

import jax

from etude.environments.goal_spaces import entries_of, space_of_named
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import (
    Activation,
    EntriesEncoder,
    Torso,
    make_headless_torso,
    make_observation_encoder,
)
from etude.nn.recurrent import GRU, LSTM
from etude.spaces import Box, Composite
from etude.struct import replace
from etude.types import Array


def make_goal_torso(
    asked_entries: tuple[str, ...],
    key: Array,
    space: Composite,
    hidden: tuple[int, ...],
    activation: Activation,
    recurrent: GRU | LSTM,
    torso: TorsoMaker | None,
) -> tuple[Torso, int, Array]:
    """What `make_headless_torso` returns, of a torso in which some entries enter after the cell.

    With `torso`, the network that it makes reads the other entries, and hidden layers follow.
    """
    key_reader, key_asked, key_layers = jax.random.split(key, 3)
    asked = space_of_named(space, asked_entries)
    observed_entries = tuple(name for name in entries_of(space) if name not in asked_entries)
    observed = space_of_named(space, observed_entries)
    reader, num_outputs, _ = make_headless_torso(
        key_reader, observed, (), activation, recurrent, torso
    )
    encoder, num_asked = make_observation_encoder(key_asked, asked, orthogonal=True)
    after, num_features, key_head = make_headless_torso(
        key_layers, Box((num_outputs + num_asked,)), hidden, activation
    )
    whole = replace(
        reader,
        encoder=EntriesEncoder(reader.encoder, observed_entries),
        layers=after.layers,
        after_cell=EntriesEncoder(encoder, asked_entries),
    )
    return whole, num_features, key_head
