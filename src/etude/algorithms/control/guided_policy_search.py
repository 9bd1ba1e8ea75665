"""Guided policy search by mirror descent: iLQR teachers that stay near the policy they teach.

    teacher p:   minimize E_p[Σ cost]   such that   Σₜ E_p[KL(p(·|xₜ) ‖ π(·|xₜ))] ≤ ε T
    policy π:    minimize E_p[½ Δμᵀ Σₚ⁻¹ Δμ],   Δμ the difference of the mean actions

(Montgomery & Levine, "Guided Policy Search via Approximate Mirror Descent", 2016.) A teacher is a
linear-Gaussian controller around the path of the policy from one start state: one iteration of iLQR
by the derivatives of the model, within the bound. The policy is a network of the observation.
"""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import on_policy
from etude.algorithms.protocol import Component, algorithm
from etude.data.transition import Transition, zeros_like_spec
from etude.errors import InvalidInput
from etude.estimators import running_statistics
from etude.estimators.running_statistics import Normalization
from etude.models.true_models import model_for
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation
from etude.nn.policies import PolicyNetwork, make_policy
from etude.planning.model_problem import ModelProblem, check_differentiable
from etude.planning.protocol import Model
from etude.planning.trajectory.ddp import expand_problem
from etude.planning.trajectory.kl_lqr import GaussianController, convexify, gaussian_kl, kl_lqr
from etude.spaces import EnvironmentSpec
from etude.struct import code, nested, replace, static, struct, traced
from etude.types import Array, Metrics

INSIDE = 1 - 1e-5  # controls of an expansion: at a bound, where they are clipped, there is none
# how the bound of the divergence follows the improvement: factor of one update, and range in nats
# per step
FACTORS, LIMITS = (0.1, 5.0), (0.01, 2.0)


@struct
class GuidedPolicyState:
    """The policy, how it is fitted, and how far its teachers may go."""

    model: Model  # that the teachers plan on; a true model has no arrays
    policy: PolicyNetwork
    observation_statistics: Any  # as those of `on_policy.LearnerState`
    opt_state: Any
    kl_limit: Array  # []: ε of the next update, nats per step


@struct
class Teachers:
    """What each teacher does, [teacher, ...], for paths of T steps."""

    controller: GaussianController
    states: Array  # [T + 1, n]: the path x̂ of the policy
    controls: Array  # [T, m]: û
    cost: Array  # []: of the path
    cost_change: Array  # []: what the expansion expects of the controller
    kl: Array  # []: divergence from the policy, nats, of all steps
    eta: Array  # []: multiplier of the bound


@struct
class Lessons:
    """What the policy is fitted to, [sample, ...]."""

    state: Array  # [n]
    control: Array  # [m]: the teacher's mean
    covariance: Array  # [m, m]: of the teacher
    weight: Array  # []: 0 for a path that is not finite


@algorithm
class GuidedPolicySearch:
    """Guided policy search: supervised by iLQR on the environment's true model, a bounded Box."""

    model: str = static("")
    """Id of the environment whose model the teachers plan on; by default the one that it acts
    in."""
    kl_limit: float = traced(0.2, above=0)
    """Largest divergence of a teacher from the policy in the first update, nats per step; from then
    on it follows how well the improvement was predicted (0.2: the authors' code)."""
    teachers: int = static(64, at_least=1)
    """Teachers in an update: half begin where the copies began, half where the policy went."""
    horizon: int = static(50, at_least=1)
    """Environment steps of a teacher's path."""
    taught_steps: int = static(25, at_least=1)
    """Steps of a path, from its start, that the policy is fitted to; those near the end, after
    which no cost counts, are planned alone."""
    samples: int = static(2, at_least=1)
    """Paths that each teacher plays on the model, with noise, for the policy to be fitted to."""
    gradient_steps: int = static(600, at_least=1)
    """Gradient steps of the policy per update."""
    batch_size: int = static(256, at_least=1)
    """Samples, one step of a teacher's path each, per gradient step."""
    learning_rate: float = traced(1e-3, above=0)
    """Learning rate of Adam."""
    initial_std: float = traced(1.0, above=0)
    """Initial standard deviation of actions, which are scaled to [-1, 1]."""
    min_std: float = traced(0.1, above=0)
    """Least standard deviation of the policy, and of the teachers in the weights of its fit."""
    hidden: tuple[int, ...] = static((64, 64), at_least=1)
    """Units of each hidden layer."""
    activation: Activation = static("tanh")
    """Activation function of the hidden layers."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it; see `etude.TorsoMaker`."""
    normalize_observation: Normalization | None = nested(None)
    """Whether observations are normalized to mean 0 and std 1 by running statistics."""
    discount: float = traced(1.0, at_least=0, at_most=1)
    """Discount factor γ per environment step."""
    rollout_length: int = static(200, at_least=1)
    """Environment steps of each copy per update."""

    default_num_envs: ClassVar[int] = 32
    assumes: ClassVar[Assumptions] = Assumptions(("bounded Box",), smooth=True, known_model=True)
    components: ClassVar[dict[str, Component]] = {"policy": on_policy.POLICY}
    recurrent: ClassVar[None] = None
    state_noise: ClassVar[bool] = False

    def validate_fields(self) -> None:
        if self.taught_steps > self.horizon:
            raise InvalidInput(
                f"taught_steps is {self.taught_steps}, more than the {self.horizon} steps of a "
                f"teacher's path; give --horizon {self.taught_steps} or more, or fewer of them"
            )

    def init(self, key: Array, spec: EnvironmentSpec) -> GuidedPolicyState:
        """Return the model and the initial policy.

        Raises InvalidInput if the model is that of another environment, and where it has no
        derivatives.
        """
        model = model_for(self.model or spec.id, spec)
        example = jax.tree.map(lambda x: x[None, None], zeros_like_spec(spec))
        begun = jax.eval_shape(model.begin, example.observation, (), key)
        check_differentiable(model, begun, "guided policy search")
        policy = make_policy(
            key, spec, self.hidden, self.activation, initial_std=self.initial_std, torso=self.torso
        )
        return GuidedPolicyState(
            model,
            policy,
            running_statistics.init_observation_statistics(spec.observation),
            self.optimizer().init(policy),
            jnp.float32(self.kl_limit),
        )

    def act(
        self, state: GuidedPolicyState, observation: Any, memory: Any, key: Array, explore: bool
    ) -> tuple[Array, Any]:
        """Return (action, ()): with `explore` a sample of the policy, else its mean."""
        pi = state.policy(self.normalized(state, observation))
        return (pi.sample(key) if explore else pi.mode()), memory

    def update(
        self, state: GuidedPolicyState, experience: Transition, key: Array
    ) -> tuple[GuidedPolicyState, Metrics]:
        """Teach from states that were visited, fit the policy, and measure what it gained.

        Of the experience only the observations are read: the model tells the rest.
        """
        key_starts, key_model, key_play, key_fit = jax.random.split(key, 4)
        state = self.add_observations(state, experience.observation)
        problem = ModelProblem(
            state.model, key_model, self.discount, state.policy.action_space.shape
        )
        starts = self.draw_starts(state.model, experience.observation, key_starts)
        teachers = jax.vmap(partial(self.improve_trajectory, problem, state))(starts)
        lessons, teacher_cost = self.play_teachers(problem, teachers, key_play)
        learned, loss = self.fit_policy(state, lessons, key_fit)
        cost = jax.vmap(lambda start: self.follow_policy(problem, learned, start)[2])(starts)
        gained = teachers.cost.mean() - cost.mean()
        kl_limit = adapted_limit(state.kl_limit, -teachers.cost_change.mean(), gained)
        return replace(learned, kl_limit=kl_limit), {
            "policy_loss": loss,
            "policy_cost": cost.mean(),
            "teacher_cost": teacher_cost,
            "kl": teachers.kl.mean() / self.horizon,
            "agreement": self.disagreement(learned, lessons),
            "kl_limit": state.kl_limit,
            "eta": jnp.exp(jnp.log(teachers.eta).mean()),
            "action_std": jnp.exp(learned.policy.log_std).mean(),
            "updates": jnp.int32(self.gradient_steps),
        }

    def draw_starts(self, model: Model, observations: Any, key: Array) -> Array:
        """States [teacher, n] of the model at observations [time, env, ...].

        Half of them are those with which the copies began, an episode where `rollout_length` is as
        long as one; the others are drawn among all, so that the policy is taught where it goes.
        """
        key_rows, key_begin = jax.random.split(key)
        time, env = jax.tree.leaves(observations)[0].shape[:2]
        first = jnp.arange(self.teachers // 2) % env
        drawn = jax.random.randint(key_rows, (self.teachers - len(first),), 0, time * env)
        rows = jnp.concatenate([first, drawn])  # of [time * env]
        starts = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[rows][:, None], observations)
        return model.begin(starts, (), key_begin)[:, 0]

    def improve_trajectory(
        self, problem: ModelProblem, state: GuidedPolicyState, start: Array
    ) -> Teachers:
        """The teacher from one start [n]: iLQR around the policy's path, bounded by its noise."""
        states, controls, cost = self.follow_policy(problem, state, start)
        mean = partial(self.mean_control, problem, state)
        variance = jnp.exp(2 * state.policy.log_std)
        policy = GaussianController(
            jax.vmap(jax.jacfwd(mean))(states[:-1]),
            jax.vmap(mean)(states[:-1]) - controls,
            jnp.tile(jnp.diag(variance), (len(controls), 1, 1)),
        )
        expansion = convexify(expand_problem(problem, states, controls, second_order=False))
        result = kl_lqr(expansion, policy, state.kl_limit * len(controls))
        return Teachers(
            result.controller, states, controls, cost, result.cost_change, result.kl, result.eta
        )

    def follow_policy(
        self, problem: ModelProblem, state: GuidedPolicyState, start: Array
    ) -> tuple[Array, Array, Array]:
        """The path of the policy without noise: states [T + 1, n], controls [T, m], cost []."""

        def step(x, time):
            u = jnp.clip(self.mean_control(problem, state, x), -INSIDE, INSIDE)
            return problem.dynamics(x, u), (x, u, problem.cost(x, u, time))

        last, (states, controls, costs) = jax.lax.scan(step, start, jnp.arange(self.horizon))
        return jnp.vstack([states, last]), controls, costs.sum()

    def mean_control(self, problem: ModelProblem, state: GuidedPolicyState, x: Array) -> Array:
        """The policy's mean control [m] in a state [n] of the model."""
        observation = jax.tree.map(lambda x: x[0, 0], problem.model.observe(x[None, None]))
        return state.policy(self.normalized(state, observation)).mode().ravel()

    def play_teachers(
        self, problem: ModelProblem, teachers: Teachers, key: Array
    ) -> tuple[Lessons, Array]:
        """Play each teacher `samples` times on the model: lessons, and the mean cost of a path."""

        def play(teacher, key):
            def step(x, inputs):
                nominal, u, controller, noise, time = inputs
                mean = u + controller.k + controller.K @ (x - nominal)
                mean = jnp.clip(mean, problem.low, problem.high)
                action = mean + jnp.linalg.cholesky(controller.covariance) @ noise
                action = jnp.clip(action, problem.low, problem.high)
                cost = problem.cost(x, action, time)
                return problem.dynamics(x, action), (x, mean, controller.covariance, cost)

            inputs = (
                teacher.states[:-1],
                teacher.controls,
                teacher.controller,
                jax.random.normal(key, teacher.controls.shape),
                jnp.arange(self.horizon),
            )
            states, means, covariances, costs = jax.lax.scan(step, teacher.states[0], inputs)[1]
            is_finite = jnp.isfinite(costs.sum() + means.sum())
            weight = jnp.broadcast_to(is_finite.astype(float), costs.shape)
            cost = jnp.where(is_finite, costs.sum(), 0)
            lessons = Lessons(states, means, covariances, weight)
            return jax.tree.map(lambda x: x[: self.taught_steps], lessons), cost

        keys = jax.random.split(key, (len(teachers.cost), self.samples))
        played, cost = jax.vmap(jax.vmap(play, (None, 0)))(teachers, keys)
        lessons = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), played)
        return lessons, cost.sum() / jnp.maximum(1, played.weight[..., 0].sum())

    def fit_policy(
        self, state: GuidedPolicyState, lessons: Lessons, key: Array
    ) -> tuple[GuidedPolicyState, Array]:
        """Regress the mean to the teachers', and set the variance to theirs; return the loss too.

            ½ E[Δμᵀ W Δμ],   W = Σₚ⁻¹ of each lesson, relative to the mean

        Both minimize KL(π ‖ p), the second by σᵢ⁻² = E[(Σₚ⁻¹)ᵢᵢ]. The variance of teachers counts
        as at least `min_std`².
        """
        floor = self.min_std**2 * jnp.eye(lessons.control.shape[-1])
        precision = lessons.weight[:, None, None] * jnp.linalg.inv(lessons.covariance + floor)
        mean_precision = jnp.diagonal(precision.mean(0)) / jnp.maximum(1e-6, lessons.weight.mean())
        weights = precision / jnp.maximum(1e-6, mean_precision.mean())

        def loss(policy, rows):
            observation = state_observation(state.model, lessons.state[rows])
            mean = policy(self.normalized(state, observation)).mode()
            error = mean.reshape(self.batch_size, -1) - lessons.control[rows]
            return jnp.einsum("bi,bij,bj->b", error, weights[rows], error).mean() / 2

        def step(carry, key):
            policy, opt_state = carry
            rows = jax.random.randint(key, (self.batch_size,), 0, len(lessons.weight))
            value, gradient = jax.value_and_grad(loss)(policy, rows)
            updates, opt_state = self.optimizer().update(gradient, opt_state)
            return (optax.apply_updates(policy, updates), opt_state), value

        keys = jax.random.split(key, self.gradient_steps)
        (policy, opt_state), losses = jax.lax.scan(step, (state.policy, state.opt_state), keys)
        std = jnp.maximum(mean_precision, 1e-6) ** -0.5
        log_std = jnp.log(jnp.maximum(std, self.min_std))
        return (
            replace(state, policy=replace(policy, log_std=log_std), opt_state=opt_state),
            losses.mean(),
        )

    def disagreement(self, state: GuidedPolicyState, lessons: Lessons) -> Array:
        """The mean KL(p ‖ π) of the teachers from the policy that they taught, nats per step."""
        observation = state_observation(state.model, lessons.state)
        mean = state.policy(self.normalized(state, observation)).mode()
        error = mean.reshape(len(lessons.weight), -1) - lessons.control
        covariance = jnp.diag(jnp.exp(2 * state.policy.log_std))
        second_moment = error[:, :, None] * error[:, None, :]
        kl = jax.vmap(gaussian_kl, (0, None, 0))(lessons.covariance, covariance, second_moment)
        return jnp.where(lessons.weight > 0, kl, 0).sum() / jnp.maximum(1, lessons.weight.sum())

    def add_observations(self, state: GuidedPolicyState, observations: Any) -> GuidedPolicyState:
        """The state with observations [time, env, ...] in the statistics of the policy's input."""
        statistics = running_statistics.update_observation_statistics(
            self.normalize_observation,
            state.observation_statistics,
            jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), observations),
        )
        return replace(state, observation_statistics=statistics)

    def normalized(self, state: GuidedPolicyState, observation: Any) -> Any:
        """The observation, normalized if the algorithm does so."""
        return running_statistics.normalize_leaves(
            self.normalize_observation, state.observation_statistics, observation
        )

    def optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)


def state_observation(model: Model, states: Array) -> Any:
    """What the policy observes of states of the model, [n, ...]."""
    return jax.tree.map(lambda x: x[:, 0], model.observe(states[:, None]))


def adapted_limit(kl_limit: Array, predicted: Array, actual: Array) -> Array:
    """ε of the next update, from the improvement of this one, predicted and actual.

        ε ← ε predicted / (2 (predicted - actual))

    It is the best step where the prediction errs by a multiple of ε². The factor and ε are bounded
    by FACTORS and LIMITS.
    """
    factor = predicted / (2 * jnp.maximum(1e-4, predicted - actual))
    factor = jnp.where(jnp.isfinite(factor), jnp.clip(factor, *FACTORS), FACTORS[0])
    return jnp.clip(kl_limit * factor, *LIMITS)


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "guided-policy-search": (
        GuidedPolicySearch,
        "guided policy search: a policy supervised by iLQR on the true model: a bounded Box",
    )
}
