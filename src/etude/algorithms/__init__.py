"""The algorithms by name. A file may name one of these and nothing else: no name read from outside is ever imported.

A name is a class, or a setting of one: a `functools.partial` whose keywords are what the name stands for.
"""
import difflib
import importlib
from typing import Any

from etude.errors import InvalidInput

ALGORITHMS = {                              # name: (module, class or setting, the line that `etude algorithms` prints)
    "q-learning": ("etude.algorithms.value.q_learning", "QLearning", "Q-learning in a table: Discrete observations and actions"),
    "sarsa": ("etude.algorithms.value.q_learning", "SARSA", "the same, learning what it does and not what were best"),
    "td": ("etude.algorithms.value.td", "TD", "temporal differences, TD(λ) in a table: what the uniform policy is worth"),
    "dqn": ("etude.algorithms.value.dqn", "DQN", "deep Q-learning: discrete actions, or a bounded Box and a planner"),
    "online-q": ("etude.algorithms.value.dqn", "OnlineQ", "dqn that learns from each step as it is lived, and keeps none"),
    "fitted-q": ("etude.algorithms.value.dqn", "FittedQ", "dqn as fitted Q iteration: a regression to convergence at a time"),
    "rainbow": ("etude.algorithms.value.dqn", "Rainbow", "dqn with all that was found to help, in one agent"),
    "pqn": ("etude.algorithms.value.pqn", "PQN", "Q-learning in many copies at once, without replay or target network"),
    "naf": ("etude.algorithms.value.naf", "NAF", "Q-learning in a bounded Box: Q is quadratic in the action"),
    "ddpg": ("etude.algorithms.value.td3", "DDPG", "deep deterministic policy gradient: a bounded Box"),
    "td3": ("etude.algorithms.value.td3", "TD3", "ddpg with twin critics, smoothed targets and a policy that moves seldom"),
    "off-policy-actor-critic": ("etude.algorithms.actor_critic.sac", "OffPolicyActorCritic",
                                "a critic from replay, a policy gradient with actions drawn anew: Box or discrete actions"),
    "sac": ("etude.algorithms.actor_critic.sac", "SAC", "soft actor-critic: twin critics, learned temperature, Box or discrete"),
    "reinforce": ("etude.algorithms.policy_gradient.reinforce", "Reinforce",
                  "the policy gradient from whole episodes, with the baselines: every kind of action"),
    "off-policy-gradient": ("etude.algorithms.policy_gradient.reinforce", "OffPolicyGradient",
                            "reinforce with several steps on a batch, corrected by importance weights"),
    "actor-critic": ("etude.algorithms.actor_critic.actor_critic", "ActorCritic",
                     "the policy gradient with a learned value, batch or online: every kind of action"),
    "a2c": ("etude.algorithms.actor_critic.actor_critic", "A2C", "actor-critic in many copies at once, a short rollout a step"),
    "natural-gradient": ("etude.algorithms.trust_region.trpo", "NaturalGradient",
                         "the policy gradient measured by divergence, in a step of closed form: every kind of action"),
    "trpo": ("etude.algorithms.trust_region.trpo", "TRPO", "the same with a line search that keeps the divergence's limit"),
    "dual-gradient": ("etude.algorithms.trust_region.ppo", "DualGradient",
                      "ppo without a clip, a penalty on the divergence being learned by dual gradient ascent"),
    "ppo": ("etude.algorithms.trust_region.ppo", "PPO", "proximal policy optimisation: every kind of action"),
    "mpc": ("etude.algorithms.control.mpc", "MPC", "a planner on the true model of its environment: a bounded Box"),
    "mcts": ("etude.algorithms.control.mcts", "MCTS", "tree search on the true model of its environment: discrete actions"),
}


def setting(name: str) -> Any:
    """What makes the algorithm called `name`, with no arguments the defaults: its class, or a `partial` of one.

    Raises InvalidInput, with near matches, when there is none.
    """
    if name not in ALGORITHMS:
        near = difflib.get_close_matches(name.lower(), ALGORITHMS, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InvalidInput(f"no algorithm is called {name!r}; {hint}there are {', '.join(ALGORITHMS)}")
    module, attribute, _ = ALGORITHMS[name]
    return getattr(importlib.import_module(module), attribute)


def algorithm_class(name: str) -> Any:
    """The class of the algorithm called `name`; raises as `setting` does."""
    found = setting(name)
    return getattr(found, "func", found)


def name_of(algorithm: Any) -> str:
    """The name in the table that says most of an algorithm; its class's name in lower case when it is the user's own.

    Whatever has the settings of a name is called by it: TD3 with one critic, no noise and no delay is ddpg.
    """
    own, best, most = type(algorithm), type(algorithm).__name__.lower(), -1
    for name, (module, _, _) in ALGORITHMS.items():
        if module == own.__module__ and algorithm_class(name) is own:
            stands_for = getattr(setting(name), "keywords", {})
            if all(getattr(algorithm, key) == value for key, value in stands_for.items()) and len(stands_for) > most:
                best, most = name, len(stands_for)
    return best
