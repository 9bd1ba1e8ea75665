"""What tests compile runs for a moment, so it is compiled quickly and not well: in less than half
the time."""

import functools
import gc
import os
import resource

import jax
import pytest
import reference
from jax._src.interpreters import mlir
from measuring import LEAST, merged

QUICKLY = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)

# tracing makes many small objects that live on, and collecting them in between is in vain
gc.set_threshold(20_000, 10, 10)
# a program notes no lines of Python: lowered a tenth faster
jax.config.update("jax_traceback_in_locations_limit", 0)
# one MLIR context for all programs: making one takes milliseconds, and as each stays with its
# program, a megabyte, some thousands would make each later program take twice as long
mlir.make_ir_context = functools.cache(mlir.make_ir_context)
# before JAX starts
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICKLY}".strip()


REFERENCE = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption(
        "--reference",
        action="store_true",
        help="compare the CPU time of the tests with that of fixed work",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    if config.getoption("reference") and not hasattr(config, "workerinput"):
        config.stash[REFERENCE] = reference.seconds()


def pytest_collection_finish():
    """What imports made is there to stay: the garbage collector need not look through it again and
    again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def kept():
    """Compiled programs are there to stay too, for all files share small ones."""
    yield
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Too little coverage is a failure, and so is a measurement that came to nothing."""
    if "SLIPCOVER_ENABLED" not in os.environ or hasattr(session.config, "workerinput"):
        return
    coverage = merged()
    if coverage is None or coverage["summary"]["percent_covered"] < LEAST:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    """The lines covered, a row a file, and the CPU time."""
    tell_coverage(terminalreporter)
    # workers have been waited for, and what they started
    spent = sum(
        getattr(resource.getrusage(who), of)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        for of in ("ru_utime", "ru_stime")
    )
    fixed = config.stash.get(REFERENCE, None)
    terminalreporter.section("CPU time")
    terminalreporter.line(
        f"{spent:.1f} s"
        + (f", {spent / fixed:.0f} times the reference of {fixed:.2f} s" if fixed else "")
    )


def tell_coverage(terminalreporter):
    if "SLIPCOVER_ENABLED" not in os.environ:
        return
    terminalreporter.section("line coverage")
    if not (coverage := merged()):
        terminalreporter.line("it was to be measured and was not", red=True)
        return
    terminalreporter.line(f"{'file':56}{'lines':>7}{'missed':>8}{'covered':>9}")
    for name, of in [*sorted(coverage["files"].items()), ("in all", coverage)]:
        covered, missed, share = (
            of["summary"][key] for key in ("covered_lines", "missing_lines", "percent_covered")
        )
        terminalreporter.line(f"{name:56}{covered + missed:7}{missed:8}{share:8.1f}%")
    if share < LEAST:
        terminalreporter.line(
            f"{share:.1f} % of the lines is too little: at least {LEAST} % it must be", red=True
        )
