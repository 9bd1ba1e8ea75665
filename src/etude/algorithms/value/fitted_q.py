"""Fitted Q iteration on a fixed dataset (Ernst et al., 2005; Riedmiller, 2005).

    yᵢ = rᵢ + γ (1 - terminatedᵢ) maxₐ Q(s'ᵢ, a)
    Q ← argmin_Q Σᵢ ½ (yᵢ - Q(sᵢ, aᵢ))²

The two steps repeat. This is DQN on a replay buffer that does not grow, with one target network for
each regression.
"""

from functools import partial

import jax

from etude.algorithms.common.off_policy import scan_gradient_steps
from etude.algorithms.value.dqn import DQN, DQNState
from etude.data.transition import Transition
from etude.spaces import EnvironmentSpec
from etude.struct import replace
from etude.types import Array


def fitted_q_iteration(
    algorithm: DQN, spec: EnvironmentSpec, dataset: Transition, key: Array, iterations: int
) -> tuple[DQNState, dict[str, Array]]:
    """The state after `iterations` regressions on `dataset` [n, ...], and the metrics of each step.

    Each regression takes `algorithm.gradient_steps` steps on batches of the dataset. Its targets
    come from q as it was when the regression began. The metrics are [iteration, step]. The learned
    policy is `algorithm.act` with explore=False.

    With `n_step` above 1 the transitions must be in the order in which they were collected.
    """
    size = len(dataset.reward)
    key_init, key_fit = jax.random.split(key)
    dqn = replace(
        algorithm,
        capacity=size,
        rollout_length=size,
        target_interval=algorithm.gradient_steps,
        target_rate=1.0,
    )
    state = dqn.init(key_init, replace(spec, num_envs=1))
    state = dqn.store(state, jax.tree.map(lambda x: x[:, None], dataset))
    buffer = state.replay

    def regression(state, key):
        return scan_gradient_steps(
            partial(dqn.gradient_step, buffer), state, key, dqn.gradient_steps
        )

    state, metrics = jax.lax.scan(
        regression, replace(state, replay=()), jax.random.split(key_fit, iterations)
    )
    return replace(state, replay=buffer), metrics


# As a variant of DQN that collects its own data: a long regression on fixed targets, then new ones.
FittedQ = partial(DQN, double=False, rollout_length=500, gradient_steps=500, target_interval=500)

# Name on the command line: (constructor, description).
ALGORITHMS = {
    "fitted-q": (
        FittedQ,
        "DQN as fitted Q iteration: hundreds of gradient steps for each target network",
    )
}
