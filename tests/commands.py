"""Running the command line: in a process of its own, as a user does, or in this one, where that
makes no difference."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import jax
import measuring
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from etude.cli import main

# of compiled programs, shared by the tests of one session
CACHE = tempfile.TemporaryDirectory(prefix="etude-compiled-")
CACHED = {"JAX_COMPILATION_CACHE_DIR": CACHE.name}


def etude(*arguments: str, cwd: Path, well: bool = False, **options) -> subprocess.CompletedProcess:
    """The finished process of `etude *arguments`; what it runs is compiled quickly, or `well`, as
    for a user."""
    return subprocess.run(
        command(arguments),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        env=environment(well),
        **options,
    )


def here(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """What `etude *arguments` ends with in this process: most tests take less time than a process
    takes to start."""
    said, complained = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(complained),
        mock.patch.object(sys, "path", [*sys.path]),
        mock.patch.dict(os.environ, CACHED),
        pytest.raises(SystemExit) as exit,
    ):
        main.main([str(argument) for argument in arguments])
    return subprocess.CompletedProcess(
        arguments, exit.value.code, said.getvalue(), complained.getvalue()
    )


@contextlib.contextmanager
def programs_kept():
    """Here too, a program that was compiled before, also by a process, is not compiled again."""
    options = {
        "jax_compilation_cache_dir": CACHE.name,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in options}

    def use(options):
        reset_cache()  # the directory is looked at once
        for name, value in options.items():
            jax.config.update(name, value)

    use(options)
    yield
    use(before)


def start(*arguments: str, cwd: Path, **options) -> subprocess.Popen:
    """The running process of `etude *arguments`."""
    return subprocess.Popen(
        command(arguments),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(well=False),
        **options,
    )


def environment(well: bool) -> dict[str, str]:
    """With a cache of compiled programs, and without what would have the process take away the
    coverage of the tests."""
    tests_own = ("SLIPCOVER_", "XLA_FLAGS") if well else ("SLIPCOVER_",)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(tests_own)}
    return kept | CACHED


def command(arguments) -> list[str]:
    return [*measuring.python(), "-m", "etude", *map(str, arguments)]


def until(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    """Wait until the condition holds while the process runs; fail when it ends first or takes too
    long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the process ended too early:\n{process.stdout.read()}"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def kill(process: subprocess.Popen, number: int = signal.SIGKILL) -> str:
    """Send a signal, wait for the end, return what the process said."""
    os.kill(process.pid, number)
    said, _ = process.communicate(timeout=60)
    return said
