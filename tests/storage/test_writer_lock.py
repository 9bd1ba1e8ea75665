"""A directory has one writer: who comes second is told of the first, and the dead hold nothing."""

import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from etude.errors import InvalidInput
from etude.storage import files
from etude.storage.writer_lock import sole_writer


def leave_lock(directory, **changes):
    """The lock of a holder that ended before it could remove it."""
    holder = {"process": 2**22 + 1, "host": platform.node(), "since": "2026-01-01 00:00:00"}
    files.write_json(directory / "writer.lock", holder | changes)


def refusal(directory):
    before = sorted(directory.rglob("*"))
    with pytest.raises(InvalidInput) as error, sole_writer(directory):
        pytest.fail("there are two writers")
    assert sorted(directory.rglob("*")) == before and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_it_is_given_back_whatever_ends_the_block(tmp_path, error):
    for _ in range(2):
        try:
            with sole_writer(tmp_path):
                assert [path.name for path in tmp_path.iterdir()] == ["writer.lock"]
                if error:
                    raise error
        except (ZeroDivisionError, KeyboardInterrupt):
            pass
        assert not list(tmp_path.iterdir())


def test_the_second_is_told_who_the_first_is(tmp_path):
    with sole_writer(tmp_path):
        said = refusal(tmp_path)
    for word in (str(os.getpid()), "since 20", str(tmp_path / "writer.lock"), "this process"):
        assert word in said


HOLD = """
import sys
from pathlib import Path
from etude.storage.writer_lock import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("inside", flush=True)
    input()
"""


@pytest.mark.slow
def test_another_living_process_is_named_and_a_killed_one_holds_nothing(tmp_path):
    asked = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert f"process {process.pid} on this machine, {platform.node()}" in refusal(tmp_path)
        process.kill()
        process.wait()
        assert (tmp_path / "writer.lock").exists()
        with sole_writer(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[]", "{}", "{", '{"process": "1"}'])
def test_the_lock_of_the_dead_is_taken_over_whatever_it_says(tmp_path, content):
    (tmp_path / "writer.lock").write_text(content)
    for left in (lambda: None, lambda: leave_lock(tmp_path)):
        left()
        with sole_writer(tmp_path):
            assert "this process" in refusal(tmp_path)
        assert not list(tmp_path.iterdir())


def test_what_cannot_be_known_is_refused_with_the_way_out(tmp_path):
    leave_lock(tmp_path, host="elsewhere")
    said = refusal(tmp_path)
    assert "on another machine, elsewhere" in said
    assert f"If it does not run any more, remove {tmp_path / 'writer.lock'}" in said


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "writer.lock").symlink_to(tmp_path / "mine")
    with pytest.raises(InvalidInput, match="cannot be written to"), sole_writer(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_directory_that_is_gone_is_no_reason_to_fail(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    with sole_writer(directory):
        (directory / "writer.lock").unlink()
        directory.rmdir()
    assert not directory.exists()


def test_where_nothing_can_be_written_is_said(tmp_path):
    with (
        pytest.raises(InvalidInput, match="none cannot be written to"),
        sole_writer(tmp_path / "none"),
    ):
        pass


@pytest.mark.parametrize("holder", ["nobody", "a dead process"])
def test_of_many_that_try_at_once_one_is_inside_at_a_time(tmp_path, holder):
    inside, most, refused, entered = [0], [0], [], []

    def enter():
        start.wait()
        for _ in range(5):
            try:
                with sole_writer(tmp_path):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0.0005)
                    inside[0] -= 1
                    entered.append(1)
            except InvalidInput as error:
                refused.append(str(error))

    for _ in range(5):
        if holder == "a dead process":
            leave_lock(tmp_path)
        start = threading.Barrier(8)
        threads = [threading.Thread(target=enter) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not list(tmp_path.iterdir())
    assert most == [1] and entered and refused
    assert len(entered) + len(refused) == 200
