"""Known rewards and ends of steps, tried on the environment before a run trains on them."""

from contextlib import closing

import jax

from etude.algorithms import algorithm_factory
from etude.data.transition import Transition
from etude.environments.backends.host_callback import raise_host_errors
from etude.environments.protocol import Environment
from etude.models.known_functions import KnownFunctions, check_known_functions
from etude.rollout import bind_policy, rollout
from etude.runs.settings import Settings
from etude.struct import replace
from etude.training import init_rollout

TRIAL_STEPS = 200


def check_known_steps(settings: Settings) -> None:
    """Raise InvalidInput where what the algorithm takes as known is not what the environment does.

    Both are compared on TRIAL_STEPS steps of random actions.
    """
    source = settings.source
    known = settings.algorithm.known_functions(settings.outline().spec)
    if known == KnownFunctions():
        return
    backend = settings.backend if settings.plays else source.evaluation_backend
    with closing(source.make(1, backend)) as environment:
        check_known_functions(known, play_at_random(environment, TRIAL_STEPS), source.name)


def play_at_random(environment: Environment, count: int) -> Transition:
    """`count` steps of random actions in one copy of an environment, [step, ...]."""
    random = algorithm_factory("random")()

    @jax.jit
    def play(key):
        state = random.init(key, environment.spec)
        policy = bind_policy(random, state, environment, explore=True)
        start = init_rollout(random, environment, state, key)
        return replace(rollout(environment, policy, start, key, count)[1], memory=())

    with raise_host_errors():
        steps = jax.device_get(play(jax.random.key(0)))
    played: Transition = jax.tree.map(lambda x: x[:, 0], steps)
    return played
