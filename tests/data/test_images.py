"""Image sets: files that are read as they were published or not at all, and what they hold."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import make_run
from interrupted import ENGINE
from needs import splits_of_set

from lossbench import cli
from lossbench.data import DATA, images
from lossbench.data.files import File, Files, Missing
from lossbench.data.splits import classification, held_out, standardised_images
from lossbench.protocol.forecast import forecast
from lossbench.sweep import Sweep, preflight
from lossbench.sweep.backend import InProcess
from lossbench.sweep.training import Trainer

CURE = "lossbench data=mine data.download=true brings it"


@pytest.fixture(autouse=True)
def own_memory():
    """What a test read from files is forgotten."""
    yield
    images._idx_set.cache_clear()
    images._cifar.cache_clear()


def row_of(content: bytes, *places: str, member: str = "") -> File:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    md5 = hashlib.md5(content).hexdigest()
    return File("mine", digest, places, CURE, ("https://there/mine.gz",), md5, member)


def archived(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


# ---- finding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 9])
def test_a_file_counts_as_the_same_however_it_was_compressed(tmp_path, level):
    (tmp_path / "mine.gz").write_bytes(gzip.compress(b"content", level))
    assert Files(tmp_path).read(row_of(b"content", "elsewhere/mine", "mine.gz")) == b"content"


def test_the_first_place_that_exists_is_taken_and_may_be_absolute(tmp_path):
    for name in ("second", "third"):
        (tmp_path / name).write_bytes(b"content" if name == "second" else b"no")
    assert Files(tmp_path).read(row_of(b"content", "first", "second", "third")) == b"content"
    row = row_of(b"content", "second", str(tmp_path / "second"))
    assert Files(Path("nowhere")).read(row) == b"content"


def test_a_member_is_read_from_an_archive_that_stays_packed(tmp_path):
    archived(tmp_path / "all.tar.gz", {"in/one.bin": b"content", "in/two.bin": b"other"})
    row = row_of(b"content", "in/one.bin", "all.tar.gz", member="in/one.bin")
    assert Files(tmp_path).read(row) == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["all.tar.gz"]


def test_a_missing_file_is_named_with_the_command_that_brings_it(tmp_path):
    with pytest.raises(Missing, match=rf"mine is not below data.root={tmp_path}: {CURE}"):
        Files(tmp_path).read(row_of(b"content", "mine"))


def test_another_content_is_refused_with_both_digests(tmp_path):
    (tmp_path / "mine").write_bytes(b"contend")
    got, published = (hashlib.sha256(text).hexdigest()[:12] for text in (b"contend", b"content"))
    with pytest.raises(ValueError, match=rf"sha256 {got}\.\.\. instead of {published}\.\.\.: repl"):
        Files(tmp_path).read(row_of(b"content", "mine"))


def test_a_damaged_file_or_an_archive_without_the_member_is_refused(tmp_path):
    packed = gzip.compress(b"content" * 100)
    broken = {"no_gzip.gz": b"content", "cut.gz": packed[:-9], "no_archive.tar.gz": b"content"}
    flipped = bytearray(packed)
    flipped[15] ^= 255
    for name, content in (broken | {"flipped.gz": bytes(flipped)}).items():
        (tmp_path / name).write_bytes(content)
    archived(tmp_path / "all.tar.gz", {"in/two.bin": b"other"})
    for name in (*broken, "flipped.gz", "all.tar.gz"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read .*: replace it, {CURE}"):
            Files(tmp_path).read(row_of(b"content" * 100, name, member="in/one.bin"))


# ---- downloading ---------------------------------------------------------------------------------


@pytest.fixture
def server():
    """A server on this machine: (its address, what it serves by path, the paths asked for)."""
    contents, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content = contents.get(self.path)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,)).start()
        yield f"http://127.0.0.1:{running.server_port}", contents, asked
        running.shutdown()


def downloadable(packed: bytes, *urls: str) -> File:
    row = row_of(b"content", "in/mine", "in/mine.gz")
    return replace(row, urls=urls, md5=hashlib.md5(packed).hexdigest())


def test_nothing_is_downloaded_unless_it_is_asked_for(tmp_path, server):
    address, _, asked = server
    with pytest.raises(Missing):
        Files(tmp_path / "data").read(downloadable(b"", f"{address}/mine.gz"))
    assert asked == []
    assert not (tmp_path / "data").exists()


def test_a_download_is_kept_and_not_made_again(tmp_path, server):
    address, contents, asked = server
    packed = contents["/mine.gz"] = gzip.compress(b"content")
    row, files = downloadable(packed, f"{address}/mine.gz"), Files(tmp_path / "data", download=True)
    assert [files.read(row) for _ in range(2)] == [b"content"] * 2
    assert asked == ["/mine.gz"]
    assert [path.name for path in (tmp_path / "data" / "in").iterdir()] == ["mine.gz"]


def test_a_second_address_serves_where_the_first_fails(tmp_path, server):
    address, contents, asked = server
    packed = contents["/second.gz"] = gzip.compress(b"content")
    row = downloadable(packed, f"{address}/first.gz", f"{address}/second.gz")
    assert Files(tmp_path, download=True).read(row) == b"content"
    assert asked == ["/first.gz", "/second.gz"]


def test_a_corrupted_download_leaves_nothing_behind(tmp_path, server):
    address, contents, _ = server
    contents["/mine.gz"] = gzip.compress(b"contend")
    row = downloadable(gzip.compress(b"content"), f"{address}/mine.gz")
    with pytest.raises(ValueError, match=r"cannot be downloaded \(http.*mine\.gz: MD5 hash"):
        Files(tmp_path, download=True).read(row)
    assert list((tmp_path / "in").iterdir()) == []


def test_a_download_that_fails_says_why_and_where_to_put_the_file(tmp_path, server):
    address, *_ = server
    row = downloadable(b"", f"{address}/mine.gz")
    place = tmp_path / "in" / "mine.gz"
    with pytest.raises(ValueError, match=rf"404 .*: put it to {place} yourself"):
        Files(tmp_path, download=True).read(row)


# ---- the formats ---------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.mark.parametrize("shape", [(300,), (3, 28, 28), (1, 2, 3, 4)])
def test_an_idx_file_is_read_as_it_was_written(shape):
    array = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    np.testing.assert_array_equal(images._idx(idx(array)), array)


GOOD = idx(np.arange(6, dtype=np.uint8).reshape(2, 3))


NO_IDX = {
    "empty": b"",
    "no axes": b"\0\0\x08",
    "cut": GOOD[:-1],
    "longer": GOOD + b"\0",
    "other start": b"\0\1" + GOOD[2:],
    "floats": b"\0\0\x0d" + GOOD[3:],
    "scalar": b"\0\0\x08\0",
    "many axes": b"\0\0\x08\xff" + GOOD[4:],
    "a picture": b"P5 2 3 255 abcdef",
}


@pytest.mark.parametrize("content", NO_IDX.values(), ids=NO_IDX)
def test_what_is_no_idx_file_is_refused(content):
    with pytest.raises(ValueError, match="not an idx file of bytes"):
        images._idx(content)


@pytest.mark.parametrize("label_bytes", [1, 2])
def test_records_of_cifar_are_labels_and_then_planes_of_colour(label_bytes):
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    labels = draw.integers(0, 10, (5, label_bytes), dtype=np.uint8)
    content = b"".join(
        bytes(label) + plane.tobytes() for label, plane in zip(labels, pixels, strict=True)
    )
    read, found = images._records(content, label_bytes)
    np.testing.assert_array_equal(read, pixels)
    np.testing.assert_array_equal(found, labels[:, -1])


@pytest.mark.parametrize("content", [b"", b"x" * 3072, b"x" * 3074])
def test_what_is_no_records_is_refused(content):
    with pytest.raises(ValueError, match="not a whole number of records of 3073 bytes"):
        images._records(content, 1)


# ---- whole sets, written here --------------------------------------------------------------------


def rewritten(monkeypatch, name: str, contents: dict[str, bytes]) -> None:
    """Give a set's files other digests, those of the contents."""
    rows = {
        part: replace(row, digest=f"sha256:{hashlib.sha256(contents[part]).hexdigest()}")
        for part, row in images.FILES[name].items()
    }
    monkeypatch.setitem(images.FILES, name, rows)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_set_of_idx_files_is_split_and_keeps_its_test_set(name, ending, tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    arrays = {}
    for stem, count in (("train", 10_300), ("t10k", 70)):
        arrays[f"{stem}-images-idx3-ubyte"] = draw.integers(0, 256, (count, 4, 5), dtype=np.uint8)
        arrays[f"{stem}-labels-idx1-ubyte"] = draw.integers(0, 10, count, dtype=np.uint8)
    contents = {part: idx(array) for part, array in arrays.items()}
    folder = tmp_path / images.FILES[name]["t10k-labels-idx1-ubyte"].places[0]
    folder.parent.mkdir(parents=True)
    for part, content in contents.items():
        packed = gzip.compress(content) if ending else content
        (folder.parent / f"{part}{ending}").write_bytes(packed)
    rewritten(monkeypatch, name, contents)
    splits = DATA[name].splits(3, Files(tmp_path))
    sizes = {split: tuple(rows.shape) for split, rows in splits.inputs.items()}
    assert sizes == {
        "train": (300, 1, 4, 5),
        "validation": (10_000, 1, 4, 5),
        "test": (70, 1, 4, 5),
    }
    labels = splits.targets["test"].argmax(-1)
    np.testing.assert_array_equal(labels, arrays["t10k-labels-idx1-ubyte"])
    train = held_out(10_300, 10_000)["train"]
    pixels = arrays["train-images-idx3-ubyte"][train.numpy()].astype(float)
    expected = (arrays["t10k-images-idx3-ubyte"] - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(splits.inputs["test"][:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("is_packed", [True, False], ids=["archive", "files"])
@pytest.mark.parametrize(("name", "label_bytes"), [("cifar10", 1), ("cifar100", 2)])
def test_cifar_is_read_from_its_binary_version(name, label_bytes, is_packed, tmp_path, monkeypatch):
    draw = np.random.default_rng(0)
    trains = [part for part in images.FILES[name] if not part.startswith("test")]
    count = {part: 5_100 // len(trains) for part in trains}
    arrays = {
        part: draw.integers(0, 10, (count.get(part, 30), label_bytes + 3072), dtype=np.uint8)
        for part in images.FILES[name]
    }
    contents = {part: array.tobytes() for part, array in arrays.items()}
    rewritten(monkeypatch, name, contents)
    row = next(iter(images.FILES[name].values()))
    inside = {images.FILES[name][part].member: content for part, content in contents.items()}
    if is_packed:
        archived(tmp_path / row.places[-1], inside)
    else:
        for member, content in inside.items():
            (tmp_path / member).parent.mkdir(exist_ok=True)
            (tmp_path / member).write_bytes(content)
    splits = DATA[name].splits(0, Files(tmp_path))
    sizes = {split: tuple(rows.shape) for split, rows in splits.inputs.items()}
    shape = (3, 32, 32)
    assert sizes == {"train": (100, *shape), "validation": (5_000, *shape), "test": (30, *shape)}
    test = next(array for part, array in arrays.items() if part.startswith("test"))
    assert splits.targets["test"].argmax(-1).tolist() == test[:, label_bytes - 1].tolist()
    whole = np.concatenate([arrays[part] for part in trains])
    rows = held_out(len(whole), 5_000)
    for split in ("train", "validation"):
        labels = whole[rows[split].numpy(), label_bytes - 1]
        assert splits.targets[split].argmax(-1).tolist() == labels.tolist()
    assert splits.targets["test"].shape[1] == DATA[name].extent.outputs


def test_a_run_on_files_that_are_missing_is_refused_before_any_training(tmp_path):
    run = make_run(data="cifar10", loss="cross_entropy")
    with pytest.raises(ValueError, match=r"data cifar10: .* data\.download=true brings"):
        preflight([run], Files(tmp_path))


@pytest.mark.parametrize("command", [[], ["plan"], ["-m"]], ids=["run", "plan", "sweep"])
def test_every_command_looks_where_it_is_told_and_says_what_is_missing(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    line = [*command, "data=mnist", "data.root=there"]
    assert cli.main(line) == cli.MISTAKE
    assert "is not below data.root=there: lossbench data=mnist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("begin", ["train", "foretell"])
def test_a_sweep_that_no_command_prepared_looks_where_its_engine_says(begin, tmp_path):
    backend = InProcess(Trainer(replace(ENGINE, data_root="there")))
    sweep = Sweep(tmp_path, name="one", command="", backend=backend)
    runs = [make_run(data="mnist", loss="cross_entropy")]
    with pytest.raises(ValueError, match=r"is not below data\.root=there"):
        sweep.run(runs) if begin == "train" else forecast({"exploratory": runs}, sweep)


@pytest.mark.parametrize("swept", ["data.root=one,two", "data.download=true,false"])
def test_a_sweep_has_one_place_for_its_files(swept, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["-m", "data=digits", "steps=2", swept]) == cli.MISTAKE
    assert "for some runs: give one for all of them" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---- splits --------------------------------------------------------------------------------------


def test_what_is_held_out_is_drawn_once_for_all():
    rows = held_out(1000, 200)
    assert sorted(torch.cat(list(rows.values())).tolist()) == list(range(1000))
    assert [len(rows[split]) for split in ("train", "validation")] == [800, 200]
    # Another version that draws another order would be another data set under the same name.
    assert rows["train"][:5].tolist() == [131, 655, 977, 850, 123]


def test_images_are_standardised_by_channel_and_not_by_pixel():
    draw = torch.Generator().manual_seed(0)
    pixels = {
        split: torch.randint(0, 256, (count, 3, 6, 6), generator=draw).byte()
        for split, count in (("train", 50), ("test", 20))
    }
    pixels["train"][:, 1] = 7
    done = standardised_images(pixels)
    train = pixels["train"].numpy().astype(float)
    for channel, scale in ((0, train[:, 0].std()), (1, 1.0), (2, train[:, 2].std())):
        expected = (pixels["test"][:, channel].numpy() - train[:, channel].mean()) / scale
        np.testing.assert_allclose(done["test"][:, channel], expected, atol=1e-4)
    assert done["train"].dtype == torch.float32
    floats = {split: rows.float() for split, rows in pixels.items()}
    before = floats["train"].clone()
    assert torch.equal(standardised_images(floats)["test"], done["test"])
    assert torch.equal(floats["train"], before)
    labels = {split: torch.zeros(len(rows)) for split, rows in pixels.items()}
    splits = classification(pixels, labels, classes=2)
    assert torch.equal(splits.inputs["test"], done["test"])


@pytest.mark.parametrize("examples", [-1, 50_001])
def test_more_training_images_than_there_are_is_a_mistake(examples):
    pixels = {split: torch.zeros(60, 1, 2, 2).byte() for split in ("train", "test")}
    labels = {split: torch.zeros(60) for split in ("train", "test")}
    with pytest.raises(ValueError, match="use 1 to 50, or 0 for all"):
        images._split(pixels, labels, classes=2, validation=10, examples=examples)


# ---- confusions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [row.name for row in images.ROWS])
def test_classes_that_people_take_for_each_other_are_two_classes_of_the_set(name):
    row = DATA[name]
    classes = range(row.extent.outputs)
    assert row.confusions
    assert all(one in classes and other in classes for one, other in row.confusions.items())
    assert all(one != other for one, other in row.confusions.items())


def test_the_named_classes_are_those_of_torchvision():
    from torchvision.datasets import FashionMNIST

    names = [name.split("/")[0].lower() for name in FashionMNIST.classes]
    assert [name.lower() for name in images.FASHION_CLASSES] == names
    assert DATA["cifar10"].confusions == {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}  # Patrini's table


def test_a_class_of_cifar100_is_confused_within_its_superclass_and_by_one_class_only():
    assert set(Counter(images.SUPERCLASSES).values()) == {5}
    confusions = DATA["cifar100"].confusions
    assert sorted(confusions) == sorted(confusions.values()) == list(range(100))
    for one, other in confusions.items():
        assert images.SUPERCLASSES[one] == images.SUPERCLASSES[other]
    # People: baby 2, boy 11, girl 35, man 46, woman 98.
    assert [confusions[one] for one in (2, 11, 35, 46, 98)] == [11, 35, 46, 98, 2]


# ---- Fashion-MNIST itself ------------------------------------------------------------------------


def test_fewer_examples_are_the_first_of_all_and_leave_what_models_are_judged_by():
    few, all_of_them = (splits_of_set("fashion_mnist", examples=n) for n in (500, 0))
    assert len(few.inputs["train"]) == 500
    for split, count in (("train", 500), ("validation", 10_000), ("test", 10_000)):
        assert torch.equal(few.targets[split][:count], all_of_them.targets[split][:count])


def test_fashion_mnist_has_as_many_of_each_class_and_the_published_brightness():
    splits = splits_of_set("fashion_mnist")
    kept = splits.targets["train"].sum(0) + splits.targets["validation"].sum(0)
    assert kept.tolist() == [6_000.0] * 10
    assert splits.targets["test"].sum(0).tolist() == [1_000.0] * 10
    black = float(splits.inputs["train"].min())
    white = float(splits.inputs["train"].max())
    assert -black / (white - black) == pytest.approx(0.2860, abs=2e-3)  # of all 60,000 images
    assert 1 / (white - black) == pytest.approx(0.3530, abs=2e-3)
