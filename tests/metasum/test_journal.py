"""A sweep's journal: torn lines, a full disk."""

import os

import pytest

pytest.importorskip("optuna")
from optuna.storages import JournalStorage
from optuna.study import StudyDirection

from metasum.errors import StorageError
from metasum.sweeps import journal
from metasum.sweeps.journal import Journal


def opened(path):
    return JournalStorage(Journal(path))


@pytest.mark.parametrize("torn", [b'{"op_code":0,"worker', b"x" * 200_000])
def test_what_is_written_behind_a_torn_line_is_read(tmp_path, torn):
    path = tmp_path / "journal.log"
    opened(path).create_new_study([StudyDirection.MAXIMIZE], "first")
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    opened(path).create_new_study([StudyDirection.MAXIMIZE], "second")
    assert path.read_bytes().startswith(whole)
    assert {study.study_name for study in opened(path).get_all_studies()} == {"first", "second"}


def test_a_first_line_may_be_torn(tmp_path):
    path = tmp_path / "journal.log"
    path.write_bytes(b'{"op')
    opened(path).create_new_study([StudyDirection.MAXIMIZE], "only")
    assert len(opened(path).get_all_studies()) == 1


def test_a_full_disk_is_said_of_the_file_and_leaves_it_whole(tmp_path, monkeypatch):
    path = tmp_path / "journal.log"
    storage = opened(path)
    storage.create_new_study([StudyDirection.MAXIMIZE], "first")
    whole = path.read_bytes()

    def full(handle):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(journal.os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*journal\.log: No space left on device"):
        storage.create_new_study([StudyDirection.MAXIMIZE], "second")
    assert path.read_bytes() == whole
    monkeypatch.undo()
    assert [study.study_name for study in opened(path).get_all_studies()] == ["first"]


def test_a_line_that_is_damaged_in_the_middle_is_told(tmp_path):
    path = tmp_path / "journal.log"
    storage = opened(path)
    for name in ("first", "second", "third"):
        storage.create_new_study([StudyDirection.MAXIMIZE], name)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:9], *lines[2:]]))
    with pytest.raises(StorageError, match=r"cannot read the sweep's journal .*journal\.log"):
        opened(path)
