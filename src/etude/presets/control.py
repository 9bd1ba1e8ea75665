"""Presets of planners, which do not learn: the budget is a few episodes."""

from etude.algorithms.control.mcts import MCTS
from etude.algorithms.control.mpc import MPC
from etude.planning.tree.rules import UCT
from etude.presets.preset import Preset, Presets

PRESETS: Presets = {
    # tuned here: a return of -154 with the cross-entropy method, over 100 starts
    ("mpc", "Pendulum-v1"): Preset(MPC(), 1, 2_000),
    # tuned here: a return of 492 over 10 starts, against 417 with an exploration of 5
    ("mcts", "CartPole-v1"): Preset(MCTS(rule=UCT(30.0)), 1, 2_000),
}
