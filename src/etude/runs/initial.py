"""Starting from other runs: components of an algorithm's state, such as its policy, taken over."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Protocol, get_type_hints

import jax
import numpy as np

from etude.algorithms import ALGORITHMS, algorithm_factory
from etude.algorithms.protocol import Component, init_state
from etude.errors import InvalidInput
from etude.kinds import code_fields, is_switch, kinds_of, qualified_name, tag_of
from etude.runs.settings import InitialRecord, Settings
from etude.struct import replace
from etude.trees import content_hash


class TrainedRun(Protocol):
    """What is asked of the run that another one starts from."""

    settings: Settings
    directory: Any

    def states(self) -> list[Any]: ...


def start_from(settings: Settings, runs: Mapping[str, TrainedRun]) -> Settings:
    """The settings of a run whose algorithm starts with the components of other runs.

    Seed i starts from seed i of a run, or all seeds from a run of one. Raises InvalidInput for a
    component that one of the algorithms lacks, a run of another environment, settings or networks
    that differ, and a run of too few seeds.
    """
    algorithm, parts, records = settings.algorithm, {}, {}
    for name, run in runs.items():
        check_component(settings, name, run)
        component, there = (x.components[name] for x in (algorithm, run.settings.algorithm))
        taken = [there.get(state) for state in run.states()]
        if 1 < len(taken) < settings.seeds:
            raise InvalidInput(
                f"{run.directory} has {len(taken)} seeds, and this run {settings.seeds}: seed i "
                "starts from seed i, or all from a run of one seed; give as many seeds or fewer"
            )
        check_networks(settings, name, run, taken[0])
        per_seed = taken * settings.seeds if len(taken) == 1 else taken[: settings.seeds]
        parts[name] = jax.tree.map(lambda *leaves: np.stack(leaves), *per_seed)
        records[name] = InitialRecord(
            run=os.path.abspath(run.directory), seeds=len(taken), sha256=content_hash(parts[name])
        )
        algorithm = component.prepare(algorithm, settings.num_envs)
    return replace(settings, algorithm=algorithm, initial=records, initial_components=parts)


def check_component(settings: Settings, name: str, run: TrainedRun) -> None:
    """Raise InvalidInput unless the algorithm can start with this component of `run`."""
    other = run.settings
    own, there = (x.algorithm.components.get(name) for x in (settings, other))
    if own is None or own.put is None:
        takers = [
            f"{key} ({part})"
            for key in ALGORITHMS
            for part, component in algorithm_factory(key)().components.items()
            if component.put is not None
        ]
        raise InvalidInput(
            f"initial names {name!r}, which {settings.name} cannot start with; these can: "
            f"{', '.join(takers)}"
        )
    if there is None or (there.of_agent or there).get is not (own.of_agent or own).get:
        raise InvalidInput(
            f"initial {name} is that of {run.directory}, a run of {other.name}"
            f"{component_kind(there)}, which has no {name} that {settings.name}"
            f"{component_kind(own)} can take; give a run of another algorithm, or of other settings"
        )
    if other.environment != settings.environment:
        raise InvalidInput(
            f"initial {name} is that of {run.directory}, a run on {other.environment}, and this "
            f"run is on {settings.environment}; give a run on this environment"
        )
    for role, space in settings.spaces.items():
        if other.spaces[role] != space:
            raise InvalidInput(
                f"the {role} space of {run.directory}, from which the {name} is taken, is "
                f"{other.spaces[role]}, and here it is {space}; give the options of that run, such "
                "as --frame-stack"
            )
    differing = [
        (theirs, ours, field)
        for field_there, field in zip(there.settings, own.settings, strict=True)
        if (theirs := setting_of(other.algorithm, field_there))
        != (ours := setting_of(settings.algorithm, field))
    ]
    if differing:
        reasons = (
            f"{field} is {theirs} there and {ours} here" for theirs, ours, field in differing
        )
        no_torso = [
            flag_of(field)
            for theirs, _, field in differing
            if field.endswith("torso") and theirs is None
        ]
        flags = [
            as_flags(field, theirs, hint_of(settings.algorithm, field))
            for theirs, _, field in differing
            if flag_of(field) not in no_torso
        ]
        remedies = [f"Leave out {flag}" for flag in no_torso]
        remedies += [f"Add {' '.join(flags)}"] * bool(flags)
        raise InvalidInput(
            f"initial {name} of {run.directory} has other settings: {'; '.join(reasons)}. "
            f"{'. '.join(remedies)}"
        )


def component_kind(component: Component | None) -> str:
    """The settings of an algorithm that make its component special, in a message."""
    return f" with {component.kind}" if component and component.kind else ""


def holder_of(algorithm: Any, path: str) -> tuple[Any, str]:
    """(what has the hyperparameter at `path`, the name of its field there)."""
    *fields, name = path.split(".")
    for field in fields:
        algorithm = getattr(algorithm, field)
    return algorithm, name


def setting_of(algorithm: Any, path: str) -> Any:
    """A hyperparameter as it is compared: of code, the name."""
    holder, field = holder_of(algorithm, path)
    value = getattr(holder, field)
    is_code = field in code_fields(type(holder)) and value is not None
    return qualified_name(value) if is_code else value


def hint_of(algorithm: Any, path: str) -> Any:
    """The type of the hyperparameter at `path`."""
    holder, field = holder_of(algorithm, path)
    return get_type_hints(type(holder))[field]


def flag_of(path: str) -> str:
    """The flag of the field at `path`."""
    return f"--{path.replace('_', '-')}"


def as_flags(path: str, value: Any, hint: Any) -> str:
    """The flags that give the field at `path`, of type `hint`, this value."""
    flag, kinds = flag_of(path), kinds_of(hint)
    if hint is bool or (is_switch(kinds) and value is None):
        holder, dot, name = path.rpartition(".")
        return flag if value else flag_of(f"{holder}{dot}no_{name}")
    if not kinds:
        return f"{flag} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
    if value is None:
        return f"{flag} none"
    hints = get_type_hints(type(value))
    parts = [
        as_flags(f"{path}.{field.name}", getattr(value, field.name), hints[field.name])
        for field in dataclasses.fields(value)
    ]
    return " ".join([flag if is_switch(kinds) else f"{flag} {tag_of(type(value))}", *parts])


def check_networks(settings: Settings, name: str, run: TrainedRun, taken: Any) -> None:
    """Raise InvalidInput unless the component has the arrays of this run's, naming both shapes."""

    def init(key, outside):
        state = init_state(settings.algorithm, key, settings.outline().spec, outside)
        return settings.algorithm.components[name].get(state)

    own = jax.eval_shape(init, jax.random.key(0), settings.outside)
    theirs, ours = shapes_by_path(taken), shapes_by_path(own)
    structures: list[Any] = [jax.tree.structure(tree) for tree in (taken, own)]
    if theirs == ours and structures[0] == structures[1]:
        return
    path = next((path for path in theirs | ours if theirs.get(path) != ours.get(path)), "")
    raise InvalidInput(
        f"initial {name} of {run.directory} has other networks: {path or 'the structure'} is "
        f"{theirs.get(path, 'another')} there and {ours.get(path, 'another')} here; give a run "
        "whose networks are the same"
    )


def shapes_by_path(tree: Any) -> dict[str, str]:
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
