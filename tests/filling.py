"""Networks with weights from NumPy: drawing them with JAX takes longer to compile than most tests
to run."""

import jax
import numpy as np


@jax.jit
def call(module, *inputs):
    """`module(*inputs)` as one program: by itself each of its operations would be compiled."""
    return module(*inputs)


def filled(build, seed=0, scale=0.3):
    """The pytree of float32 arrays that `build` would make, with normal numbers of standard
    deviation `scale`."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jax.device_put(np.float32(rng.normal(0, scale, x.shape))), jax.eval_shape(build)
    )
