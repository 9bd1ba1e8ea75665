"""What holds the parts together: imports point one way, files and names stay where they belong."""

import ast
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import generate_index
import pytest

import etude
from etude.algorithms import ALGORITHMS

SOURCE = Path(etude.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# A module may import from its own floor and those above it in this list; the longest name that fits
# decides.
FLOORS = {
    "etude": 0,
    "etude.errors": 0,
    "etude.struct": 0,
    "etude.spaces": 0,
    "etude.dynamics": 0,
    "etude.trees": 0,
    "etude.optim.schedules": 1,
    "etude.algorithms.common.exploration": 1,
    "etude.nn.linear": 1,
    "etude.nn.convolution": 1,
    "etude.nn.networks": 1,
    "etude.nn.noisy": 1,
    "etude.nn.recurrent": 1,
    "etude.nn.policies": 1,
    "etude.optim.natural_gradient": 1,
    "etude.nn.critics": 1,
    "etude.nn.distributions": 1,
    "etude.estimators": 1,
    "etude.tabular": 1,
    "etude.planning": 1,
    "etude.data.transition": 2,
    "etude.data.replay": 2,
    "etude.environments": 2,
    "etude.rollout": 3,
    "etude.models": 3,
    "etude.algorithms": 4,
    "etude.algorithms._index": 0,  # which is read without JAX
    "etude.training": 5,
    "etude.experiment": 6,
}


def module_of(path):
    parts = ("etude", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): ast.parse(path.read_text(), str(path)) for path in FILES}
every_module = pytest.mark.parametrize("module", MODULES)


def floor_of(module):
    names = [".".join(module.split(".")[:n]) for n in range(1, module.count(".") + 2)]
    assert module == "etude" or (len(names) > 1 and names[1] in FLOORS), (
        f"{module} has no floor: add it to FLOORS"
    )
    return FLOORS[next(name for name in reversed(names) if name in FLOORS)]


def imports_of(module):
    """The modules of etude that a module imports, anywhere in its file."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "etude")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports {node.module} by a relative name"
            if node.module.split(".")[0] == "etude":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    home = etude._HOME.get(alias.name) if node.module == "etude" else None
                    yield whole if whole in MODULES else f"etude.{home}" if home else node.module


def calls_of(module):
    """The plain names called in a module, with the line."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, node.lineno


@every_module
def test_imports_point_to_the_same_floor_or_above(module):
    for imported in imports_of(module):
        assert imported in MODULES, f"{module} imports {imported}, which does not exist"
        assert floor_of(imported) <= floor_of(module), (
            f"{module} imports {imported}, from a floor below its own"
        )


def test_no_imports_go_round():
    graph = {module: set(imports_of(module)) - {module} for module in MODULES}
    assert list(graphlib.TopologicalSorter(graph).static_order())


@every_module
def test_only_the_experiment_prints_and_opens_files(module):
    if floor_of(module) < 6:
        found = [
            f"{name} on line {line}"
            for name, line in calls_of(module)
            if name in ("print", "open", "input")
        ]
        assert not found, f"{module}: {found}"
        used = {name.split(".")[0] for name in outside_imports(module)}
        assert not used & {
            "rich",
            "tyro",
            "matplotlib",
            "safetensors",
            "json",
            "pathlib",
            "shutil",
            "tempfile",
        }, module


def outside_imports(module):
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@every_module
def test_nothing_in_a_file_can_name_code(module):
    forbidden = {
        "pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "marshal",
        "shelve",
        "joblib",
        "jsonpickle",
    }
    assert not {name.split(".")[0] for name in outside_imports(module)} & forbidden
    assert not [
        name for name, _ in calls_of(module) if name in ("eval", "exec", "compile", "__import__")
    ]
    attributes = {
        node.attr for node in ast.walk(MODULES[module]) if isinstance(node, ast.Attribute)
    }
    assert not attributes & {"loads_pickle", "load_pickle", "allow_pickle"}


def test_every_name_at_the_front_door_is_there():
    for name in etude.__all__:
        assert getattr(etude, name) is not None
    assert set(dir(etude)) == set(etude.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        etude.Nonsense  # noqa: B018


@pytest.fixture(scope="module")
def generated():
    """What the generated files should contain."""
    return generate_index.contents()


def test_generated_files_are_current(generated):
    assert not generate_index.out_of_date(generate_index.ROOT, generated), "make index"


def test_a_stale_row_is_found(generated, tmp_path):
    path = generate_index.INDEX
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(generated[path].replace('"PPO"', '"DQN"'))
    assert generate_index.out_of_date(tmp_path, {path: generated[path]}) == [path]
    (tmp_path / path).write_text(generated[path])
    assert not generate_index.out_of_date(tmp_path, {path: generated[path]})


def test_every_declared_algorithm_is_a_public_name():
    for module, attribute, summary in ALGORITHMS.values():
        assert getattr(etude, attribute) is getattr(importlib.import_module(module), attribute)
        assert summary.strip() and "\n" not in summary


def test_what_must_start_fast_starts_without_jax():
    """The package, its errors and tables, the command line, and what the workers of slow
    environments run."""
    code = (
        "import sys, etude, etude.errors, etude.algorithms, "
        "etude.environments.backends.in_process, etude.environments.backends.worker_processes; "
        "import etude.cli.main; "
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_module_can_be_imported():
    for module in MODULES:
        importlib.import_module(module)
