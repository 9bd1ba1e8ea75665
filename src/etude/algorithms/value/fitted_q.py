"""Fitted Q iteration on a dataset that does not grow (Ernst et al., 2005; Riedmiller, 2005).

    yᵢ = rᵢ + γ (1 - terminatedᵢ) maxₐ Q(s'ᵢ, a),      Q ← argmin_Q Σᵢ ½ (yᵢ - Q(sᵢ, aᵢ))²,      and again

It is deep Q-learning to which no experience comes in: the same loop, its other two speeds being the
gradient steps of a regression and the number of regressions.
"""

from functools import partial

import jax

from etude.algorithms.common.off_policy import scan_gradient_steps
from etude.algorithms.value.dqn import DQN, DQNState, merge_replay, split_replay
from etude.data.transition import Transition
from etude.spaces import EnvironmentSpec
from etude.struct import replace
from etude.types import Array


def fitted_q_iteration(
    algorithm: DQN, spec: EnvironmentSpec, dataset: Transition, key: Array, iterations: int
) -> tuple[DQNState, dict[str, Array]]:
    """The state after `iterations` regressions on `dataset` [n, ...], and the metrics of each
    gradient step, [iteration, step].

    Each regression takes `algorithm.gradient_steps` steps on batches of the dataset, whose targets
    are those of q as it was when the regression began. The policy is `algorithm.act` with
    explore=False.

    With `n_step` above 1 the dataset must lie in the order in which it was lived.
    """
    rows = len(dataset.reward)
    key_init, key_fit = jax.random.split(key)
    batch = replace(
        algorithm,
        capacity=rows,
        rollout_length=rows,
        target_interval=algorithm.gradient_steps,
        target_rate=1.0,
    )
    state = batch.init(key_init, replace(spec, num_envs=1))
    state = batch.store(state, jax.tree.map(lambda x: x[:, None], dataset))
    ring, priorities = split_replay(state.replay)

    def regression(state, key):
        return scan_gradient_steps(
            partial(batch.gradient_step, ring), state, key, batch.gradient_steps
        )

    state, metrics = jax.lax.scan(
        regression, replace(state, replay=priorities), jax.random.split(key_fit, iterations)
    )
    return replace(state, replay=merge_replay(ring, state.replay)), metrics
