"""What planning and imagination ask of a model that is fitted to data, whatever it is made of.

    Ensemble       networks that differ by what they saw, or by their start
    Variational    one network with random weights
    Physics        known equations, whose constants are found

`init`, `fit`, then `planning_model`, a `Model` for planners, or `predict`, which tells what is
noise and what the model does not know.
"""

from typing import Any, Protocol

from etude.models.known_functions import KnownFunctions
from etude.models.model_rows import ModelRows
from etude.planning.protocol import Model
from etude.spaces import EnvironmentSpec
from etude.struct import struct
from etude.types import Array, Metrics


@struct
class Prediction:
    """The distribution of s' and r after (s, a), columns [..., observation + 1], the reward last.

    Its variance is aleatoric + epistemic, by the law of total variance.
    """

    mean: Array
    aleatoric: Array  # the noise that the model expects: the mean of its members' variances
    epistemic: Array  # what the model does not know: the variance of its members' means
    member_means: Array  # [member, ..., column]
    member_variances: Array  # [member, ..., column]


class DynamicsModel(Protocol):
    """A kind of model with its settings; its state is an argument, as that of an algorithm is."""

    def init(self, key: Array, spec: EnvironmentSpec, known: KnownFunctions) -> Any:
        """The state before the first fit."""
        ...

    def fit(self, state: Any, rows: ModelRows, key: Array) -> tuple[Any, Metrics]:
        """The state fitted to rows, some of which are held out, and metrics."""
        ...

    def planning_model(self, state: Any, key: Array, propagation: str, ends: bool = True) -> Model:
        """The model to plan on; `key` draws what is drawn once for a plan.

        Without `ends` no episode of it ends.
        """
        ...

    def predict(self, state: Any, observation: Array, action: Array, key: Array) -> Prediction:
        """One step ahead, from vectors [row, observation] and [row, action]."""
        ...

    def held_out_rows(self, state: Any, rows: ModelRows) -> Array:
        """The rows that the model is never trained on, bool [row]."""
        ...
