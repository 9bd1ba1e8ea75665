"""Copies over processes are the copies of one process, bit for bit; a process that dies is named."""
from functools import partial

import gymnasium
import jax
import numpy as np
import pytest

from etude.environments.gymnasium_backend import Gymnasium
from etude.errors import EnvironmentFault
from etude.rollout import reset, rollout
from etude.training import call

MAKE = partial(gymnasium.make, "Pendulum-v1", disable_env_checker=True)


def play(environment, steps=250):
    def policy(observation, memory, key):
        return jax.random.uniform(key, (3, 1), minval=-1), memory

    def run(key):
        return rollout(environment, policy, reset(environment, key), key, steps)[1]
    return call(environment, jax.jit(run), jax.random.key(0))


def test_workers_play_what_one_process_plays():
    alone, shared = Gymnasium(MAKE, 3), Gymnasium(MAKE, 3, workers=2)
    assert [share.stop - share.start for share in shared.copies.shares] == [2, 1]
    for a, b in zip(jax.tree.leaves(play(alone)), jax.tree.leaves(play(shared)), strict=True):
        np.testing.assert_array_equal(a, b)
    shared.close()
    assert not any(process.is_alive() for process in shared.copies.processes)


def test_a_process_that_dies_is_a_fault_of_its_copies():
    environment = Gymnasium(MAKE, 3, workers=2)
    play(environment, 2)
    environment.copies.processes[1].kill()
    environment.copies.processes[1].join()
    with pytest.raises(EnvironmentFault, match=r"copies 2 to 2 died with exit status -9"):
        play(environment, 2)
    environment.close()
