"""System identification: known equations of motion, whose constants are fitted to steps.

    ŝ' = f(s, a; c)
    ĉ  = argmin over c > 0   n/2 Σ_d log(1/n Σ_rows (s'_d − ŝ'_d)²) + ½ Σᵢ (log cᵢ − log c⁰ᵢ)² / τ²

The first term is the likelihood of n steps under normal noise, whose spread σ_d in each column is
found with the constants; the second says that the guess c⁰ is right within a factor of about e^τ.
The search takes damped Gauss–Newton steps in log c (Levenberg, 1944; Marquardt, 1963) from several
starts. Around the optimum log c is nearly normal, with the covariance (Jᵀ σ⁻² J + τ⁻²)⁻¹ (Laplace's
method). Some constants only the motion of a product tells, as g/l and m l² of a pendulum: along
other directions log c keeps the spread τ.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from etude.errors import InvalidInput
from etude.estimators.calibration import mixture_moments
from etude.models.dynamics_model import Prediction
from etude.models.known_functions import KnownFunctions
from etude.models.learned_model import Propagation, check_particles
from etude.models.model_rows import ModelRows
from etude.models.standardization import standardization_of
from etude.models.structures import Structure, structure_for
from etude.planning.protocol import ModelStep
from etude.spaces import Discrete, EnvironmentSpec
from etude.struct import replace, static, struct, traced
from etude.types import Array, Metrics

MOST_ROWS = 2_000  # that a fit reads, drawn anew for each
ITERATIONS = 50  # of Gauss–Newton
FIRST_DAMPING, EASE, TIGHTEN = 1e-2, 0.3, 4.0  # the damping, and its factor after a step or none
RELATIVE_ROUNDING = 1e-6  # of a column's spread: residuals are never known to be smaller


@struct
class FittedPhysics:
    """The constants that were found, and how well."""

    log_constants: Array  # [constant]
    root: Array  # [constant, constant]: root rootᵀ is the covariance of log_constants
    noise: Array  # [column]: standard deviation of the residuals of (s', r)
    num_rows: Array  # int32 []: those of the last fit; 0 before the first
    spec: EnvironmentSpec = static()
    known: KnownFunctions = static()

    @property
    def is_fitted(self) -> Array:
        """Whether there was a fit, bool []."""
        return self.num_rows > 0

    @property
    def covariance(self) -> Array:
        """The covariance of log c, [constant, constant]."""
        return self.root @ self.root.T


@struct
class Physics:
    """The equations of motion of an environment, with constants that are fitted to its steps."""

    structure: str = static("")
    """Name of the equations: the id of an environment, or of `etude.register_structure`; by default
    those of the environment itself."""
    guess_spread: float = traced(1.0, above=0)
    """Standard deviation of the natural logarithm of each constant around the guess that the
    structure is given with: 1 means within a factor of about 3."""
    starts: int = static(8, at_least=1)
    """Starts of the search for the constants, drawn around the guess."""
    draws: int = static(5, at_least=1)
    """Sets of constants that are drawn to plan or to predict; each stands for a member of an
    ensemble."""

    has_noise = True  # its residuals tell the noise
    gradient_steps = ITERATIONS  # of a fit

    @property
    def num_members(self) -> int:
        """Members that predict."""
        return self.draws

    def init(self, key: Array, spec: EnvironmentSpec, known: KnownFunctions) -> FittedPhysics:
        """The guess, before the first fit.

        Raises InvalidInput where there are no such equations, or their spaces are not those of the
        environment.
        """
        structure = structure_for(self.structure, spec.id)
        for name in ("observation", "action"):
            there, here = getattr(structure.port, f"{name}_space"), getattr(spec, name)
            if there != here:
                raise InvalidInput(
                    f"the equations of {self.structure or spec.id!r} have the {name} space "
                    f"{there}, and {spec.id!r} has {here}; give --model.structure the equations of "
                    "this environment"
                )
        spread = self.guess_spread * jnp.ones(len(structure.constants))
        columns = spec.observation.shape[0] + 1
        return FittedPhysics(
            jnp.log(structure.guess),
            jnp.diag(spread),
            jnp.zeros(columns),
            jnp.int32(0),
            replace(spec, num_envs=1),
            known,
        )

    def fit(
        self, state: FittedPhysics, rows: ModelRows, key: Array
    ) -> tuple[FittedPhysics, Metrics]:
        """The constants of the greatest posterior density.

        The metrics tell each constant; `undetermined` counts the directions of log c that keep half
        of the guess's spread or more.
        """
        structure = self.structure_of(state)
        key_rows, key_starts = jax.random.split(key)
        read = some_rows(key_rows, rows)
        guess = jnp.log(structure.guess)
        shape = (self.starts, len(guess))
        starts = guess + self.guess_spread * jax.random.normal(key_starts, shape)
        starts = starts.at[0].set(jnp.where(state.is_fitted, state.log_constants, starts[0]))
        spread = standardization_of(read.next_observation, read.is_valid).std

        def residuals(log_constants):
            """(s' − ŝ') of each row in units of the column's spread, [row, column]."""
            predicted, _ = self.predict_rows(structure, state, log_constants, read)
            error = (read.next_observation - predicted) / spread
            return jnp.where(read.is_valid[:, None], error, 0.0)

        def search(start):
            count = read.is_valid.sum()
            return find_constants(residuals, count, guess, self.guess_spread, start)

        found, roots, losses = jax.vmap(search)(starts)
        best = jnp.nanargmin(losses)
        log_constants, root = found[best], roots[best]
        predicted, reward = self.predict_rows(structure, state, log_constants, read)
        error = jnp.concatenate([read.next_observation, read.reward[:, None]], -1)
        error -= jnp.concatenate([predicted, reward[:, None]], -1)
        noise = jnp.sqrt(jnp.mean(error**2, 0, where=read.is_valid[:, None]))
        is_undetermined = jnp.linalg.svdvals(root) > self.guess_spread / 2
        metrics = {
            f"constant_{n}": jnp.exp(x)
            for n, x in zip(structure.constants, log_constants, strict=True)
        }
        return replace(
            state, log_constants=log_constants, root=root, noise=noise, num_rows=rows.is_valid.sum()
        ), {
            **metrics,
            "undetermined": is_undetermined.sum(),
            "heldout_mse": ((noise[:-1] / spread) ** 2).mean(),
            "updates": jnp.int32(ITERATIONS),
            "diverged_fits": 1.0 * jnp.isnan(losses).all(),
        }

    def structure_of(self, state: FittedPhysics) -> Structure:
        """The equations of a state."""
        return structure_for(self.structure, state.spec.id)

    def predict_rows(
        self, structure: Structure, state: FittedPhysics, log_constants: Array, rows: ModelRows
    ) -> tuple[Array, Array]:
        """(ŝ' [row, column], r̂ [row]) by one set of constants."""
        model = PhysicsModel(log_constants[None], structure, state.spec, state.known, ends=False)
        before = model.begin(rows.observation[:, None], (), jax.random.key(0))
        action = action_of_vector(state.spec, rows.action)[:, None]
        step = model.step(before, action, jax.random.key(0))
        return model.observe(step.state)[:, 0], step.reward[:, 0]

    def held_out_rows(self, state: FittedPhysics, rows: ModelRows) -> Array:
        """None: a few constants cannot learn rows by heart; bool [row]."""
        return jnp.zeros_like(rows.is_valid)

    def draw_constants(self, state: FittedPhysics, key: Array) -> Array:
        """Sets of log c drawn from what the steps leave open, [member, constant]."""
        normal = jax.random.normal(key, (self.draws, len(state.log_constants)))
        return state.log_constants + normal @ state.root.T

    def planning_model(
        self, state: FittedPhysics, key: Array, propagation: Propagation, ends: bool = True
    ) -> "PhysicsModel":
        """The model to plan on; its mean is the motion under the constants that were found."""
        is_mean = propagation == "mean"
        drawn = state.log_constants[None] if is_mean else self.draw_constants(state, key)
        return PhysicsModel(
            drawn, self.structure_of(state), state.spec, state.known, propagation, ends
        )

    def predict(
        self, state: FittedPhysics, observation: Array, action: Array, key: Array
    ) -> Prediction:
        """The distribution of (s', r) after vectors (s, a) [row, ...], in their units."""
        structure, count = self.structure_of(state), len(observation)
        blank = jnp.zeros(count)
        rows = ModelRows(observation, action, blank, observation, blank, blank, blank)

        def predict_with(log_constants):
            predicted, reward = self.predict_rows(structure, state, log_constants, rows)
            return jnp.concatenate([predicted, reward[:, None]], -1)

        means = jax.vmap(predict_with)(self.draw_constants(state, key))
        variances = jnp.broadcast_to(state.noise**2, means.shape)
        return Prediction(*mixture_moments(means, variances), means, variances)


def some_rows(key: Array, rows: ModelRows) -> ModelRows:
    """At most MOST_ROWS rows, the valid ones first; which of these is drawn at random."""
    order = jnp.where(rows.is_valid, jax.random.uniform(key, rows.is_valid.shape), 2.0)
    drawn = jnp.argsort(order)[:MOST_ROWS]
    return jax.tree.map(lambda x: x[drawn], rows)


def action_of_vector(spec: EnvironmentSpec, vector: Array) -> Array:
    """The inverse of `model_rows.action_vector`, [..., *action]."""
    if isinstance(spec.action, Discrete):
        return vector.argmax(-1)
    return vector.reshape(*vector.shape[:-1], *spec.action.shape)


@struct
class Search:
    """A point of the search for constants, and how careful the next step is."""

    log_constants: Array  # [constant]
    loss: Array  # []
    damping: Array  # []


def find_constants(
    residuals: Any, count: Array, guess: Array, guess_spread: Array | float, start: Array
) -> tuple[Array, Array, Array]:
    """(log c, a root of its covariance, the loss) after a search from `start` [constant].

    Args:
        residuals: log c -> residuals [row, column], in units of each column's spread.
        count: of the rows that count; the residuals of all others are 0.
        guess: log c⁰, [constant].
        guess_spread: τ.
    """

    unit = jnp.eye(len(guess))

    def variances(errors):
        return (errors**2).sum(0) / count + RELATIVE_ROUNDING**2

    def loss_at(log_constants):
        likelihood = 0.5 * count * jnp.log(variances(residuals(log_constants))).sum()
        return likelihood + 0.5 * (((log_constants - guess) / guess_spread) ** 2).sum()

    def linearize(log_constants):
        """Residuals of the loss [row], those of the guess among them, and their slopes."""
        errors, slopes = residuals(log_constants), jax.jacfwd(residuals)(log_constants)
        std = jnp.sqrt(variances(errors))
        off = (log_constants - guess) / guess_spread
        return (
            jnp.concatenate([(errors / std).ravel(), off]),
            jnp.concatenate([(slopes / std[:, None]).reshape(-1, len(guess)), unit / guess_spread]),
        )

    def step(search, _):
        errors, slopes = linearize(search.log_constants)
        # the damping as further residuals; by QR, as squares lose half of the digits
        damper = jnp.sqrt(search.damping) * jnp.diag(jnp.linalg.norm(slopes, axis=0))
        q, r = jnp.linalg.qr(jnp.concatenate([slopes, damper]))
        change = solve_triangular(r, q[: len(errors)].T @ errors)
        tried = search.log_constants - change
        loss = loss_at(tried)
        is_better = loss < search.loss
        return Search(
            jnp.where(is_better, tried, search.log_constants),
            jnp.where(is_better, loss, search.loss),
            search.damping * jnp.where(is_better, EASE, TIGHTEN),
        ), None

    first = Search(start, loss_at(start), jnp.float32(FIRST_DAMPING))
    found, _ = jax.lax.scan(step, first, length=ITERATIONS)
    root = solve_triangular(jnp.linalg.qr(linearize(found.log_constants)[1])[1], unit)
    return found.log_constants, root, found.loss


@struct
class PhysicsModel:
    """Equations of motion as a `Model`: each particle keeps its constants for the whole plan.

    With the propagation "ts1" the particles take each other's at every step. The motion has no
    chance of its own: residuals count as noise of what was observed. The reward and the end are
    those of the structure where none are known. A plan on which a state is not finite has a reward
    of −∞.
    """

    log_constants: Array  # [member, constant]
    structure: Structure
    spec: EnvironmentSpec = static()
    known: KnownFunctions = static()
    propagation: Propagation = static("ts-infinity")
    ends: bool = static(True)

    def begin(self, observation: Any, memory: Any, key: Array) -> Array:
        return jax.vmap(jax.vmap(self.structure.state_from_observation))(observation)

    def observe(self, state: Array) -> Any:
        return jax.vmap(jax.vmap(self.structure.observe))(state)

    def legal(self, state: Array) -> Array:
        """Every action."""
        assert isinstance(self.spec.action, Discrete)
        return jnp.ones((*state.shape[:2], self.spec.action.n), bool)

    def step(self, state: Array, action: Array, key: Array) -> ModelStep:
        """Step states [particle, plan, n]; the particles are a multiple of the members."""
        check_particles(len(state), self.num_members)
        log_constants = jnp.repeat(self.log_constants, len(state) // self.num_members, 0)
        if self.propagation == "ts1":
            log_constants = jax.random.permutation(key, log_constants)
        of_plans = jax.vmap(self.structure.step, (None, 0, 0))
        successor, outcome = jax.vmap(of_plans)(jnp.exp(log_constants), state, action)
        is_finite = jnp.isfinite(successor).all(-1)
        successor = jnp.where(is_finite[..., None], successor, state)
        reward, terminated = outcome.reward, outcome.terminated
        step = self.observe(state), action, self.observe(successor)
        if self.known.reward is not None:
            reward = jax.vmap(jax.vmap(self.known.reward))(*step)
        if self.known.terminated is not None:
            terminated = jax.vmap(jax.vmap(self.known.terminated))(*step)
        continues = 1.0 - terminated if self.ends else jnp.ones(state.shape[:2])
        return ModelStep(successor, jnp.where(is_finite, reward, -jnp.inf), continues)

    def with_member(self, number: Array) -> "PhysicsModel":
        """The model with one set of constants alone, for a tree."""
        return replace(self, log_constants=self.log_constants[number][None])

    @property
    def num_members(self) -> int:
        """Sets of constants."""
        return len(self.log_constants)
