"""A discriminator: a network f that tells the steps of an expert from those of a learner.

    D(x) = 1 / (1 + exp(-f(x)))        the probability that the step x is the expert's
    L(f) = E_expert[-log D(x)] + E_learner[-log(1 - D(x))] + λ E[(‖∇f(x̂)‖ - 1)²]

x is (s, a), and s' too where that is asked for. x̂ lies at random between the features of a step of
the expert and of one of the learner (Gulrajani et al., 2017). Equal steps give D = ½ and a loss of
2 log 2.

Absorbing states (Kostrikov et al., 2019): where an episode terminates, an absorbing state follows,
in which the agent would stay for ever. It is one more input x, the same for all episodes, so that
the end of an episode is judged too: by whether the expert's episodes end as well.

The functions read these hyperparameters of `algorithm`:

    discriminator_learning_rate, gradient_penalty     Adam's step size; λ
    discriminator_hidden                              units of the hidden layers
    next_observation                                  whether x has s' too
    normalize_observation                             input of the discriminator
    absorbing                                         whether absorbing states are judged
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from etude.data.transition import Transition
from etude.estimators import running_statistics
from etude.nn.networks import Network, make_network
from etude.spaces import Box, Composite, EnvironmentSpec, Space, executed_action
from etude.struct import replace, static, struct
from etude.types import Array, Metrics


@struct
class Steps:
    """What a discriminator reads of steps, [step, ...]."""

    observation: Any
    action: Any  # as it was executed
    next_observation: Any
    terminated: Array  # bool


@struct
class Discriminator:
    """The network f, its optimizer's state and the statistics that normalize observations."""

    network: Network  # (observation, action, next observation or (), absorbing) -> [..., 1]
    opt_state: optax.OptState
    observation_statistics: Any  # a RunningMeanStd or None for each leaf of the observation
    action_space: Space = static()


def init_discriminator(algorithm: Any, key: Array, spec: EnvironmentSpec) -> Discriminator:
    """Return a discriminator that takes each step for the expert's with probability ½."""
    seen = (spec.observation,) if algorithm.next_observation else ()
    space = Composite((spec.observation, spec.action, *seen, Box((1,))))
    network = make_network(key, space, algorithm.discriminator_hidden, 1, "tanh", final_scale=0.0)
    return Discriminator(
        network,
        optimizer(algorithm).init(network),
        running_statistics.init_observation_statistics(spec.observation),
        spec.action,
    )


def steps_of(discriminator: Discriminator, transitions: Transition) -> Steps:
    """Return what a discriminator reads of transitions; actions are those that were executed.

    Else the part of an action beyond its bounds would give the learner away.
    """
    return Steps(
        transitions.observation,
        executed_action(discriminator.action_space, transitions.action),
        transitions.next_observation,
        transitions.terminated,
    )


def add_observations(
    algorithm: Any, discriminator: Discriminator, observations: Any
) -> Discriminator:
    """Return the discriminator with observations [n, ...] added to its statistics."""
    if not algorithm.normalize_observation:
        return discriminator
    statistics = running_statistics.update_observation_statistics(
        discriminator.observation_statistics, observations
    )
    return replace(discriminator, observation_statistics=statistics)


def encode(algorithm: Any, discriminator: Discriminator, network: Network, steps: Steps) -> Array:
    """Return the features of steps, [..., n], which the hidden layers of `network` read."""

    def normalized(observation):
        if not algorithm.normalize_observation:
            return observation
        return running_statistics.normalize_leaves(
            discriminator.observation_statistics, observation, algorithm.normalize_observation.clip
        )

    inputs = [normalized(steps.observation), steps.action]
    if algorithm.next_observation:
        inputs.append(normalized(steps.next_observation))
    return network.encoder((*inputs, jnp.zeros((*steps.terminated.shape, 1))))


def absorbing_features(features: Array) -> Array:
    """Return the features of the absorbing state, [n]: zeros but for its mark, which is the last.

    `features` are those of steps, [..., n].
    """
    return jnp.zeros(features.shape[-1]).at[-1].set(1.0)


def logits(algorithm: Any, discriminator: Discriminator, steps: Steps) -> tuple[Array, Array]:
    """Return (f of steps, [...], f of the absorbing state, [])."""
    head = discriminator.network.head
    features = encode(algorithm, discriminator, discriminator.network, steps)
    return head(features)[..., 0], head(absorbing_features(features))[0]


def gradient_step(
    algorithm: Any, discriminator: Discriminator, expert: Steps, learner: Steps, key: Array
) -> tuple[Discriminator, Metrics]:
    """Take one gradient step on L, with as many steps [n] of the expert as of the learner."""
    gradient, metrics = jax.grad(
        lambda network: loss(algorithm, discriminator, network, expert, learner, key), has_aux=True
    )(discriminator.network)
    updates, opt_state = optimizer(algorithm).update(gradient, discriminator.opt_state)
    network = optax.apply_updates(discriminator.network, updates)
    return replace(discriminator, network=network, opt_state=opt_state), metrics


def loss(
    algorithm: Any,
    discriminator: Discriminator,
    network: Network,
    expert: Steps,
    learner: Steps,
    key: Array,
) -> tuple[Array, Metrics]:
    """Return L of steps [n] of each, and metrics."""
    of_expert, of_learner = (
        encode(algorithm, discriminator, network, steps) for steps in (expert, learner)
    )
    f_expert, f_learner = network.head(of_expert)[:, 0], network.head(of_learner)[:, 0]
    f_absorbing = network.head(absorbing_features(of_expert))[0]

    def mean(step_loss, absorbing_loss, terminated):
        """The mean over steps and, for each that terminates, the absorbing state after it."""
        if not algorithm.absorbing:
            return step_loss.mean()
        ends = terminated.sum()
        return (step_loss.sum() + ends * absorbing_loss) / (terminated.size + ends)

    nll_expert, nll_learner = jax.nn.softplus(-f_expert), jax.nn.softplus(f_learner)
    cross_entropy = mean(nll_expert, jax.nn.softplus(-f_absorbing), expert.terminated) + mean(
        nll_learner, jax.nn.softplus(f_absorbing), learner.terminated
    )
    penalty = gradient_penalty(network, of_expert, of_learner, key)
    is_right = jnp.concatenate([f_expert > 0, f_learner < 0])
    return cross_entropy + algorithm.gradient_penalty * penalty, {
        "discriminator_loss": cross_entropy,
        "discriminator_accuracy": is_right.mean(),
    }


def gradient_penalty(network: Network, expert: Array, learner: Array, key: Array) -> Array:
    """Return E[(‖∇f(x̂)‖ - 1)²] at random places x̂ between features [n, feature] of both."""
    share = jax.random.uniform(key, (len(expert), 1))
    between = share * expert + (1 - share) * learner
    gradient = jax.grad(lambda x: network.head(x).sum())(between)  # rows do not mix
    return ((jnp.sqrt((gradient**2).sum(-1) + 1e-12) - 1) ** 2).mean()


def optimizer(algorithm: Any) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(algorithm.discriminator_learning_rate)
