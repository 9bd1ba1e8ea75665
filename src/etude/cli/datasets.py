"""The command `etude dataset`: what a dataset holds, what is wrong with it, and converting it."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from etude.cli import flags
from etude.cli.console import enable_cache, parse_options
from etude.errors import InvalidInput


@dataclasses.dataclass(frozen=True)
class DatasetCommand:
    """Say what a dataset holds: an .npz of NumPy or of imitation, an HDF5 file of robomimic or
    D4RL, the directory of a dataset of Minari, LeRobot or imitation, or what a recording that was
    stopped has left."""

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")]
    """the file, the directory, or the id of a dataset in Minari's local root"""
    check: bool = False
    """look for every kind of fault, and name the first of each with its episode, step and field;
    the status is 2 if there are any"""
    replay: bool = False
    """play the episodes again on the Gymnasium environment, from the seeds that were recorded, and
    name the first difference"""
    to: Path | None = None
    """write the dataset there: to an .npz, or, without a suffix, to a directory in Minari's
    layout"""
    environment: str | None = None
    """the environment that it was recorded in, a Gymnasium id or module:Name, where the dataset
    does not name it"""
    truncate_unfinished: bool = False
    """mark the last step of an episode as truncated where it has no flag, which is right for a
    recording that was cut off"""
    frame_stack: int = 1
    """number of latest observations that are stacked in it"""
    action_masks: bool = False
    """its observations have the masks of info["action_mask"]"""
    options: tyro.conf.UseAppendAction[list[str]] = dataclasses.field(default_factory=list)
    """keyword argument of gymnasium.make as NAME=VALUE, with the value in JSON; may be repeated"""


def _dataset(arguments: list[str]) -> None:
    """`etude dataset`"""
    command = flags.parse(DatasetCommand, "etude dataset", arguments)
    enable_cache()
    from rich.console import Console

    from etude.runs.inspection import describe_replay, inspect_dataset, inspection_table

    chosen = vars(command) | {"options": parse_options(command.options)}
    found = inspect_dataset(chosen.pop("path"), **chosen)
    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    if found.dataset is not None:
        console.print(inspection_table(found))
    for fault in found.faults:
        say(f"fault: {fault}")
    for note in found.notes:
        say(note if note.startswith("written ") else f"note: {note}")
    if found.faults:
        raise InvalidInput(
            f"{found.path} has {len(found.faults)} kinds of fault, which are named above; mend them"
        )
    if command.check:
        say("no faults found")
    if found.replay is not None:
        if found.replay.difference:
            raise InvalidInput(f"{found.path} does not replay: {found.replay.difference}")
        say(describe_replay(found.replay))
