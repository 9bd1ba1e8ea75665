"""A directory has one writer: who comes second is told of the first, and the dead hold nothing."""

import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from etude.errors import InvalidInput
from etude.storage import files, writer_lock
from etude.storage.writer_lock import sole_writer


def leave_lock(directory, **changes):
    """A lock whose holder did not give it back."""
    holder = writer_lock._this_process() | changes
    (directory / "writer.lock").mkdir()
    files.write_json(directory / "writer.lock" / "holder.json", holder)


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


def test_another_living_process_is_named(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        leave_lock(tmp_path, process=process.pid, started=writer_lock._start_of(process.pid))
        assert f"process {process.pid} on this machine, {platform.node()}" in refusal(tmp_path)
        process.kill()
        while writer_lock._start_of(process.pid):
            time.sleep(0.001)
        with sole_writer(tmp_path):  # dead, though its parent has not asked for its end yet
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [{"process": 2**22 + 1}, {"process": 2**70}, {"started": "another boot-1"}, {"process": 0}],
    ids=["no such process", "no number of a process", "another start", "no process"],
)
def test_the_lock_of_the_dead_is_taken_over(tmp_path, changes):
    leave_lock(tmp_path, **changes)
    with sole_writer(tmp_path):
        assert "this process" in refusal(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_known_is_refused_with_the_way_out(tmp_path):
    leave_lock(tmp_path, host="elsewhere", process=2**22 + 1)
    said = refusal(tmp_path)
    assert "on elsewhere, another machine" in said
    assert f"If it does not run any more, remove {tmp_path / 'writer.lock'}" in said


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"process": "1"}'])
def test_a_lock_that_says_nothing_is_refused(tmp_path, content, monkeypatch):
    monkeypatch.setattr(writer_lock, "ATTEMPTS", 2)
    (tmp_path / "writer.lock").mkdir()
    (tmp_path / "writer.lock" / "holder.json").write_text(content)
    assert f"{tmp_path / 'writer.lock'} cannot be taken; remove it if" in refusal(tmp_path)


def test_a_directory_that_is_gone_is_no_reason_to_fail(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    with sole_writer(directory):
        for path in directory.rglob("*.json"):
            path.unlink()
        (directory / "writer.lock").rmdir()
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
            leave_lock(tmp_path, process=2**22 + 1)
        start = threading.Barrier(8)
        threads = [threading.Thread(target=enter) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not list(tmp_path.iterdir())
    assert most == [1] and entered and refused
    assert len(entered) + len(refused) == 200
