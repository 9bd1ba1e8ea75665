"""A discriminator: a network f that tells the steps of an expert from those of a learner.

    D(x) = 1 / (1 + exp(-f(x)))        the probability that the step x is the expert's
    L(f) = E_expert[-log D(x)] + E_learner[-log(1 - D(x))] + λ E[(‖∇f(x̂)‖ - 1)²]

x is (s, a), and s' too where that is asked for. The first two terms are the cross-entropy, 2 log 2
where D = ½ everywhere. The third, the gradient penalty, pulls the slope of f to 1; x̂ lies at random
between the features of a step of the expert and of one of the learner (Gulrajani et al., 2017).

In adversarial inverse reinforcement learning, AIRL (Fu et al., 2018), f has a form of its own:

    f(s, a, s') = g(s, a) + γ h(s') - h(s) - log π(a|s)        h(s') = 0 where (s, a) terminates

π is the learner. (The paper calls f what is before -log π.) Where π is the expert's policy, D = ½
everywhere, and g + γ h(s') - h(s) is the expert's soft advantage, with a temperature of 1. That
determines g up to a shaping of the reward: g itself can be the advantage. The penalty is that of g.

Absorbing states (discriminator-actor-critic, DAC; Kostrikov et al., 2019): where an episode
terminates, an absorbing state follows, in which the agent would stay for ever. It is one more input
x, all zeros but for a mark, so that the end of an episode is judged too: by whether the expert's
episodes end as well. The means are over steps and these states, one for each end; in AIRL its f is
g alone.

The functions read these hyperparameters of `algorithm`:

    learning_rate, gradient_penalty     Adam's step size; λ
    hidden                              units of the hidden layers
    next_observation                    whether x has s' too
    normalize_observation               whether s and s' are normalized, and the clip of that
    absorbing                           whether absorbing states are judged
    inverse_rl, agent.discount          whether f has the form of AIRL; γ
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
    log_prob: Array  # log π(a|s) of the learner in AIRL, else 0


@struct
class Discriminator:
    """The network of f, its optimizer's state and the statistics that normalize observations.

    In AIRL the network is g, and `logits` adds the rest.
    """

    # (observation, action, next observation if it is read, mark) -> f, g in AIRL, [..., 1]
    network: Network
    shaping: Any  # h of AIRL, a Network: observation -> [..., 1]; else ()
    opt_state: optax.OptState
    observation_statistics: Any  # a RunningMeanStd or None for each leaf of the observation
    action_space: Space = static()

    def steps_of(self, transitions: Transition) -> Steps:
        """Return what a discriminator reads of transitions; log π is 0 until it is known.

        Actions are those that were executed, else the part of an action beyond its bounds would
        give the learner away. In AIRL log π is that of the executed action too.
        """
        return Steps(
            transitions.observation,
            executed_action(self.action_space, transitions.action),
            transitions.next_observation,
            transitions.terminated,
            jnp.zeros(transitions.terminated.shape),
        )

    def add_observations(self, algorithm: Any, observations: Any) -> "Discriminator":
        """Return the discriminator with observations [n, ...] added to its statistics."""
        statistics = running_statistics.update_observation_statistics(
            algorithm.normalize_observation, self.observation_statistics, observations
        )
        return replace(self, observation_statistics=statistics)

    def normalized(self, algorithm: Any, observation: Any) -> Any:
        """Return the observation [..., *shape], normalized if the algorithm does so."""
        return running_statistics.normalize_leaves(
            algorithm.normalize_observation, self.observation_statistics, observation
        )

    def encode(self, algorithm: Any, steps: Steps) -> Array:
        """Return the features of steps, [..., n], which the hidden layers of the network read."""
        inputs = [self.normalized(algorithm, steps.observation), steps.action]
        if algorithm.next_observation:
            inputs.append(self.normalized(algorithm, steps.next_observation))
        return self.network.encoder((*inputs, jnp.zeros((*steps.terminated.shape, 1))))

    def logits(self, algorithm: Any, steps: Steps, features: Array | None = None) -> Array:
        """Return f of steps, [...]; `features` are those of `encode`, if they are known."""
        if features is None:
            features = self.encode(algorithm, steps)
        f = self.network.head(features)[..., 0]
        if algorithm.inverse_rl:
            h, next_h = (
                self.shaping(self.normalized(algorithm, observation))[..., 0]
                for observation in (steps.observation, steps.next_observation)
            )
            f += algorithm.agent.discount * ~steps.terminated * next_h - h - steps.log_prob
        return f

    def absorbing_logit(self) -> Array:
        """Return f of the absorbing state, []: its features are 0 but for the mark, the last."""
        num_features = self.network.head.layers[0].in_features
        return self.network.head(jnp.zeros(num_features).at[-1].set(1.0))[0]

    def gradient_step(
        self, algorithm: Any, expert: Steps, learner: Steps, key: Array
    ) -> tuple["Discriminator", Metrics]:
        """Take one gradient step on L, with as many steps [n] of the expert as of the learner."""
        networks = self.network, self.shaping

        def loss_of(networks):
            network, shaping = networks
            other = replace(self, network=network, shaping=shaping)
            return other.loss(algorithm, expert, learner, key)

        gradient, metrics = jax.grad(loss_of, has_aux=True)(networks)
        updates, opt_state = discriminator_optimizer(algorithm).update(gradient, self.opt_state)
        network, shaping = optax.apply_updates(networks, updates)
        return replace(self, network=network, shaping=shaping, opt_state=opt_state), metrics

    def loss(
        self, algorithm: Any, expert: Steps, learner: Steps, key: Array
    ) -> tuple[Array, Metrics]:
        """Return L of steps [n] of each, and metrics."""
        of_expert, of_learner = (self.encode(algorithm, steps) for steps in (expert, learner))
        f_expert = self.logits(algorithm, expert, of_expert)
        f_learner = self.logits(algorithm, learner, of_learner)
        f_absorbing = self.absorbing_logit()

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
        penalty = gradient_penalty(self.network, of_expert, of_learner, key)
        is_right = jnp.concatenate([f_expert > 0, f_learner <= 0])
        return cross_entropy + algorithm.gradient_penalty * penalty, {
            "discriminator_loss": cross_entropy,
            "discriminator_accuracy": is_right.mean(),
        }


def init_discriminator(algorithm: Any, key: Array, spec: EnvironmentSpec) -> Discriminator:
    """Return a discriminator whose networks give 0: but for -log π in AIRL, D = ½ everywhere."""
    seen = (spec.observation,) if algorithm.next_observation else ()
    space = Composite((spec.observation, spec.action, *seen, Box((1,))))
    network = make_network(key, space, algorithm.hidden, 1, "tanh", final_scale=0.0)
    shaping: Any = ()
    if algorithm.inverse_rl:
        key_shaping = jax.random.fold_in(key, 1)
        shaping = make_network(
            key_shaping, spec.observation, algorithm.hidden, 1, "tanh", final_scale=0.0
        )
    return Discriminator(
        network,
        shaping,
        discriminator_optimizer(algorithm).init((network, shaping)),
        running_statistics.init_observation_statistics(spec.observation),
        spec.action,
    )


def gradient_penalty(network: Network, expert: Array, learner: Array, key: Array) -> Array:
    """Return E[(‖∇f(x̂)‖ - 1)²] at random places x̂ between features [n, feature] of both.

    The slope along the mark is left out: it is 0 in every step, so the penalty would be paid there,
    and move f of the absorbing state.
    """
    share = jax.random.uniform(key, (len(expert), 1))
    between = share * expert + (1 - share) * learner
    # each row of f depends on its own x alone, so this is the gradient at each
    gradient = jax.grad(lambda x: network.head(x).sum())(between)[:, :-1]
    norm = jnp.sqrt((gradient**2).sum(-1) + 1e-12)  # differentiable at 0 too
    return ((norm - 1) ** 2).mean()


def discriminator_optimizer(algorithm: Any) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(algorithm.learning_rate)
