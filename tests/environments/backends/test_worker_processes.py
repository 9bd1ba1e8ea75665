"""Copies shared out over processes are the copies of one process, and a process that is gone is
said to be."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium_probes import Counter
from gymnasium_spaces import ACTIONS, OBSERVATIONS, Echo, Faulty, Modules, Noise, Unmakeable

from etude.environments.backends.gymnasium_envs import GymnasiumEnvs, make_layout
from etude.environments.backends.in_process import NO_LIMITS, HostLimits, InProcessEnvs
from etude.environments.backends.watchdog import GRACE, MAX_TIMEOUT
from etude.environments.backends.worker_processes import WorkerEnvs
from etude.errors import EnvironmentFault
from etude.spaces import EnvironmentSpec, space_from_gymnasium
from etude.training import run_compiled

KEY = jax.random.key(0)


class Beyond(Counter):
    """Begins with an observation outside of its bounds."""

    def __init__(self):
        super().__init__()
        self.observation_space = Box(1, self.length, (1,), np.float32)


def spec_of(environment, count):
    return EnvironmentSpec(
        space_from_gymnasium(environment.observation_space),
        space_from_gymnasium(environment.action_space, "action"),
        count,
    )


@pytest.fixture
def workers():
    """A function that makes workers and closes them when the test is over."""
    made = []

    def start(make, environment, count, processes, limits=NO_LIMITS):
        layout = make_layout(spec_of(environment, count))
        made.append(WorkerEnvs(make, count, layout, processes, limits))
        return made[-1]

    yield start
    for each in made:
        each.close()
        assert not any(process.is_alive() for process in each.processes)


@pytest.mark.slow
def test_many_processes_tell_what_one_tells_bit_for_bit(workers):
    """Over resets, random restarts and observations of every kind, with copies that do not share
    out evenly."""
    make, count = partial(Noise, OBSERVATIONS["nested"], ACTIONS["multidiscrete"]), 5
    spread, alone = (
        workers(make, make(), count, 2),
        InProcessEnvs(make, count, make_layout(spec_of(make(), count))),
    )
    assert [(share.start, share.stop) for share in spread.slices] == [(0, 3), (3, 5)]
    rng = np.random.default_rng(0)
    told, expected = [], []
    for seed in (7, 2**32 - 1, 7):
        told.append(spread.reset(seed))
        expected.append(alone.reset(seed))
        for _ in range(20):
            actions = rng.integers(2, size=(count, 2, 2)).astype(np.int32)
            told.append(spread.step(actions))
            expected.append(alone.step(actions).copy())
    assert told[-1].shape == (count, alone.layout.dtype.itemsize)
    # also what was told first, which later steps leave as it is
    np.testing.assert_array_equal(told, expected)


@pytest.mark.slow
def test_a_loop_over_processes_is_the_loop_over_one():
    """Inside a compiled program, with actions of numbers that become integers."""

    def play(environment):
        def step(carry, action):
            state, observation = carry
            state, following, outcome = environment.step(state, action, KEY)
            return (state, following), (observation, outcome)

        actions = jnp.linspace(-1.2, 1.2, 3 * 12 * 2).reshape(12, 3, 2)
        told = jax.jit(lambda: jax.lax.scan(step, environment.reset(KEY), actions)[1])()
        environment.close()
        return jax.tree.map(np.asarray, told)

    make = partial(Echo, ACTIONS["integers"])
    spread, alone = play(GymnasiumEnvs(make, 3, workers=3)), play(GymnasiumEnvs(make, 3))
    jax.tree.map(np.testing.assert_array_equal, spread, alone)
    # what the simulators were given
    assert set(np.unique(alone[1].next_observation)) == set(range(11))


def test_processes_start_without_jax_and_never_more_than_copies(workers):
    # with the longest time limit, which is longer than the operating system can wait
    spread = workers(Modules, Modules(), 1, 4, HostLimits(timeout=MAX_TIMEOUT))
    assert len(spread.processes) == 1
    rows = spread.reset(0).view(spread.layout.dtype)
    assert rows["observation0"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before it is asked", "while it is asked"])
def test_a_process_that_is_killed_is_a_fault(workers, moment):
    spread = workers(Counter, Counter(), 4, 2)
    spread.reset(0)
    for number in (signal.SIGINT, signal.SIGTERM):  # which are the trainer's to answer
        os.kill(spread.processes[0].pid, number)
    rows = spread.step(np.zeros(4, np.int32)).view(spread.layout.dtype)
    assert (rows["next_observation0"] == 1).all()
    if moment == "before it is asked":
        spread.processes[1].kill()
        spread.processes[1].join()
    else:
        os.kill(spread.processes[1].pid, signal.SIGSTOP)  # it reads nothing until it is killed
        threading.Timer(0.2, spread.processes[1].kill).start()
    for _ in range(2):
        with pytest.raises(
            EnvironmentFault, match="the process of copies 2 to 3 died with exit status -9"
        ):
            spread.step(np.zeros(4, np.int32))


class Interrupted(BaseException):
    """Raised by a signal, as KeyboardInterrupt is."""


@contextlib.contextmanager
def stopped(process):
    """A block in which a process does nothing, whatever it is asked."""
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has been killed
            os.kill(process.pid, signal.SIGCONT)


@pytest.mark.slow
def test_what_was_asked_before_an_interrupt_is_never_taken_for_a_later_answer(workers):
    def interrupt(number, frame):
        raise Interrupted

    spread = workers(Counter, Counter(), 2, 2)
    spread.reset(0)
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        with stopped(spread.processes[0]), pytest.raises(Interrupted):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            spread.step(np.zeros(2, np.int32))
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert spread.notices() == []
    for ask in (lambda: spread.step(np.zeros(2, np.int32)), lambda: spread.reset(0)):
        with pytest.raises(EnvironmentFault, match="was interrupted; make them anew"):
            ask()


@pytest.mark.slow
def test_a_process_that_does_not_answer_in_time_is_a_fault(workers):
    """Where not even the watchdog of its own runs."""
    spread = workers(Counter, Counter(), 2, 1, HostLimits(timeout=2))
    assert spread.deadlines == [2 * 2 * 2 + 2 * GRACE]
    spread.deadlines = [0.4]
    spread.reset(0)  # the start of a process takes longer, and does not count
    process = spread.processes[0]
    late = pytest.raises(EnvironmentFault, match="copies 0 to 1 has not answered for 0.4 sec")
    with stopped(process), late:
        spread.step(np.zeros(2, np.int32))
    process.join()
    assert spread.notices() == []
    with pytest.raises(EnvironmentFault, match="copies 0 to 1 died with exit status -9"):
        spread.step(np.zeros(2, np.int32))


@pytest.mark.slow
def test_notices_of_processes_are_said_once(workers):
    spread = workers(Beyond, Beyond(), 2, 2)
    spread.reset(0)
    (notice,) = spread.notices()
    assert notice.startswith("Beyond: an observation at index [0] is 0, and its space is Box(1.0")
    assert spread.notices() == []


LEFT_OPEN = """
import multiprocessing

def play():
    global envs
    from gymnasium_probes import Counter
    from etude.environments.backends.gymnasium_envs import GymnasiumEnvs
    envs = GymnasiumEnvs(Counter, 1, workers=1).vector_env
    envs.reset(0)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=play)
    process.start()
    process.join()
    print(process.exitcode)
"""


@pytest.mark.slow
def test_workers_that_nobody_closed_end_with_the_program(tmp_path):
    """Though they ignore the signal by which Python ends its daemons."""
    (tmp_path / "left_open.py").write_text(LEFT_OPEN)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "left_open.py")],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


@pytest.mark.slow
def test_a_fault_in_a_process_tells_copy_and_step_and_where_it_was_raised():
    environment = GymnasiumEnvs(partial(Faulty, "raise", 2), 3, workers=2)
    try:

        def run():
            state, _ = environment.reset(KEY)
            return jax.lax.fori_loop(
                0,
                5,
                lambda i, state: environment.step(state, jnp.zeros(3, jnp.int32), KEY)[0],
                state,
            )

        with pytest.raises(EnvironmentFault) as fault:
            run_compiled(jax.jit(run))
    finally:
        environment.close()
    message = str(fault.value)
    assert message.startswith(
        "copy 0 of Faulty failed at its step 2: it raised ZeroDivisionError: the simulator broke ("
    )
    assert (
        "Traceback" in message
        and "gymnasium_spaces.py" in message
        and 'raise ZeroDivisionError("the sim' in message
    )


@pytest.mark.slow
def test_after_a_fault_of_one_process_the_others_are_not_a_response_behind(workers):
    spread = workers(partial(Faulty, "nan reward", 2), Faulty(), 4, 2)
    spread.reset(0)
    spread.step(np.zeros(4, np.int32))
    with pytest.raises(EnvironmentFault, match="copy 0 of Faulty failed at its step 2: its rew"):
        spread.step(np.zeros(4, np.int32))
    rows = spread.reset(0).view(spread.layout.dtype)
    assert (rows["reward"] == 0).all() and len(rows) == 4


@pytest.mark.slow
def test_a_copy_that_cannot_be_made_in_a_process_is_a_fault(workers):
    spread = workers(Unmakeable, Counter(), 2, 1)
    for _ in range(2):  # and it goes on answering so
        with pytest.raises(EnvironmentFault, match="OSError: no licence for the simulator"):
            spread.reset(0)


@pytest.mark.slow
def test_options_and_limits_of_a_registered_environment_cross():
    """What Gymnasium's registry knows here is all that another process needs."""
    from etude.environments import make

    environment = make("Pendulum-v1", 2, workers=1, options={"g": 0.0, "max_episode_steps": 3})
    try:

        def step(carry, _):
            state, following, outcome = environment.step(carry[0], jnp.zeros((2, 1)), KEY)
            return (state, following), (carry[1], outcome)

        observation, outcome = jax.jit(
            lambda: jax.lax.scan(step, environment.reset(KEY), None, 6)[1]
        )()
    finally:
        environment.close()
    # no gravity
    np.testing.assert_allclose(outcome.next_observation[..., 2], observation[..., 2], atol=1e-6)
    np.testing.assert_array_equal(
        outcome.truncated, np.arange(1, 7)[:, None] % 3 == np.zeros((1, 2))
    )
