"""Generative adversarial imitation learning, GAIL (Ho & Ermon, 2016), and AIRL, on PPO or SAC.

    min over π   max over D   E_expert[log D(s, a)] + E_π[log(1 - D(s, a))]

A discriminator D learns to tell the expert's steps from the learner's; it is the probability of the
expert (in the paper, of the learner). An agent, PPO or SAC, learns to be taken for the expert: the
logit f = log D - log(1 - D) makes its rewards. The paper's term -λ H(π) is the agent's own entropy
bonus. The environment's reward is never read. With SAC, which learns from replay, rewards are
computed when a batch is drawn, by the discriminator of that moment. The agent may have a memory;
the discriminator has none, and judges single steps.

    reward            r                     sign
    "positive"        -log(1 - D)           ≥ 0: who lives longer gets more    that of the paper
    "logit"           log D - log(1 - D)    either: no fixed bias              of AIRL and DAC
    "negative"        log D                 ≤ 0: who dies sooner loses less

So the end of an episode is a reward or a punishment that nobody judged. With `absorbing` it is
judged: a step that terminates is paid for the absorbing state in which the agent would stay for
ever after, r(s, a) + γ / (1 - γ) r(absorbing), as in discriminator-actor-critic (DAC; Kostrikov et
al., 2019), which learns the value of that state in place of writing it down.

AIRL, adversarial inverse reinforcement learning (Fu et al., 2018), is GAIL with another form of f,
a learned reward and its shaping; see `discriminator`. Its agent is paid the logit, which has
-log π(a|s) in it, so an entropy bonus beside it would count twice: it is PPO without one.
"""

from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from etude.algorithms.actor_critic.sac import SAC
from etude.algorithms.common import on_policy
from etude.algorithms.common.agent_in_field import AgentInField
from etude.algorithms.imitation.discriminator import Discriminator, Steps, init_discriminator
from etude.algorithms.protocol import Outside, algorithm
from etude.algorithms.trust_region.ppo import PPO
from etude.data.dataset import Dataset
from etude.data.replay import ring_buffer, uniform
from etude.data.replay.ring_buffer import Indices, RingBuffer
from etude.data.transition import ReplayBatch, Transition, flatten_time, zeros_like_spec
from etude.errors import InvalidInput
from etude.estimators.running_statistics import Normalization
from etude.nn.history import observed_rows
from etude.spaces import EnvironmentSpec
from etude.struct import nested, replace, static, struct, traced
from etude.types import Array, Metrics


@struct
class GAILState:
    agent: Any  # the state of the agent; SAC's has a replay buffer of its own
    discriminator: Discriminator
    learner_steps: RingBuffer  # of Steps: the agent's latest, which the discriminator is fitted on


@algorithm
class GAIL(AgentInField):
    """Generative adversarial imitation learning (GAIL), with PPO or SAC as the agent."""

    agent: PPO | SAC = nested(PPO())
    """What learns from the discriminator's rewards; the flags without "agent." are those of the
    discriminator."""
    reward: Literal["positive", "logit", "negative"] = static("positive")
    """What the agent is paid for a step: -log(1 - D), log D - log(1 - D) or log D."""
    inverse_rl: bool = static(False)
    """Whether the logit has the form of adversarial inverse reinforcement learning, with reward
    "logit": a learned reward, shaping of it, and -log π of the agent, PPO."""
    absorbing: bool = static(True)
    """Whether the absorbing state after a terminated episode is judged and paid; without it, a
    positive reward alone keeps the agent alive and a negative one makes it end its episodes. Such a
    step is paid γ / (1 - γ) times as much as one in the absorbing state, 99 times with the default
    discount."""
    learning_rate: float = traced(1e-3, above=0)
    """Step size of Adam for the discriminator."""
    gradient_penalty: float = traced(1.0, at_least=0)
    """Weight λ of the gradient penalty, which pulls the slope of the discriminator to 1."""
    hidden: tuple[int, ...] = static((64, 64), at_least=1)
    """Units of each hidden layer of the discriminator."""
    next_observation: bool = static(False)
    """Whether the discriminator reads the next observation too."""
    normalize_observation: Normalization | None = nested(Normalization())
    """Whether the discriminator's observations are normalized to mean 0 and std 1, by those of the
    dataset, counted once, and all that the agent has seen so far."""
    batch_size: int = static(256, at_least=1)
    """Steps of the expert, and as many of the learner, in a gradient step of the discriminator."""
    gradient_steps: int = static(4, at_least=0)
    """Gradient steps of the discriminator before each update of the agent."""
    capacity: int = static(16_384, at_least=1)
    """Latest steps of the agent that the discriminator is fitted on, rounded down to whole rollouts
    and raised to one; SAC's own replay buffer is agent.capacity."""
    shuffle_labels: bool = static(False)
    """Whether the steps of expert and agent are mixed before they are told apart: a control, in
    which there is nothing to learn from the dataset, and an agent that does well all the same is
    paid for living on."""

    needs: ClassVar[tuple[str, ...]] = ("dataset",)

    def validate_fields(self) -> None:
        if self.inverse_rl and self.reward != "logit":
            raise InvalidInput(
                f'inverse_rl is on, and reward is "{self.reward}"; AIRL pays its agent the logit: '
                'set reward to "logit"'
            )
        if self.inverse_rl and self.agent.recurrent:
            raise InvalidInput(
                "inverse_rl is on, and agent.recurrent too; log π of a recurrent policy depends on "
                "all that was seen before the expert's step, and AIRL judges single steps: leave "
                "one of them off; --frame-stack 4 shows the latest observations instead"
            )
        if self.inverse_rl and self.has_entropy_bonus():
            raise InvalidInput(
                "inverse_rl is on, and the agent has an entropy bonus, which -log π in the reward "
                "is already; take agent ppo with an entropy_coefficient of 0"
            )
        if isinstance(self.agent, SAC) and self.agent.hindsight:
            raise InvalidInput(
                "agent.hindsight is set, and the discriminator judges steps as they were observed, "
                "not with the goals that SAC then learns from: leave it out"
            )
        if self.absorbing and is_concrete(discount := self.agent.discount) and discount == 1:
            raise InvalidInput(
                "agent.discount is 1, with which staying in the absorbing state for ever is worth "
                "infinitely much; give a discount below 1, or leave absorbing off"
            )

    def has_entropy_bonus(self) -> bool:
        """Whether the agent is paid for the entropy of its policy, as far as that is known."""
        if isinstance(self.agent, SAC):
            return True
        coefficient = self.agent.entropy_coefficient
        return is_concrete(coefficient) and coefficient != 0

    def init(self, key: Array, spec: EnvironmentSpec, outside: Outside) -> GAILState:
        """Return the agent's initial state, a discriminator that cannot tell, no steps of it."""
        key_agent, key_discriminator = jax.random.split(key)
        discriminator = init_discriminator(self, key_discriminator, spec)
        dataset = outside.dataset
        assert dataset is not None  # as `needs` asks for
        discriminator = discriminator.add_observations(self, dataset.transitions.observation)
        example = discriminator.steps_of(zeros_like_spec(spec))
        return GAILState(
            self.agent.init(key_agent, spec),
            discriminator,
            ring_buffer.init(
                example,
                max(self.capacity, self.rollout_length * spec.num_envs),
                spec.num_envs,
                self.rollout_length,
            ),
        )

    def update(
        self, state: GAILState, experience: Transition, key: Array, outside: Outside
    ) -> tuple[GAILState, Metrics]:
        """Fit the discriminator, then update the agent with its rewards."""
        dataset = outside.dataset
        assert dataset is not None  # as `needs` asks for
        key_discriminator, key_agent = jax.random.split(key)
        buffer = ring_buffer.insert(state.learner_steps, state.discriminator.steps_of(experience))
        discriminator = state.discriminator.add_observations(
            self, flatten_time(experience.observation)
        )

        def fit(discriminator, key):
            key_draw, key_penalty = jax.random.split(key)
            expert, learner = self.draw(state.agent, discriminator, buffer, dataset, key_draw)
            return discriminator.gradient_step(self, expert, learner, key_penalty)

        keys = jax.random.split(key_discriminator, self.gradient_steps)
        discriminator, metrics = jax.lax.scan(fit, discriminator, keys)
        agent, agent_metrics = self.update_agent(state.agent, discriminator, experience, key_agent)
        metrics = jax.tree.map(jnp.mean, metrics) if self.gradient_steps else {}
        return GAILState(agent, discriminator, buffer), {**agent_metrics, **metrics}

    def draw(
        self,
        agent_state: Any,
        discriminator: Discriminator,
        buffer: RingBuffer,
        dataset: Dataset,
        key: Array,
    ) -> tuple[Steps, Steps]:
        """Draw `batch_size` steps of the expert, and as many of the agent.

        With `shuffle_labels` both are drawn from the mixture.
        """
        size = self.batch_size
        key_expert, key_learner, key_labels = jax.random.split(key, 3)
        rows = jax.random.randint(key_expert, (size,), 0, dataset.num_steps)
        demonstrated = jax.tree.map(lambda x: x[rows], dataset.transitions)
        expert = discriminator.steps_of(demonstrated)
        learner = ring_buffer.gather(buffer, uniform.sample_indices(buffer, key_learner, size))
        if self.inverse_rl:
            expert, learner = (
                replace(x, log_prob=self.log_prob(agent_state, x.observation, x.action))
                for x in (expert, learner)
            )
        if not self.shuffle_labels:
            return expert, learner
        both = jax.tree.map(lambda *x: jnp.concatenate(x), expert, learner)
        order = jax.random.permutation(key_labels, 2 * size)
        first, second = (
            jax.tree.map(lambda x, rows=rows: x[rows], both)
            for rows in (order[:size], order[size:])
        )
        return first, second

    def update_agent(
        self, agent_state: Any, discriminator: Discriminator, experience: Transition, key: Array
    ) -> tuple[Any, Metrics]:
        """Update the agent with rewards of the discriminator in place of the environment's."""
        reward = self.reward_of(agent_state, discriminator, experience)
        paid = {"imitation_reward": reward.mean()}
        if isinstance(self.agent, PPO):
            experience = replace(experience, reward=reward)
            agent_state, metrics = self.agent.update(agent_state, experience, key)
            return agent_state, metrics | paid

        def relabel(
            agent_state: Any, buffer: RingBuffer, indices: Indices, batch: ReplayBatch, key: Array
        ) -> ReplayBatch:
            transition = batch.transition
            observed = replace(
                transition,
                observation=observed_rows(transition.observation),
                next_observation=observed_rows(transition.next_observation),
            )
            reward = self.reward_of(agent_state, discriminator, observed)
            return replace(batch, transition=replace(transition, reward=reward))

        agent_state, metrics = self.agent.update(agent_state, experience, key, relabel=relabel)
        return agent_state, metrics | paid

    def log_prob(self, agent_state: Any, observation: Any, action: Any) -> Array:
        """Return log π(a|s) of the agent, which is PPO, [...]."""
        learner = agent_state.learner
        observation = on_policy.normalize_observation(self.agent, learner, observation)
        return learner.networks.policy(observation).log_prob(action)

    def reward_of(
        self, agent_state: Any, discriminator: Discriminator, transitions: Transition
    ) -> Array:
        """Return what the agent is paid for transitions, [...]."""
        steps = discriminator.steps_of(transitions)
        if self.inverse_rl:
            log_prob = self.log_prob(agent_state, steps.observation, steps.action)
            steps = replace(steps, log_prob=log_prob)
        reward = self.reward_of_logit(discriminator.logits(self, steps))
        if not self.absorbing:
            return reward
        reward_absorbing = self.reward_of_logit(discriminator.absorbing_logit())
        after = self.agent.discount / (1 - self.agent.discount) * reward_absorbing
        return reward + jnp.where(transitions.terminated, after, 0.0)

    def reward_of_logit(self, f: Array) -> Array:
        """Return the reward of a logit f = log D - log(1 - D)."""
        match self.reward:
            case "positive":
                return jax.nn.softplus(f)  # -log(1 - D)
            case "negative":
                return -jax.nn.softplus(-f)  # log D
        return f


def is_concrete(value: Any) -> bool:
    """Whether a number is known, not one that a compiled function is given."""
    return not isinstance(value, jax.core.Tracer)


# GAIL whose logit holds a learned reward and its shaping.
AIRL = partial(GAIL, inverse_rl=True, reward="logit")

# Name on the command line: (constructor, description).
ALGORITHMS = {
    "airl": (AIRL, "adversarial inverse RL: GAIL whose discriminator learns a shaped reward"),
    "gail": (GAIL, "adversarial imitation: PPO or SAC is paid for passing as the expert"),
}
