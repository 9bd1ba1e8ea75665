"""Calls of environments that never return end, with copy and step, wherever they wait."""

import os
import subprocess
import sys
import threading
import time
import warnings

import gymnasium_probes
import jax
import numpy as np
import pytest
from gymnasium_probes import Waits

from etude.environments.backends import watchdog
from etude.environments.backends.gymnasium_envs import GymnasiumEnvs, spec_from_factory
from etude.environments.backends.in_process import HostLimits
from etude.environments.backends.watchdog import STUCK, Watchdog, time_limit
from etude.errors import EnvironmentFault
from etude.training import run_compiled

LIMIT = 0.3


def play(where, how):
    limits, spec = HostLimits(timeout=LIMIT), spec_from_factory(Waits)
    envs = GymnasiumEnvs(lambda: Waits(where, how), 2, spec=spec, limits=limits)
    envs.vector_env.reset(0)
    for _ in range(3):
        envs.vector_env.step(np.zeros(2, np.int32))
    envs.close()


@pytest.mark.parametrize(
    ("where", "how", "when"),
    [
        ("step", "sleep", "at its step 2"),
        ("step", "loop", "at its step 2"),
        ("reset", "sleep", "at its step 2"),
    ],
)
def test_a_call_that_takes_too_long_is_a_fault(where, how, when):
    began = time.monotonic()
    with pytest.raises(
        EnvironmentFault,
        match=f"copy 0 of Waits failed {when}: it did not return within 0.3 seconds; allow more "
        "with environment_timeout, or mend it",
    ):
        play(where, how)
    assert time.monotonic() - began < 20


def test_a_close_that_takes_too_long_is_warned_of():
    """It is too late to be an error, and hides none."""
    with pytest.warns(RuntimeWarning, match="copy 1 of Waits failed when it was closed: it did no"):
        play("close", "sleep")


def test_what_follows_a_call_that_was_ended_has_its_own_time():
    """Also where it is told from it by nothing else, and what is done in the call's own end."""

    class Cleans(Waits):
        def step(self, action):
            try:
                return super().step(action)
            finally:
                if self.time == 2:
                    time.sleep(LIMIT * 0.8)

        def close(self):
            time.sleep(LIMIT * 0.8)

    envs = GymnasiumEnvs(Cleans, 1, limits=HostLimits(timeout=LIMIT))
    envs.vector_env.reset(0)
    envs.vector_env.step(np.zeros(1, np.int32))
    with pytest.raises(EnvironmentFault, match="at its step 2: it did not return"):
        envs.vector_env.step(np.zeros(1, np.int32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs.close()


def test_it_ends_inside_of_a_compiled_loop():
    envs = GymnasiumEnvs(Waits, 1, limits=HostLimits(timeout=LIMIT))

    def run():
        state, _ = envs.reset(jax.random.key(0))
        step = lambda i, state: envs.step(state, jax.numpy.zeros(1, int), jax.random.key(0))[0]
        return jax.lax.fori_loop(0, 5, step, state)

    with pytest.raises(EnvironmentFault, match="copy 0 of Waits failed at its step 2: it did not"):
        run_compiled(jax.jit(run))


def test_in_another_thread_it_ends_between_two_lines_of_python():
    faults = []

    def run():
        try:
            play("step", "loop")
        except EnvironmentFault as fault:
            faults.append(str(fault))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert faults and "it did not return within 0.3 seconds" in faults[0]


def test_making_one_is_limited_too():
    with (
        pytest.raises(
            EnvironmentFault, match="making it took longer than 0.2 seconds; allow more with env"
        ),
        time_limit(0.2, "making it"),
    ):
        time.sleep(60)


def test_calls_within_the_limit_are_left_alone():
    """Many of them take longer than the limit together."""
    number = [0]
    watching = Watchdog(lambda: number[0], LIMIT)
    watching.begin()
    for number[0] in range(8):
        time.sleep(LIMIT / 3)
    watching.end()
    time.sleep(2 * LIMIT)
    watching.close()
    assert watching.overdue is None
    unlimited = Watchdog(lambda: 0, 0)
    unlimited.begin()
    assert not unlimited.started


SCRIPT = """
import threading, time
from etude.environments.backends import watchdog
watchdog.GRACE = 0.3
dog = watchdog.Watchdog(lambda: 0, 0.3, lambda: "copy 3 does not return")

def call():
    dog.begin()
    time.sleep(60)  # which no signal ends in a thread that is not the main one

thread = threading.Thread(target=call)
thread.start()
thread.join()
"""


@pytest.mark.slow
def test_a_call_that_nothing_interrupts_ends_the_process_and_is_named():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == STUCK == 1
    assert done.stderr.endswith("etude: copy 3 does not return. The last checkpoint is kept\n")
    assert "in call" in done.stderr and len(done.stderr.splitlines()) < 10


@pytest.mark.slow
def test_a_worker_that_never_returns_is_a_fault():
    envs = GymnasiumEnvs(Waits, 2, workers=2, limits=HostLimits(timeout=LIMIT)).vector_env
    try:
        envs.reset(0)
        envs.step(np.zeros(2, np.int32))
        with pytest.raises(EnvironmentFault, match="copy 0 of Waits failed at its step 2: it did "):
            envs.step(np.zeros(2, np.int32))
    finally:
        envs.close()


PARENT = """
import sys, time
from etude.environments.backends.gymnasium_envs import GymnasiumEnvs, spec_from_factory
from gymnasium_probes import Waits
if __name__ == "__main__":
    envs = GymnasiumEnvs(Waits, 1, workers=1).vector_env
    envs.reset(0)
    print(envs.processes[0].pid, flush=True)
    envs.step(__import__("numpy").zeros(1, "int32"))
    envs.step(__import__("numpy").zeros(1, "int32"))
"""


@pytest.mark.slow
def test_workers_end_with_their_trainer_whatever_they_do(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    paths = [os.path.dirname(gymnasium_probes.__file__), os.environ.get("PYTHONPATH", "")]
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(1)  # the worker waits in its second step by now
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not os.path.exists(f"/proc/{worker}"):
            return
        time.sleep(0.1)
    pytest.fail("the worker outlives its trainer")


def test_a_signal_that_comes_too_late_does_nothing():
    watching = Watchdog(lambda: 0, 60)
    watching.begin()
    watching.end()
    watchdog.raise_timeout(0, None)
    watching.close()
