"""What the algorithms that clone an expert share: the policy, its loss and its gradient step.

    observation --Torso--> features --head--> a chunk of actions

Features are those of the network that reads the observation; a head, one of `heads`, says what is
predicted from them and by which loss.

The functions read these hyperparameters of `algorithm`:

    learning_rate, learning_rate_decay, weight_decay, max_gradient_norm      the optimizer
    hidden, activation, torso, recurrent                                    the network of features
    head, chunk                                                             what is predicted
    ema                                                                     average of the weights
    normalize_observation                                                   input of the policy
    gradient_steps                                                          of `fit_policy`
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.common import on_policy
from etude.algorithms.imitation.heads.action_head import Context
from etude.algorithms.imitation.heads.autoregressive import Autoregressive
from etude.algorithms.imitation.heads.deterministic import Deterministic
from etude.algorithms.imitation.heads.diffusion import Diffusion
from etude.algorithms.imitation.heads.direct import Direct, DirectNetwork
from etude.algorithms.imitation.heads.flow import Flow
from etude.algorithms.imitation.heads.latent import Latent
from etude.algorithms.imitation.heads.mixture import Mixture
from etude.algorithms.protocol import Component
from etude.counters import count_up
from etude.errors import InvalidInput
from etude.estimators import running_statistics
from etude.kinds import tag_of
from etude.nn.action_masks import action_mask
from etude.nn.networks import Torso, is_image, make_headless_torso
from etude.nn.policies import PolicyNetwork
from etude.nn.recurrent import Carry, initial_carry
from etude.optim.schedules import linear_decay
from etude.spaces import EnvironmentSpec, Space, leaves_with_path
from etude.struct import replace, static, struct
from etude.types import Array, Metrics

# folded into the key that draws a batch, it gives that of its loss; `split(key, n)` folds in
# numbers below n
KEY_OF_LOSS = 2**31
# gradient steps in a turn of the compiled loop: between two steps of one turn the weights are not
# copied, which makes cloning 5 % faster
UNROLL = 2
AnyHead = Direct | Deterministic | Mixture | Latent | Autoregressive | Flow | Diffusion


@struct
class ClonedPolicy:
    """The weights of a policy that is cloned: those of its features, and those of its head."""

    torso: Torso
    head: Any  # the network that the algorithm's head made
    observation_space: Space = static()
    action_space: Space = static()

    def context(
        self, observation: Any, carry: Carry = (), is_first: Array | None = None
    ) -> tuple[Context, Carry]:
        """(what the head is given, next carry); for the arguments see Torso."""
        features, carry = self.torso(observation, carry, is_first)
        legal = action_mask(self.observation_space, self.action_space, observation)
        return Context(features, legal), carry


@struct
class Cloner:
    """What learns to act as the expert: a policy, its optimizer's state, its input's statistics."""

    weights: ClonedPolicy
    average: ClonedPolicy | tuple[()]  # of the weights over gradient steps; () without one
    # a RunningMeanStd for each leaf of the observation, in the order of `jax.tree.leaves`; None for
    # a leaf that is not normalized
    observation_statistics: Any
    opt_state: Any
    steps: Array  # int32: gradient steps taken

    @property
    def acting(self) -> ClonedPolicy:
        """The weights that act: the average, where there is one."""
        return self.average or self.weights

    @property
    def policy(self) -> PolicyNetwork:
        """The policy as PPO and others hold it; for a direct head with single actions alone."""
        torso, head = self.acting.torso, self.acting.head
        spaces = self.acting.action_space, self.acting.observation_space
        return PolicyNetwork(torso, head.layer, head.log_std, *spaces)


@struct
class Demonstrations:
    """Observations with the actions to imitate, [sample, ...].

    For a recurrent network they are [time, sequence, ...].
    """

    observation: Any  # not normalized
    action: Any  # [..., chunk, *action]
    is_valid: Array  # bool [..., chunk]: False for what stands in after the end of an episode
    carry: Carry = ()  # before the first steps, [sequence, ...]
    is_first: Array | None = None  # bool [time, sequence]: an episode begins: reset the carry


def single_actions(observation: Any, action: Any) -> Demonstrations:
    """Steps [sample, ...] as demonstrations of chunks of one action."""
    return Demonstrations(observation, action[:, None], jnp.ones((len(action), 1), bool))


def get_cloned_policy(state: Any) -> Any:
    """The weights that act, with any head, and the statistics that normalize their input."""
    return state.learner.acting, state.learner.observation_statistics


def put_cloned_policy(state: Any, part: Any) -> Any:
    """The state of an algorithm with another policy, as `get_cloned_policy` returns it.

    The statistics that normalize its input come with it, since its weights are made for them.
    """
    weights, observation_statistics = part
    average = weights if state.learner.average else ()
    learner = replace(
        state.learner,
        weights=weights,
        average=average,
        observation_statistics=observation_statistics,
    )
    return replace(state, learner=learner)


def put_policy_network(state: Any, part: Any) -> Any:
    """The state of an algorithm with another policy, as `on_policy.get_policy` returns it."""
    policy, observation_statistics = part
    weights = state.learner.weights
    head = DirectNetwork(policy.head, policy.log_std, weights.head.space, weights.head.chunk)
    weights = replace(weights, torso=policy.torso, head=head)
    return put_cloned_policy(state, (weights, observation_statistics))


POLICY: Component = on_policy.POLICY._replace(put=put_policy_network)


def policy_component(algorithm: Any) -> Component:
    """The policy as what others can start from.

    With a direct head that predicts single actions it is the policy of PPO and others. With another
    head, or chunks, runs of these algorithms alone can start from it.
    """
    if isinstance(algorithm.head, Direct) and algorithm.chunk == 1:
        return POLICY
    chunks = f" and chunk {algorithm.chunk}" if algorithm.chunk > 1 else ""
    return Component(
        get_cloned_policy,
        put_cloned_policy,
        settings=("hidden", "activation", "torso", "recurrent", "normalize_observation", "head"),
        kind=f"head {tag_of(type(algorithm.head))}{chunks}",
    )


def init_cloner(
    algorithm: Any,
    key: Array,
    spec: EnvironmentSpec,
    make_torso: Callable[..., tuple[Torso, int, Array]] = make_headless_torso,
) -> Cloner:
    """Return the initial policy and optimizer state, and empty statistics.

    `make_torso` makes the network of features, called as `make_headless_torso` is.
    """
    torso, num_features, key_head = make_torso(
        key,
        spec.observation,
        algorithm.hidden,
        algorithm.activation,
        algorithm.recurrent,
        algorithm.torso,
    )
    head = algorithm.head.make(
        key_head, spec.action, num_features, algorithm.chunk, algorithm.activation
    )
    weights = ClonedPolicy(torso, head, spec.observation, spec.action)
    steps = jnp.int32(0)
    statistics = tuple(
        # the scale of images is known
        None if algorithm.normalize_observation and is_image(leaf) else leaf_statistics
        for leaf_statistics, (_, leaf) in zip(
            running_statistics.init_observation_statistics(spec.observation),
            leaves_with_path(spec.observation),
            strict=True,
        )
    )
    average = weights if algorithm.ema else ()
    return Cloner(weights, average, statistics, optimizer(algorithm, steps).init(weights), steps)


def add_observations(
    algorithm: Any, cloner: Cloner, observations: Any, is_counted: Array | None = None
) -> Cloner:
    """The cloner with observations [n, ...] added to its statistics, if it normalizes.

    With `is_counted`, bool [n], only those count.
    """
    statistics = running_statistics.update_observation_statistics(
        algorithm.normalize_observation, cloner.observation_statistics, observations, is_counted
    )
    return replace(cloner, observation_statistics=statistics)


def normalized(algorithm: Any, cloner: Cloner, observation: Any) -> Any:
    """The observation, normalized if the algorithm does so."""
    return running_statistics.normalize_leaves(
        algorithm.normalize_observation, cloner.observation_statistics, observation
    )


def start_carry(cloner: Cloner, count: int) -> Carry:
    """The carry at the start of `count` episodes; () without a recurrent cell."""
    cell = cloner.weights.torso.cell
    return initial_carry(cell, (count,)) if cell else ()


def observe_context(
    algorithm: Any, cloner: Cloner, observation: Any, carry: Carry
) -> tuple[Context, Carry]:
    """Return (what the head is given, next carry) of observations [env, ...]."""
    return cloner.acting.context(normalized(algorithm, cloner, observation), carry)


def act_as_cloned(
    algorithm: Any, cloner: Cloner, observation: Any, carry: Carry, key: Array, explore: bool
) -> tuple[Any, Carry]:
    """Return (action [env, *action], next carry): the first action of the predicted chunk."""
    context, carry = observe_context(algorithm, cloner, observation, carry)
    return algorithm.head.act(cloner.acting.head, context, key, explore)[:, 0], carry


def fit_policy(
    algorithm: Any, cloner: Cloner, draw: Callable[[Array], Demonstrations], key: Array
) -> tuple[Cloner, Metrics]:
    """Take `gradient_steps`, each on the batch that `draw` returns for a key; return metrics too.

    The batches are of single steps, or have carries of their own.
    """

    def step(cloner, key):
        batch, key_loss = draw(key), jax.random.fold_in(key, KEY_OF_LOSS)
        cloner, metrics, _ = gradient_step(algorithm, cloner, batch, key_loss)
        return cloner, metrics

    keys = jax.random.split(key, algorithm.gradient_steps)
    cloner, metrics = jax.lax.scan(step, cloner, keys, unroll=UNROLL)
    return cloner, {
        **jax.tree.map(jnp.mean, metrics),
        "updates": jnp.int32(algorithm.gradient_steps),
    }


def gradient_step(
    algorithm: Any, cloner: Cloner, batch: Demonstrations, key: Array
) -> tuple[Cloner, Metrics, Carry]:
    """Take one gradient step on the loss of a batch; return metrics and the last carry too."""
    batch = replace(batch, observation=normalized(algorithm, cloner, batch.observation))
    gradient, (metrics, carry) = jax.grad(
        lambda weights: loss(algorithm, weights, batch, key), has_aux=True
    )(cloner.weights)
    updates, opt_state = optimizer(algorithm, cloner.steps).update(
        gradient, cloner.opt_state, cloner.weights
    )
    weights = optax.apply_updates(cloner.weights, updates)
    weights = replace(weights, head=algorithm.head.constrain(weights.head))
    steps = count_up(cloner.steps, 1)
    average = algorithm.ema.update(cloner.average, weights, steps) if algorithm.ema else ()
    learner = replace(cloner, weights=weights, average=average, opt_state=opt_state, steps=steps)
    return learner, metrics, carry


def measure(
    algorithm: Any, cloner: Cloner, batch: Demonstrations, key: Array
) -> tuple[Metrics, Carry]:
    """Return the metrics of a batch, of the weights that act, and the last carry."""
    batch = replace(batch, observation=normalized(algorithm, cloner, batch.observation))
    return loss(algorithm, cloner.acting, batch, key)[1]


def loss(
    algorithm: Any, weights: ClonedPolicy, batch: Demonstrations, key: Array
) -> tuple[Array, tuple[Metrics, Carry]]:
    """Return the loss of the head, with its metrics and the last carry.

    The observations of the batch are normalized.
    """
    context, carries = weights.context(batch.observation, batch.carry, batch.is_first)
    loss, metrics = algorithm.head.loss(weights.head, context, batch.action, batch.is_valid, key)
    return loss, (metrics, jax.tree.map(lambda x: jax.lax.stop_gradient(x[-1]), carries))


def optimizer(algorithm: Any, steps: Array) -> optax.GradientTransformation:
    """AdamW with gradient clipping; the learning rate decays with the gradient steps.

    Where the norm of the gradient has no bound it is not computed; a bound that `vmap` sweeps is
    traced, and has.
    """
    learning_rate = algorithm.learning_rate * linear_decay(steps, algorithm.learning_rate_decay)
    largest = algorithm.max_gradient_norm
    is_unbounded = not isinstance(largest, jax.core.Tracer) and math.isinf(largest)
    return optax.chain(
        optax.identity() if is_unbounded else optax.clip_by_global_norm(largest),
        optax.adamw(learning_rate, weight_decay=algorithm.weight_decay, mask=decay_mask),
    )


def decay_mask(params: Any) -> Any:
    """True for each array that decays: not for biases, nor for standard deviations of their own."""

    def decays(path, x):
        return x.ndim > 1 and not jax.tree_util.keystr(path[-1:]).endswith("log_std")

    return jax.tree_util.tree_map_with_path(decays, params)


def check_sequences(algorithm: Any) -> None:
    """Raise InvalidInput where sequences do not fill a batch."""
    if algorithm.recurrent and algorithm.batch_size % algorithm.sequence_length:
        raise InvalidInput(
            f"batch_size {algorithm.batch_size} is no whole number of sequences of sequence_length "
            f"{algorithm.sequence_length}; give a multiple of it, or another length"
        )
