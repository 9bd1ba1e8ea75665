"""The versions and the machine of a run, and what of them has changed since it began."""

import importlib.metadata
import platform
from typing import Any

import jax

import etude
from etude.cores import num_cores
from etude.runs.settings import IN_ONE_PROGRAM
from etude.runs.threads import threads_in_use

PACKAGES = ("jax", "jaxlib", "equinox", "optax", "gymnasium", "numpy", "envpool", "box2d")


def package_versions() -> dict[str, str]:
    """The versions of etude, of Python and of the packages that determine results."""
    versions = {"etude": etude.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def machine_info() -> dict[str, Any]:
    """The machine of a run."""
    return {
        "cores": num_cores(),
        "device": jax.devices()[0].device_kind,
        "platform": platform.platform(),
        "processor": platform.machine(),
    }


def environment_changes(config: dict[str, Any]) -> list[str]:
    """List the changes of versions, threads and device since a run began, which may change bits."""
    in_processes = config["seeds"] > 1 and config["backend"] not in IN_ONE_PROGRAM
    now: dict[str, Any] = {
        "versions": package_versions(),
        "machine": machine_info(),
        # the processes of seeds start with the threads of the run
        "threads": config["threads"] if in_processes else threads_in_use(),
    }
    recorded, current = (
        {
            **source["versions"],
            "threads": source["threads"],
            "device": source["machine"].get("device"),
        }
        for source in (config, now)
    )
    return [
        f"{name} {recorded.get(name)} is now {current.get(name)}"
        for name in current
        if recorded.get(name) != current.get(name)
    ]
