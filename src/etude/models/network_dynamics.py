"""Dynamics models made of networks: what ensembles and networks with random weights share.

    x = standardized (s, a),    y = standardized (s' − s, r),    p(y | x) = N(μ(x), σ²(x))

The end of episodes is learned by a classifier beside it (`episode_end`).
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from etude.estimators.calibration import mixture_moments
from etude.models import model_rows
from etude.models.dynamics_model import Prediction
from etude.models.episode_end import GRADIENT_STEPS, EpisodeEnd, fit_episode_end, init_episode_end
from etude.models.fitting import fit_until_no_gain
from etude.models.gaussian_network import Gaussian, GaussianNetwork, regression_loss
from etude.models.known_functions import KnownFunctions
from etude.models.learned_model import LearnedModel, Propagation, step_vector
from etude.models.model_rows import ModelRows
from etude.models.standardization import Standardization, no_standardization, standardization_of
from etude.nn.networks import Activation
from etude.spaces import EnvironmentSpec
from etude.struct import replace, static, struct, traced
from etude.types import Array, Metrics

MOST_HELD_OUT = 5_000  # rows (Janner et al., 2019)


@struct
class NetworkFields:
    """The hyperparameters of networks that are fitted to steps."""

    hidden: tuple[int, ...] = static((128, 128, 128), at_least=1)
    """Units of each hidden layer."""
    activation: Activation = static("silu")
    """Activation function of the hidden layers."""
    learning_rate: float = traced(1e-3, above=0)
    """Step size of AdamW."""
    batch_size: int = static(256, at_least=1)
    """Rows in a gradient step of each member."""
    gradient_steps: int = static(2_000, at_least=1)
    """Gradient steps of a fit at most; it ends earlier where no member gains by more."""
    patience: int = static(5, at_least=1)
    """Passes through the rows without a gain on those held out, after which a fit ends (5: Janner
    et al., 2019). A gain is a hundredth of the error."""
    held_out: float = traced(0.2, at_least=0, at_most=0.9)
    """Share of the rows that is never trained on, of at most 5,000 rows (0.2: Janner et al.,
    2019)."""


class NetworkKind(Protocol):
    """What a kind of network adds: weights, their loss, and the members that it stands for."""

    @property
    def learning_rate(self) -> Any: ...

    @property
    def weight_decay(self) -> Any: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def gradient_steps(self) -> int: ...

    @property
    def patience(self) -> int: ...

    @property
    def held_out(self) -> Any: ...

    def make_weights(self, key: Array, inputs: int, targets: int) -> Any: ...

    def row_weights(self, key: Array, rows: ModelRows, in_training: Array) -> Array:
        """How often each member counts each row, [member, row]; 0 for those not in training."""
        ...

    def loss(self, weights: Any, x: Array, y: Array, key: Array, num_rows: Array) -> Array:
        """The loss [] of batches [member, batch, ...], summed over members."""
        ...

    def central_members(self, weights: Any) -> GaussianNetwork:
        """The members, [member, ...], without chance: for the error on rows held out."""
        ...

    def draw_members(self, weights: Any, errors: Array, key: Array) -> GaussianNetwork:
        """The members that plan, [member, ...]; `errors` [member] are those on rows held out."""
        ...


@struct
class NetworkDynamics:
    """The state of a model of networks."""

    weights: Any
    opt_state: Any
    errors: Array  # [member]: mean squared error on rows that are held out, standardized
    inputs: Standardization  # of (s, a)
    targets: Standardization  # of (s' − s, r)
    end: EpisodeEnd
    # data of the key of the hashes that say which rows are held out, and which a member counts
    salt: Array
    num_rows: Array  # int32 []: those of the last fit, held out or not; 0 before the first
    spec: EnvironmentSpec = static()
    known: KnownFunctions = static()

    @property
    def is_fitted(self) -> Array:
        """Whether there was a fit, bool []."""
        return self.num_rows > 0


def init_dynamics(
    kind: NetworkKind, key: Array, spec: EnvironmentSpec, known: KnownFunctions
) -> NetworkDynamics:
    """The state before the first fit."""
    key_weights, key_end, salt = jax.random.split(key, 3)
    size, action_size = model_rows.vector_sizes(spec)
    inputs, targets = size + action_size, size + 1
    weights = kind.make_weights(key_weights, inputs, targets)
    return NetworkDynamics(
        weights,
        model_optimizer(kind).init(weights),
        jnp.zeros(len(kind.central_members(weights).bounds.high)),
        no_standardization(inputs),
        no_standardization(targets),
        init_episode_end(key_end, inputs + size),
        jax.random.key_data(salt),
        jnp.int32(0),
        replace(spec, num_envs=1),
        known,
    )


def fit_dynamics(
    kind: NetworkKind, state: NetworkDynamics, rows: ModelRows, key: Array
) -> tuple[NetworkDynamics, Metrics]:
    """The state fitted to rows; weights go on from where they were."""
    key_fit, key_end = jax.random.split(key)
    salt = jax.random.wrap_key_data(state.salt)
    held_out = held_out_rows(kind, state, rows)
    in_training = rows.is_valid & ~held_out
    x, y = input_vectors(rows), target_vectors(rows)
    inputs = standardization_of(x, in_training)
    targets = standardization_of(y, in_training, of_targets=True)
    x, y = inputs.forward(x), targets.forward(y)
    num_rows = in_training.sum()

    def loss(weights, batch, key):
        return kind.loss(weights, x[batch], y[batch], key, num_rows)

    def judge(weights, measured):
        members = kind.central_members(weights)
        return held_out_losses(members, x[measured], y[measured])

    weights, opt_state, metrics = fit_until_no_gain(
        state.weights,
        state.opt_state,
        model_optimizer(kind),
        loss,
        judge,
        kind.row_weights(salt, rows, in_training),
        held_out,
        key_fit,
        batch_size=kind.batch_size,
        most_steps=kind.gradient_steps,
        patience=kind.patience,
    )
    steps = step_vector(inputs, rows.observation, rows.action, rows.next_observation)
    end = fit_episode_end(
        state.end,
        steps,
        rows.terminated,
        rows.is_valid,
        key_end,
        min(GRADIENT_STEPS, kind.gradient_steps),
    )
    member_errors = metrics.pop("member_mse")
    state = replace(
        state,
        weights=weights,
        opt_state=opt_state,
        errors=member_errors,
        inputs=inputs,
        targets=targets,
        end=end,
        num_rows=rows.is_valid.sum(),
    )
    return state, metrics


def held_out_rows(kind: NetworkKind, state: NetworkDynamics, rows: ModelRows) -> Array:
    """The rows that the model is never trained on, bool [row]."""
    salt = jax.random.wrap_key_data(state.salt)
    return model_rows.is_held_out(salt, rows, kind.held_out, MOST_HELD_OUT)


def planning_model(
    kind: NetworkKind,
    state: NetworkDynamics,
    key: Array,
    propagation: Propagation,
    ends: bool = True,
) -> LearnedModel:
    """The model to plan on, of the members that the kind draws; without `ends` no episode ends."""
    return LearnedModel(
        kind.draw_members(state.weights, state.errors, key),
        state.inputs,
        state.targets,
        state.end,
        state.spec,
        state.known,
        propagation,
        ends,
    )


def predict(
    kind: NetworkKind, state: NetworkDynamics, observation: Array, action: Array, key: Array
) -> Prediction:
    """The distribution of (s', r) after vectors (s, a) [row, ...], in their units."""
    members = kind.draw_members(state.weights, state.errors, key)
    x = state.inputs.forward(jnp.concatenate([observation, action], -1))
    normal = predict_each(members, x)
    before = jnp.concatenate([observation, jnp.zeros((len(observation), 1))], -1)
    means = before + state.targets.backward(normal.mean)
    variances = normal.variance * state.targets.std**2
    mean, aleatoric, epistemic = mixture_moments(means, variances)
    return Prediction(mean, aleatoric, epistemic, means, variances)


def predict_each(members: GaussianNetwork, x: Array) -> Gaussian:
    """What each member predicts of standardized rows [row, in]: [member, row, target]."""
    return jax.vmap(lambda member: member(x))(members)


def held_out_losses(members: GaussianNetwork, x: Array, y: Array) -> tuple[Array, Array]:
    """(nats for each target, mean squared error) of each member [member], on standardized rows.

    Without noise the likelihood is that of the variance that fits best, but for a constant: ½ log
    of the error.
    """
    predicted = predict_each(members, x)
    error = ((predicted.mean - y) ** 2).mean((1, 2))
    if not members.has_noise:
        return 0.5 * jnp.log(error), error
    return regression_loss(predicted, y, has_noise=True).mean(-1) / y.shape[-1], error


def input_vectors(rows: ModelRows) -> Array:
    """(s, a), [row, column]."""
    return jnp.concatenate([rows.observation, rows.action], -1)


def target_vectors(rows: ModelRows) -> Array:
    """(s' − s, r), [row, column]."""
    return jnp.concatenate([rows.next_observation - rows.observation, rows.reward[:, None]], -1)


def model_optimizer(kind: NetworkKind) -> optax.GradientTransformation:
    """AdamW; biases and bounds do not decay."""
    return optax.adamw(
        kind.learning_rate,
        weight_decay=kind.weight_decay,
        mask=lambda weights: jax.tree_util.tree_map_with_path(is_weight, weights),
    )


def is_weight(path: Any, x: Array) -> bool:
    """Whether an array is the matrix of a layer."""
    return jax.tree_util.keystr(path[-1:]).endswith("weight")
