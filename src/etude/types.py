"""The names of types that every room uses."""

import jax

Array = jax.Array
Metrics = dict[str, Array]
