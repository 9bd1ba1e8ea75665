"""Boltzmann exploration: discrete actions drawn in proportion to exp(Q / temperature)."""

from typing import Any

import jax

from etude.algorithms.value.q_functions import DiscreteQ
from etude.struct import struct, traced
from etude.types import Array


@struct
class Boltzmann:
    """Legal Discrete actions drawn in proportion to exp(Q / temperature)."""

    initial_temperature: float = traced(1.0, above=0)
    """Initial temperature, in units of the return."""
    final_temperature: float = traced(0.1, above=0)
    """Temperature after exploration_steps, in units of the return."""

    def act(
        self,
        q: DiscreteQ,
        observation: Any,
        decay: Array,
        *,
        key_greedy: Array,
        key_mix: Array,
        key_random: Array,
    ) -> Array:
        """Actions [env]; `decay` falls from 1 to 0 over exploration_steps."""
        temperature = self.final_temperature + decay * (
            self.initial_temperature - self.final_temperature
        )
        return jax.random.categorical(key_random, q(observation) / temperature)
