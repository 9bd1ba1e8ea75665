"""What holds the parts together: imports point one way, files and names stay where they belong."""

import ast
import collections
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import count_statements
import generate_index
import pytest

import etude
from etude.algorithms import ALGORITHMS

SOURCE = Path(etude.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# The rooms in order: a module imports from its own room and from those above it in this list. The
# longest name that fits decides, so a module may stand apart from its package.
ROOMS = (
    "etude.types",
    "etude.errors",
    "etude.keys",
    "etude.kinds",
    "etude.importing",
    "etude.struct",
    "etude.counters",
    "etude.cores",
    "etude.algorithms._index",  # a table of names, read without JAX
    "etude",
    "etude.spaces",
    "etude.trees",
    "etude.dynamics",
    "etude.nn",
    "etude.optim",
    "etude.estimators",
    "etude.tabular",
    "etude.planning",
    "etude.data",
    "etude.environments",
    "etude.models",
    "etude.algorithms.assumptions",
    "etude.algorithms.protocol",
    "etude.rollout",
    "etude.training",
    "etude.algorithms",
    "etude.presets",
    "etude.storage",
    "etude.reporting",
    "etude.recording",
    "etude.runs",
    "etude.studies",
    "etude.cli",
    "etude.__main__",
)
FIRST_WITH_FILES = ROOMS.index("etude.storage")  # nothing above it prints or opens a file

# Public functions and classes defined in more than one module, each with its reason.
HOMONYMS: dict[str, str] = {}
# Modules of one kind: the same functions with the same signatures, of which a user picks one
# module.
KINDS = ("etude.dynamics", "etude.data.replay")


def module_of(path):
    parts = ("etude", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): ast.parse(path.read_text(), str(path)) for path in FILES}
every_module = pytest.mark.parametrize("module", MODULES)


def room_of(module):
    """The number of a module's room in the list."""
    names = [".".join(module.split(".")[:n]) for n in range(1, module.count(".") + 2)]
    assert module == "etude" or any(name in ROOMS for name in names[1:]), (
        f"{module} has no room: add it to ROOMS"
    )
    return ROOMS.index(next(name for name in reversed(names) if name in ROOMS))


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
                    home = etude._MODULE_OF.get(alias.name) if node.module == "etude" else None
                    yield whole if whole in MODULES else f"etude.{home}" if home else node.module


def calls_of(module):
    """The plain names called in a module, with the line."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, node.lineno


@every_module
def test_imports_come_from_the_same_room_or_one_above(module):
    for imported in imports_of(module):
        assert imported in MODULES, f"{module} imports {imported}, which does not exist"
        assert room_of(imported) <= room_of(module), (
            f"{module} imports {imported}, from a room below its own"
        )


def test_there_is_no_import_cycle():
    graph = {module: set(imports_of(module)) - {module} for module in MODULES}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def definitions():
    """The modules that define each public function or class, by its name."""
    found = collections.defaultdict(list)
    for module, tree in MODULES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                kind = next((kind for kind in KINDS if module.startswith(f"{kind}.")), module)
                found[node.name].append(kind)
    return found


def test_one_public_name_has_one_meaning():
    several = {name: homes for name, homes in definitions().items() if len(set(homes)) > 1}
    assert several.keys() == HOMONYMS.keys(), several
    assert len(HOMONYMS) <= 8 and all(HOMONYMS.values())


def test_commands_and_what_they_call_have_no_name_in_common():
    """The functions of the command line are private, so that `train` is the one of
    `etude.train`."""
    for module in MODULES:
        if module.startswith("etude.cli."):
            public = {
                node.name for node in MODULES[module].body if isinstance(node, ast.FunctionDef)
            }
            assert not public & set(etude.__all__), module


@every_module
def test_only_the_rooms_of_files_print_and_open_files(module):
    if room_of(module) < FIRST_WITH_FILES:
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


def test_plain_dqn_is_read_in_few_statements():
    """The loop and the method, and what they call: variants cost them nothing."""
    loop_and_method, beside = (
        sum(count_statements.count_statements(SOURCE / name) for name in names)
        for names in (count_statements.LOOP_AND_METHOD, count_statements.BESIDE)
    )
    assert 200 < loop_and_method <= 400 and 40 < beside <= 112


def test_docstrings_imports_and_comments_are_no_statements(tmp_path):
    path = tmp_path / "code.py"
    path.write_text(
        '"""Docstring."""\n\nimport os\nfrom sys import path  # comment\n\n\n'
        'class C:\n    """Docstring."""\n\n    x = 1\n    """Of x."""\n\n'
        "    def f(self):\n        if self.x:\n            import re\n\n            os.sep\n"
        "        return path\n"
    )
    assert count_statements.count_statements(path) == 6  # class, x, def, if, os.sep, return


def test_every_declared_algorithm_is_a_public_name():
    for module, attribute, summary in ALGORITHMS.values():
        assert getattr(etude, attribute) is getattr(importlib.import_module(module), attribute)
        assert summary.strip() and "\n" not in summary


def test_what_must_start_fast_starts_without_jax():
    """The package, its errors and tables, the command line, and what the workers of slow
    environments run."""
    code = (
        "import sys, etude, etude.errors, etude.algorithms, "
        "etude.environments.backends.in_process, etude.environments.backends.worker_processes, "
        "etude.environments.factories; "
        "import etude.cli.main; "
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_module_can_be_imported():
    for module in MODULES:
        importlib.import_module(module)
