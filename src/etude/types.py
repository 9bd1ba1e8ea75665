"""Type aliases that all packages share."""

import jax

Array = jax.Array
Metrics = dict[str, Array]
