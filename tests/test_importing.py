"""Names that import: one colon, a module before it, and no file ever has one imported."""

import sys

import pytest
from commands import here
from records import begun, rewrite_config

import etude
from etude.environments.registry import env_factory
from etude.errors import InvalidInput
from etude.importing import import_object, is_importable, split_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("CartPole-v1", ("", "CartPole-v1")),
        ("ALE/Pong-v5", ("", "ALE/Pong-v5")),
        ("mine:Env-v0", ("mine", "Env-v0")),
        ("mine.deeper._x1:space/Env-v0", ("mine.deeper._x1", "space/Env-v0")),
    ],
    ids=["id", "namespace", "module", "package"],
)
def test_a_name_has_at_most_a_module(name, parts):
    assert split_name("environment", name) == parts


NO_NAMES = ["os:evil:X-v0", ":X-v0", "os:", "os.:X", "..os:X", "a b:X", "a/b:X", "os::X", "1a:X"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_no_other_name_imports_anything(name):
    before = set(sys.modules)
    for use in (
        lambda: split_name("environment", name),
        lambda: import_object("environment", name),
        lambda: env_factory(name),
    ):
        with pytest.raises(InvalidInput, match=r"environment is '.*'; write it as module:Name"):
            use()
    assert not is_importable(name)
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "name",
    ["os:evil_module:X-v0", "evil_module:X-v0", "os.path:evil_module:X-v0", ":evil_module:X-v0"],
)
def test_no_file_has_code_run_whatever_it_names(tmp_path, monkeypatch, name):
    """Modules lie in the working directory by the name, by each of its parts and by both."""
    run = begun(tmp_path / "run")
    for module in (name.rpartition(":")[0], "evil_module"):
        (tmp_path / f"{module}.py").write_text("open('was_run', 'w').close()")
    rewrite_config(run.directory, {"environment": name})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidInput):
        etude.load("run")
    for command in ("evaluate", "resume", "watch"):
        assert here(command, "run", cwd=tmp_path).returncode == 2
    assert not (tmp_path / "was_run").exists()


def test_an_error_inside_of_a_module_is_told_as_its_own(tmp_path, monkeypatch):
    (tmp_path / "half_written.py").write_text("import math\nmath.no_such_function()\n")
    (tmp_path / "not_python.py").write_text("def\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module, error in (("half_written", "AttributeError: module 'math'"), ("not_python", "Syn")):
        with pytest.raises(InvalidInput, match=f"'{module}' cannot be imported .{error}"):
            import_object("torso", f"{module}:Net")
