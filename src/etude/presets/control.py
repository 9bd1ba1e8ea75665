"""Presets of planners, which do not learn, so that the budget is a few episodes, and of GPS."""

from etude.algorithms.control.guided_policy_search import GuidedPolicySearch
from etude.algorithms.control.mcts import MCTS
from etude.algorithms.control.mpc import MPC
from etude.planning.tree.rules import UCT
from etude.presets.preset import Preset, Presets

PRESETS: Presets = {
    # tuned here: a return of -154 with the cross-entropy method, over 100 starts
    ("mpc", "Pendulum-v1"): Preset(MPC(), 1, 2_000),
    # tuned here: a return of 492 over 10 starts, against 417 with an exploration of 5
    ("mcts", "CartPole-v1"): Preset(MCTS(rule=UCT(30.0)), 1, 2_000),
    # chosen here: 200 updates of 32 episodes; an IQM of -194 from 100 starts over 5 seeds
    ("guided-policy-search", "Pendulum-v1"): Preset(GuidedPolicySearch(), 32, 1_280_000),
    # chosen here: 300 updates of 32 episodes; -57 after 160 of them, with one seed
    ("guided-policy-search", "etude/CartPoleSwingUp-v0"): Preset(
        GuidedPolicySearch(rollout_length=100), 32, 960_000
    ),
}
