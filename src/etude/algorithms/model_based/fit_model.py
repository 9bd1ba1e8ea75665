"""Fitting a model to a dataset: it does not act, and is judged by its error k steps ahead."""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.protocol import Component, Outside, algorithm
from etude.data.dataset import Dataset
from etude.estimators.calibration import (
    calibration_error,
    coverage,
    mixture_crps,
    mixture_nll,
    mixture_pit,
)
from etude.models.ensemble import Ensemble
from etude.models.known_functions import KnownFunctions, known_functions
from etude.models.model_rows import draw_rows, rows_of_dataset
from etude.models.physics import Physics
from etude.models.prediction_error import prediction_errors
from etude.models.variational import Variational
from etude.spaces import EnvironmentSpec
from etude.struct import nested, replace, static, struct
from etude.types import Array, Metrics

AnyDynamics = Ensemble | Variational | Physics
STEPS_AHEAD = (1, 5, 10, 20)  # of the errors by which a fitted model is judged
JUDGED_ROWS = 2_000  # on which it is judged how sure a model is


@struct
class ModelFields:
    """The hyperparameters of algorithms that learn a model."""

    model: AnyDynamics = nested(Ensemble())
    """Model of the dynamics, which is fitted to steps."""
    reward: Literal["learned", "known"] = static("learned")
    """Whether the model learns the reward and the end of episodes too, or takes the functions that
    etude or `etude.register_reward` has for the environment; what these leave out is learned."""
    ends: bool = static(True)
    """Whether an episode can end other than by a time limit; if not, no end is learned."""

    def known_functions(self, spec: EnvironmentSpec) -> KnownFunctions:
        """What the model is told of the environment's steps.

        Raises InvalidInput where nothing is known that is asked for.
        """
        return known_functions(spec.id) if self.reward == "known" else KnownFunctions()


def get_model(state: Any) -> Any:
    """The state of the dynamics model of an algorithm's state."""
    return state.model


def put_model(state: Any, part: Any) -> Any:
    """An algorithm's state with another model, on which it plans from the start."""
    return replace(state, model=part)


MODEL = Component(get_model, put_model, settings=("model", "reward", "ends"))
ASSUMPTIONS = Assumptions(("bounded Box", "Discrete"), vector_observations=True)


@struct
class FitModelState:
    """The model that is fitted."""

    model: Any  # the state of the algorithm's dynamics model


@algorithm
class FitModel(ModelFields):
    """Fit a model of the dynamics to a dataset; `pets` can plan on it with --initial model=RUN."""

    plays: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("dataset",)
    rollout_length: ClassVar[int] = 0
    assumes: ClassVar[Assumptions] = ASSUMPTIONS
    components: ClassVar[dict[str, Component]] = {"model": MODEL}

    def steps_per_update(self, num_envs: int) -> int:
        """Gradient steps of a fit at most, each of which is a step of the budget."""
        return self.model.gradient_steps

    def init(self, key: Array, spec: EnvironmentSpec, outside: Outside) -> FitModelState:
        """The model before its first fit."""
        return FitModelState(self.model.init(key, spec, self.known_functions(spec)))

    def update(
        self, state: FitModelState, experience: tuple[()], key: Array, outside: Outside
    ) -> tuple[FitModelState, Metrics]:
        """Fit the model to the dataset; a second fit goes on from the first."""
        model, metrics = self.model.fit(state.model, rows_of_dataset(read(outside)), key)
        return FitModelState(model), metrics

    def evaluate(self, state: FitModelState, outside: Outside, key: Array) -> Metrics:
        """The error k steps ahead, by the mean of all members, and how sure one step rightly is.

        Of one step ahead are the negative log likelihood of (s', r), in units of their spread, the
        share of them in the interval that should hold 90 %, the calibration error and the CRPS, on
        rows that were held out.
        """
        key_error, key_model, key_predict = jax.random.split(key, 3)
        dataset = read(outside)
        model = self.model.planning_model(state.model, key_model, "mean", ends=False)
        metrics = prediction_errors(model, dataset, key_error, STEPS_AHEAD)
        return metrics | self.uncertainty(state, dataset, key_predict)

    def uncertainty(self, state: FitModelState, dataset: Dataset, key: Array) -> Metrics:
        """How sure the model is of one step ahead; nothing of one that predicts no noise."""
        if not self.model.has_noise:
            return {}
        rows = rows_of_dataset(dataset)
        key_rows, key_predict = jax.random.split(key)
        # a model is too sure of the rows that it was trained on
        held_out = self.model.held_out_rows(state.model, rows)
        judged = jnp.where(held_out.any(), held_out, rows.is_valid)
        judged_rows = draw_rows(key_rows, judged, (JUDGED_ROWS,))
        rows = jax.tree.map(lambda x: x[judged_rows], rows)
        predicted = self.model.predict(state.model, rows.observation, rows.action, key_predict)
        target = jnp.concatenate([rows.next_observation, rows.reward[:, None]], -1)
        spread = jnp.maximum(target.std(0), 1e-8)
        scaled = target / spread
        means, variances = predicted.member_means / spread, predicted.member_variances / spread**2
        pit = mixture_pit(scaled, means, variances)
        return {
            "nll": mixture_nll(scaled, means, variances).mean(),
            "coverage_90": coverage(pit, 0.9).mean(),
            "calibration_error": calibration_error(pit).mean(),
            "crps": mixture_crps(scaled, means, variances).mean(),
        }


def read(outside: Outside) -> Dataset:
    """The dataset that a run is given."""
    assert outside.dataset is not None  # as `needs` asks for
    return outside.dataset


# Name on the command line: (constructor, description).
ALGORITHMS = {
    "fit-model": (FitModel, "a model of the dynamics, fitted to a dataset; pets plans on it")
}
