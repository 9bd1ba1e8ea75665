"""The hyperparameters that the algorithms which clone an expert have in common.

    CloningFields             the network, its head and its optimizer
    └─ RecurrentFields        and a recurrent cell: BC, DAgger
       └─ GoalFields          and goals: GCBC, GCSL

An algorithm adds its own. Where another default suits it, it declares a field again; the
description stays.
"""

import math
from typing import ClassVar

from etude.algorithms.assumptions import Assumptions
from etude.algorithms.common import on_policy
from etude.algorithms.imitation.cloning import AnyHead
from etude.algorithms.imitation.goal_cloning import GOAL_POLICY
from etude.algorithms.imitation.heads.direct import Direct
from etude.algorithms.protocol import Component
from etude.estimators.running_statistics import Normalization
from etude.nn.custom_torso import TorsoMaker
from etude.nn.networks import Activation
from etude.nn.recurrent import GRU, LSTM
from etude.spaces import Space
from etude.struct import code, nested, static, struct, traced


@struct
class CloningFields:
    """What is predicted from a state, by which network, and how that is fitted."""

    learning_rate: float = traced(1e-3, above=0)
    """Step size of Adam."""
    learning_rate_decay: float = traced(math.inf, above=0)
    """Gradient steps over which the learning rate falls linearly to zero; inf: constant."""
    weight_decay: float = traced(0.0, at_least=0)
    """Each gradient step multiplies the weight matrices by 1 - learning_rate × weight_decay, but
    neither biases nor standard deviations (AdamW)."""
    max_gradient_norm: float = traced(math.inf, above=0)
    """Largest global norm of the gradient; larger gradients are scaled down to it; inf: no clip."""
    head: AnyHead = nested(Direct())
    """What is predicted from the features of a state, and by which loss."""
    hidden: tuple[int, ...] = static((256, 256), at_least=1)
    """Units of each hidden layer."""
    activation: Activation = static("relu")
    """Activation function of the hidden layers."""
    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it; see `etude.TorsoMaker`."""
    normalize_observation: Normalization | None = nested(Normalization())
    """Whether the input of the policy, goals included, is normalized to mean 0 and std 1 by the
    statistics of what it learns from; images are not."""
    batch_size: int = static(256, at_least=1)
    """Steps of episodes in a gradient step."""
    gradient_steps: int = static(100, at_least=1)
    """Gradient steps per update."""

    state_noise: ClassVar[bool] = False  # which a run of PPO with the same policy must have

    def is_deterministic(self, action_space: Space) -> bool:
        """Return whether evaluations draw nothing; a head that has several modes draws one."""
        return self.head.is_deterministic


@struct
class RecurrentFields(CloningFields):
    """The fields of those that read what an episode showed before."""

    recurrent: GRU | LSTM | None = nested(None)
    """Recurrent cell before the hidden layers. A sequence that begins in the middle of an episode
    begins with what the cell remembers of it."""
    sequence_length: int = static(16, at_least=1)
    """Steps of backpropagation through time, which is truncated there, a divisor of batch_size; no
    effect with recurrent "none"."""


@struct
class GoalFields(RecurrentFields):
    """The fields of those whose policy is told a goal.

    The recurrent cell never sees the goal, which enters after it, as do the remaining steps.
    """

    torso: TorsoMaker | None = code()
    """Function that makes a network of one's own, in place of the hidden layers: hidden and
    activation have no effect with it, but where the policy is recurrent: the network then precedes
    the cell, and the hidden layers follow the goal; see `etude.TorsoMaker`."""
    goal: tuple[str, ...] = static(())
    """Names of the entries of a Dict observation, or indices of the elements of a vector, that are
    the goal; none: the desired goal, where the environment shows one, else a whole observation."""
    horizon: int = static(0, at_least=0)
    """Steps of the longest episode, of which the policy is then told how many remain to achieve the
    goal; 0: it is not told."""

    # what `cloning` reads and is no choice here
    chunk: ClassVar[int] = 1
    ema: ClassVar[None] = None
    components: ClassVar[dict[str, Component]] = {"policy": GOAL_POLICY}

    @property
    def assumes(self) -> Assumptions:
        """Goals have a distance; the policy keeps to action masks, and may remember."""
        return on_policy.observation_assumptions(self)._replace(distances=True, goal=self.goal)
