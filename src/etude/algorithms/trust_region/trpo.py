"""Trust region policy optimisation (Schulman et al., 2015) and the natural gradient it stands on (notes, lecture 9)."""
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from etude.algorithms import on_policy
from etude.algorithms.on_policy import Batch, Learner
from etude.errors import InvalidInput
from etude.experience import Transition
from etude.networks import Activation
from etude.policies import Policy, Value
from etude.recurrent import Kind
from etude.second_order import backtracking, fisher_product, natural_step
from etude.spaces import Spec
from etude.struct import replace, static, struct, traced

Array = jax.Array
Metrics = dict[str, Array]


@struct
class TRPO:
    """Trust region policy optimisation for every kind of action: one step a rollout, as far as the divergence allows."""
    kl_limit: float = traced(0.01, above=0)               # ε: nats that a step may move the policy, on average over states
    damping: float = traced(0.1, at_least=0)              # added to the Fisher matrix
    shrink: float = traced(0.8, above=0, at_most=1)       # of the step, each time the line search refuses it
    learning_rate: float = traced(1e-3, above=0)          # Adam's step size, of the value
    discount: float = traced(0.99, at_least=0, at_most=1)  # γ, per environment step
    gae_lambda: float = traced(0.95, at_least=0, at_most=1)  # λ of the advantages (Schulman et al., 2016)
    initial_std: float = traced(1.0, above=0)             # of continuous actions, in units of the policy's [-1, 1]
    hidden: tuple[int, ...] = static((64, 64), at_least=1)  # units of each hidden layer, of policy and value alike
    activation: Activation = static("tanh")               # between layers
    recurrent: Kind = static("none")                      # a memory before the hidden layers, of policy and value each
    memory_size: int = static(64, at_least=1)             # its units
    sequence_length: int = static(16, at_least=1)         # environment steps through which it is trained
    state_noise: bool = static(False)                     # noise of a Box that depends on the state (gSDE: Raffin et al., 2021)
    noise_interval: int = static(0, at_least=0)           # environment steps that such noise is kept for; 0: an episode
    normalize_advantage: bool = static(True)              # to mean 0 and std 1 over the rollout
    normalize_observation: bool = static(False)           # by running moments, to mean 0 and std 1
    normalize_reward: bool = static(False)                # by the running std of the discounted return (Engstrom et al., 2020)
    conjugate_steps: int = static(15, at_least=1)         # of conjugate gradients, a product with the Fisher matrix each (SB3)
    line_search_steps: int = static(10, at_least=0)       # tries, each shorter; 0: the natural gradient's step is taken as it is
    fisher_interval: int = static(1, at_least=1)          # the Fisher matrix is that of every so many samples (SB3)
    rollout_length: int = static(1024, at_least=1)        # environment steps of each copy between updates
    batch_size: int = static(128, at_least=1)             # samples a gradient step of the value
    value_epochs: int = static(10, at_least=1)            # passes of the value over each rollout

    default_num_envs: ClassVar[int] = 2
    shared: ClassVar[bool] = False                        # the policy's step is its own

    def check(self) -> None:
        if self.fisher_interval > 1 and self.recurrent != "none":
            raise InvalidInput(f"fisher_interval is {self.fisher_interval}; a policy with a memory needs every step: leave it 1")

    def init(self, key: Array, spec: Spec) -> Learner:
        on_policy.check_batches(self, spec)
        learner = on_policy.init(self, key, spec)
        return replace(learner, optimizer=self.optimizer().init(learner.agent.value))

    def optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)

    def act(self, state: Learner, observation: Any, memory: Any, key: Array, explore: bool) -> tuple[Any, Any]:
        """A sample of the policy when exploring, its mode when not."""
        return on_policy.act(self, state, observation, memory, key, explore)

    def update(self, state: Learner, experience: Transition, key: Array) -> tuple[Learner, Metrics]:
        learner, scaled = on_policy.scale_reward(self, state, experience)
        batch = on_policy.arrange(self, scaled, on_policy.estimate(self, learner, scaled))
        policy, of_policy = self.improve_policy(learner.agent.policy, batch)
        value, optimizer, value_loss = self.fit_value(learner.agent.value, learner.optimizer, batch, key)
        learner = replace(learner, agent=replace(learner.agent, policy=policy, value=value), optimizer=optimizer)
        return on_policy.lived(self, learner, experience), {**of_policy, "value_loss": value_loss, "updates": jnp.int32(1)}

    def improve_policy(self, policy: Policy, batch: Batch) -> tuple[Policy, Metrics]:
        """The natural gradient's step, shortened until the surrogate grows and the divergence keeps its limit, or none.

            θ ← θ + shrinkᵏ α F⁻¹ g,   α = √(2 ε / gᵀ F⁻¹ g)        (Schulman et al., 2015, appendix C)
        """
        fewer = batch if self.fisher_interval == 1 else jax.tree.map(lambda x: x[:: self.fisher_interval], batch)
        before, gradient = jax.value_and_grad(self.surrogate)(policy, batch)
        product = fisher_product(partial(self.divergence, fewer), policy, self.damping)
        direction, size = natural_step(gradient, product, self.kl_limit, self.conjugate_steps)
        step = jax.tree.map(lambda x: size * x, direction)

        def accept(policy):
            return (self.surrogate(policy, batch) > before) & (self.divergence(batch, policy) <= self.kl_limit)
        if self.line_search_steps:
            improved, tries, accepted = backtracking(accept, policy, step, self.shrink, self.line_search_steps)
        else:
            improved, tries, accepted = optax.apply_updates(policy, step), jnp.int32(1), jnp.bool_(True)
        return improved, {"surrogate": self.surrogate(improved, batch) - before, "kl": self.divergence(batch, improved),
                          "entropy": batch.chosen_by(improved).entropy().mean(),
                          "accepted": accepted.astype(jnp.float32), "tries": tries.astype(jnp.float32)}

    def surrogate(self, policy: Policy, batch: Batch) -> Array:
        """E[ratio A]: what the policy gains on the one before, as far as it comes to the same states (notes, lecture 9)."""
        advantage = batch.advantage
        if self.normalize_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        return (jnp.exp(batch.chosen_by(policy).log_prob(batch.action) - batch.log_prob) * advantage).mean()

    def divergence(self, batch: Batch, policy: Policy) -> Array:
        """E[KL(before || now)], nats."""
        return batch.choice.kl(batch.chosen_by(policy)).mean()

    def fit_value(self, value: Value, optimizer: optax.OptState, batch: Batch,
                  key: Array) -> tuple[Value, optax.OptState, Array]:
        """So many passes over the rollout on E[(target - V)²], and the mean of that."""
        batch = replace(batch, choice=())

        def step(learned, batch):
            value, optimizer = learned
            loss, gradient = jax.value_and_grad(lambda value: ((batch.target - batch.judged_by(value)) ** 2).mean())(value)
            step, optimizer = self.optimizer().update(gradient, optimizer)
            return (optax.apply_updates(value, step), optimizer), loss

        def epoch(learned, key):
            return jax.lax.scan(step, learned, on_policy.batches(self, key, batch))
        (value, optimizer), losses = jax.lax.scan(epoch, (value, optimizer), jax.random.split(key, self.value_epochs))
        return value, optimizer, losses.mean()


# The step of the closed form, as it is (Kakade, 2001; notes, lecture 9).
NaturalGradient = partial(TRPO, line_search_steps=0)

ALGORITHMS = {
    "natural-gradient": (
        NaturalGradient,
        "natural policy gradient: one closed-form step for each rollout; every kind of action",
    ),
    "trpo": (
        TRPO,
        "trust region policy optimization: the natural gradient with a line "
        "search on the divergence",
    ),
}
