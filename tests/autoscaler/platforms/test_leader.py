"""The lock on a file: one leads, the next follows when it ends, and a lock that is no lock is given up."""

import os

import pytest

from slo_autoscaler.errors import ConfigError
from slo_autoscaler.platforms.leader import FileLock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def locks(path):
    made = [FileLock(str(path)) for _ in range(3)]
    yield made
    for lock in made:
        lock.close()


def test_lock_one_of_several_leads_and_the_next_when_it_lets_go(locks, path, caplog):
    caplog.set_level("INFO")
    first, second, third = locks
    for _ in range(2):
        assert [lock.leads() for lock in locks] == [True, False, False]
    assert path.read_text() == f"{os.getpid()}\n"
    first.close()
    assert (second.leads(), third.leads()) == (True, False)
    assert caplog.text.count("standing by") == 2, "once for each that waits"


def test_a_lock_whose_file_is_removed_is_given_up_and_taken_anew(locks, path, caplog):
    first, second, _ = locks
    assert first.leads()
    path.unlink()
    assert second.leads(), "there is a new file, and nobody holds it"
    assert not first.leads()
    assert "was removed or replaced: no longer the leader" in caplog.text


def test_lock_in_a_removed_folder_has_no_leader_and_stops_the_next_start(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    lock = FileLock(str(folder / "lock"))
    (folder / "lock").unlink()
    folder.rmdir()
    assert not lock.leads()
    lock.close()
    with pytest.raises(ConfigError, match="folder/lock"):
        FileLock(str(folder / "lock"))
