"""The store: atomic writes, verified reads, one commit record, one lock."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from lossbench import store

STATE = {"schema": 1, "members": {}, "is_finished": True}

HOLDER = """
import sys, time
from pathlib import Path
from lossbench import store
with store.lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def disk_full(*_args, **_kwargs):
    raise OSError(28, "No space left on device")


def interrupted(*_args, **_kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize(
    ("fails", "error", "message"),
    [
        (disk_full, store.WriteError, r"No space left.*same command again"),
        (interrupted, KeyboardInterrupt, None),
    ],
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, step, fails, error, message
):
    path = tmp_path / "file"
    store.write(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fails)  # no file system fails at a chosen call
        with pytest.raises(error, match=message):
            store.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert files_in(tmp_path) == ["file"]


def test_content_is_on_disk_before_its_name_is(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    # The order of calls is the promise.
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(
        os, "replace", lambda path, to: (events.append("replace"), replace(path, to))[1]
    )
    store.write(tmp_path / "file", b"new")
    assert events == ["fsync", "replace", "fsync"]


def test_what_is_committed_is_read_back(tmp_path):
    store.commit(tmp_path / "p", {"a": b"one", "b": b""}, STATE)
    assert store.read(tmp_path / "p", "a") == b"one"
    assert store.read(tmp_path / "p", "b") == b""
    assert store.committed(tmp_path / "p")["schema"] == 1


def test_a_second_commit_keeps_what_it_names_and_deletes_the_rest(tmp_path):
    store.commit(tmp_path, {"a": b"one", "b": b"two"}, STATE)
    store.commit(tmp_path, {"c": b"three"}, STATE, keep=["a"])
    assert store.read(tmp_path, "a") == b"one"
    assert store.read(tmp_path, "c") == b"three"
    assert files_in(tmp_path) == ["a", "c", store.COMMIT]
    with pytest.raises(store.StoreError, match=r"not named in commit\.json\. Delete"):
        store.read(tmp_path, "b")


def test_a_dissolved_pack_leaves_nothing(tmp_path):
    store.commit(tmp_path / "p", {"a": b"one"}, STATE)
    store.dissolve(tmp_path / "p")
    assert files_in(tmp_path) == []


def test_a_commit_that_fails_half_way_commits_nothing(tmp_path, monkeypatch):
    written, replace = [], os.replace

    def full_after_one(path, to):
        written.append(to)
        if len(written) > 1:
            disk_full()
        return replace(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_after_one)  # between two files of one commit
        with pytest.raises(store.WriteError, match="No space left"):
            store.commit(tmp_path, {"a": b"one", "b": b"two"}, STATE)
    assert store.committed(tmp_path) is None


def test_a_live_file_is_never_replaced(tmp_path):
    store.commit(tmp_path, {"a": b"old"}, STATE)
    with pytest.raises(AssertionError, match="never replaced"):
        store.commit(tmp_path, {"a": b"new"}, STATE)
    assert store.read(tmp_path, "a") == b"old"


@pytest.mark.parametrize("size", [0, 1, 99])
def test_a_truncated_file_is_refused_with_the_cure(tmp_path, size):
    store.commit(tmp_path, {"a": bytes(range(100))}, STATE)
    (tmp_path / "a").write_bytes(bytes(range(size)))
    with pytest.raises(store.StoreError, match=r"differs from its recorded sha256\. Delete .*"):
        store.read(tmp_path, "a")


def test_no_flipped_bit_of_a_record_changes_what_is_read(tmp_path):
    store.commit(tmp_path, {"a": b"one"}, STATE)
    path, before = tmp_path / store.COMMIT, store.committed(tmp_path)
    content = path.read_bytes()
    refused = 0
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert store.committed(tmp_path) == before  # a blank that became another blank
        except store.StoreError:
            refused += 1
    assert refused > 0.9 * 8 * len(content)


def test_no_flipped_bit_is_read_silently(tmp_path):
    content = random.Random(0).randbytes(64)
    store.commit(tmp_path, {"a": content}, STATE)
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "a").write_bytes(flipped)
        with pytest.raises(store.StoreError, match="differs"):
            store.read(tmp_path, "a")


def test_a_committed_file_that_is_gone_is_refused_with_the_cure(tmp_path):
    store.commit(tmp_path, {"a": b"one"}, STATE)
    (tmp_path / "a").unlink()
    with pytest.raises(store.StoreError, match=r"No such file.*Delete"):
        store.read(tmp_path, "a")


@pytest.mark.parametrize(
    "torn", [b"", b"{", b'{"files": {"a": "1', b"\xff\xfe", b"[]", b"{}", b'{"files": {}}']
)
def test_a_torn_commit_record_is_refused_with_the_cure(tmp_path, torn):
    store.commit(tmp_path, {"a": b"one"}, STATE)
    (tmp_path / store.COMMIT).write_bytes(torn)
    for ask in (store.committed, lambda folder: store.read(folder, "a")):
        with pytest.raises(store.StoreError, match=r"[Dd]elete .* trained"):
            ask(tmp_path)


def test_json_is_canonical_and_round_trips(tmp_path):
    value = {"b": [1, 2.5, None, "é"], "a": {"y": True, "x": 1e-300}}
    assert store.to_json(value) == store.to_json(dict(reversed(value.items())))
    store.write(tmp_path / "f", store.sealed(value))
    assert store.read_sealed(tmp_path / "f") == value == json.loads(store.to_json(value))


@pytest.mark.parametrize("key", ["a", "z"])  # the seal's own line is the last one, or is not
def test_a_sealed_record_of_which_a_digit_was_changed_is_refused(tmp_path, key):
    content = store.sealed({"b": [], key: 1})
    store.write(tmp_path / "f", content.replace(b": 1", b": 2"))
    with pytest.raises(store.StoreError, match="altered"):
        store.read_sealed(tmp_path / "f")


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_lock_held_by_a_second_process_is_refused_with_its_pid(tmp_path, holder):
    with pytest.raises(store.StoreError, match=rf"process {holder.pid}\. .*name="):  # noqa: SIM117
        with store.lock(tmp_path / "lock"):
            pass


def test_a_lock_is_free_once_its_holder_was_killed(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with store.lock(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text().split()[0] == str(os.getpid())


def test_looking_at_a_lock_writes_nothing_and_keeps_nobody_from_taking_it(tmp_path, holder):
    path = tmp_path / "lock"
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert store.is_held(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert not store.is_held(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_lock_that_somebody_only_looks_at_is_still_got(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    with path.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        timer = threading.Timer(0.005, fcntl.flock, (looking, fcntl.LOCK_UN))
        timer.start()
        with store.try_lock(path) as is_mine:
            assert is_mine
        timer.join()


# ---- what is no file -----------------------------------------------------------------------------


def a_link(path):
    target = path.with_name("precious")
    target.write_bytes(b"precious")
    path.symlink_to(target)


@pytest.mark.parametrize("make", [a_link, os.mkfifo, os.mkdir])
def test_a_lock_that_is_no_file_is_refused_and_what_it_leads_to_stays(tmp_path, make):
    path = tmp_path / "lock"
    make(path)
    with (
        pytest.raises(store.WriteError, match="a link, folder, pipe or device stands where"),
        store.lock(path),
    ):
        pass
    with pytest.raises(store.StoreError, match="a link, folder, pipe or device stands where"):
        store.is_held(path)
    if make is a_link:
        assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_write_replaces_a_link_and_not_what_it_leads_to(tmp_path):
    a_link(tmp_path / "file")
    store.write(tmp_path / "file", b"new")
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_pack_that_is_a_link_to_another_folder_is_refused(tmp_path):
    store.commit(tmp_path / "real", {"a": b"a"}, STATE)
    (tmp_path / "pack").symlink_to(tmp_path / "real")
    with pytest.raises(
        store.StoreError, match="is a link, but a folder of the sweep should be there"
    ):
        store.committed(tmp_path / "pack")


@pytest.mark.parametrize("content", [b"precious", b""])
def test_a_file_of_somebody_else_is_no_lock_and_stays(tmp_path, content):
    (tmp_path / "mine").write_bytes(content)
    if content:
        (tmp_path / "lock").write_bytes(content)
    else:
        (tmp_path / "lock").hardlink_to(tmp_path / "mine")
    with (
        pytest.raises(store.WriteError, match="it is not a lock of lossbench"),
        store.lock(tmp_path / "lock"),
    ):
        pass
    assert (tmp_path / "lock").read_bytes() == content
