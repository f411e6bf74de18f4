"""Image data sets with a published test set, read from the authors' files.

A seed draws nothing: all seeds share the splits. `examples` is the number of training images used,
0 for all. ValueError if a file is missing or damaged, or if there are fewer examples.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lossbench.data.files import File
from lossbench.data.splits import Data, Extent, Splits, by_split, classification, held_out

if TYPE_CHECKING:  # code that locates files is not hashed into a run's identity
    from lossbench.data.files import Files

DEBIAN = "/usr/share/datasets/fashion-mnist"
"""Folder of Debian's package dataset-fashion-mnist."""

FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SUPERCLASSES = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11,
    6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5,
    5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17,
    10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13,
    16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)  # fmt: skip
"""Superclass of each class of CIFAR-100, as in the first byte of a record."""


def fashion_mnist(*, seed: int, files: Files, examples: int = 0) -> Splits:
    """70,000 grey pictures of clothes, 28x28 pixels, in 10 classes; 50,000 of them for training."""
    return _idx_set("fashion_mnist", examples, files)


def mnist(*, seed: int, files: Files, examples: int = 0) -> Splits:
    """70,000 handwritten digits, 28x28 pixels, in 10 classes; 50,000 of them for training."""
    return _idx_set("mnist", examples, files)


def cifar10(*, seed: int, files: Files, examples: int = 0) -> Splits:
    """60,000 colour photographs of animals and vehicles, 32x32 pixels; 45,000 for training."""
    return _cifar("cifar10", examples, files, classes=10, label_bytes=1)


def cifar100(*, seed: int, files: Files, examples: int = 0) -> Splits:
    """60,000 colour photographs, 32x32 pixels, in 100 classes of 20 superclasses."""
    return _cifar("cifar100", examples, files, classes=100, label_bytes=2)


# ---- reading -------------------------------------------------------------------------------------

# The caches keep the last set of each file format, so that all seeds of a pack share one copy.


@functools.lru_cache(maxsize=1)
def _idx_set(name: str, examples: int, files: Files) -> Splits:
    parts = {part: _idx(files.read(FILES[name][part])) for part in IDX_PARTS}
    pixels = {split: parts[f"{stem}-images-idx3-ubyte"][:, None] for split, stem in STEMS.items()}
    labels = {split: parts[f"{stem}-labels-idx1-ubyte"] for split, stem in STEMS.items()}
    return _split(pixels, labels, classes=10, validation=10_000, examples=examples)


@functools.lru_cache(maxsize=1)
def _cifar(name: str, examples: int, files: Files, *, classes: int, label_bytes: int) -> Splits:
    pixels, labels = {}, {}
    for split in ("train", "test"):
        parts = [part for part in FILES[name] if part.startswith("test") == (split == "test")]
        content = b"".join(files.read(FILES[name][part]) for part in parts)
        pixels[split], labels[split] = _records(content, label_bytes)
    return _split(pixels, labels, classes=classes, validation=5_000, examples=examples)


def _split(
    pixels: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    *,
    classes: int,
    validation: int,
    examples: int,
) -> Splits:
    """Split images [N, channels, height, width] and labels [N], given for train and test.

    `validation` is the number of training images that become the validation split.
    """
    rows = held_out(len(labels["train"]), validation)
    count = len(rows["train"])
    if not 0 <= examples <= count:
        raise ValueError(f"examples is {examples}: use 1 to {count}, or 0 for all of them")
    rows["train"] = rows["train"][: examples or count]
    return classification(
        by_split(pixels["train"], rows) | {"test": pixels["test"]},
        by_split(labels["train"], rows) | {"test": labels["test"]},
        classes=classes,
    )


def _idx(content: bytes) -> Tensor:
    """Array of bytes in an idx file; ValueError if `content` is not such a file.

    An idx file has two zero bytes, the type (8: unsigned byte), the number of axes, the length of
    each axis as four bytes, most significant first, and then the values.
    """
    axes = content[3] if len(content) > 3 else 0
    start = 4 + 4 * axes
    sizes = [int.from_bytes(content[place : place + 4], "big") for place in range(4, start, 4)]
    expected = start + torch.Size(sizes).numel()
    if content[:3] != b"\0\0\x08" or not axes or len(content) != expected:
        raise ValueError(
            f"not an idx file of bytes: {len(content)} bytes that begin with {content[:4]!r}"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(sizes)


def _records(content: bytes, label_bytes: int) -> tuple[Tensor, Tensor]:
    """Pixels [N, 3, 32, 32] and labels [N] in records of CIFAR's binary version.

    A record has `label_bytes` labels, one byte each, of which the last is the class, and 3,072
    pixels: red, green, blue. ValueError if `content` is not a whole number of records.
    """
    size = label_bytes + 3 * 32 * 32
    if not content or len(content) % size:
        raise ValueError(f"{len(content)} bytes are not a whole number of records of {size} bytes")
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(-1, size)
    return records[:, label_bytes:].reshape(-1, 3, 32, 32), records[:, label_bytes - 1]


# ---- the files -----------------------------------------------------------------------------------

STEMS = {"train": "train", "test": "t10k"}
IDX_PARTS = tuple(
    f"{stem}-{part}-ubyte" for stem in STEMS.values() for part in ("images-idx3", "labels-idx1")
)


def _idx_files(
    name: str,
    digests: Iterable[str],
    md5s: Iterable[str],
    *,
    folders: tuple[str, ...],
    mirror: str,
    or_else: str = "",
) -> dict[str, File]:
    """Descriptions of the four idx files of a data set, by file name."""
    cure = f"lossbench data={name} data.download=true brings it{or_else}"
    return {
        part: File(
            name=f"{part} of {name}",
            digest=f"sha256:{digest}",
            places=tuple(f"{folder}/{part}{end}" for folder in folders for end in ("", ".gz")),
            urls=(f"{mirror}{part}.gz",),
            md5=md5,
            cure=cure,
        )
        for part, digest, md5 in zip(IDX_PARTS, digests, md5s, strict=True)
    }


def _cifar_files(
    name: str, digests: Mapping[str, str], *, folder: str, archive: str, md5: str
) -> dict[str, File]:
    """Descriptions of the files of CIFAR's binary version, by file name."""
    return {
        part: File(
            name=f"{part} of {name}",
            digest=f"sha1:{digest}",
            places=(f"{folder}/{part}", archive),
            urls=(f"https://www.cs.toronto.edu/~kriz/{archive}",),
            md5=md5,
            cure=f"lossbench data={name} data.download=true brings {archive}",
            member=f"{folder}/{part}",
        )
        for part, digest in digests.items()
    }


FILES = {
    "fashion_mnist": _idx_files(
        "fashion_mnist",
        (  # sha256 of the unpacked files in Debian's package
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        (  # md5 of the packed files, as in torchvision
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        folders=("FashionMNIST/raw", "fashion-mnist", ".", DEBIAN),
        mirror="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        or_else=", and so does Debian's package dataset-fashion-mnist",
    ),
    "mnist": _idx_files(
        "mnist",
        (  # sha256 of the unpacked files, equal in several public repositories
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        folders=("MNIST/raw", "mnist"),
        mirror="https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    "cifar10": _cifar_files(
        "cifar10",
        {  # sha1 of the members, as MXNet's gluon.data.vision checks them
            "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
            "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
            "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
            "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
            "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
            "test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c",
        },
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
    ),
    "cifar100": _cifar_files(
        "cifar100",
        {
            "train.bin": "e207cd2e05b73b1393c74c7f5e7bea451d63e08e",
            "test.bin": "8fb6623e830365ff53cf14adec797474f5478006",
        },
        folder="cifar-100-binary",
        archive="cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
    ),
}


# ---- the rows ------------------------------------------------------------------------------------


def _confusions(classes: tuple[str, ...], confused: Mapping[str, str]) -> dict[int, int]:
    """Convert confused classes from names to numbers."""
    return {classes.index(name): classes.index(other) for name, other in confused.items()}


FAMILIES = [
    [label for label, number in enumerate(SUPERCLASSES) if number == superclass]
    for superclass in range(20)
]
"""Classes of each superclass of CIFAR-100."""

ROWS = (
    Data(
        fashion_mnist,
        "classification",
        "Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747; Zalando Research",
        licence="MIT",
        drawn="fixed",
        extent=Extent(50_000, 10_000, 10_000, inputs=(1, 28, 28), outputs=10),
        confusions=_confusions(
            FASHION_CLASSES,
            {"shirt": "T-shirt", "T-shirt": "shirt", "pullover": "coat", "coat": "pullover"}
            | {"ankle boot": "sneaker", "sneaker": "ankle boot"},
        ),
        note="Its classes overlap: people without expertise name 83.5% of a sample (its README).",
    ),
    Data(
        mnist,
        "classification",
        "LeCun, Bottou, Bengio and Haffner 1998, Proceedings of the IEEE; yann.lecun.com",
        licence="CC BY-SA 3.0",
        drawn="fixed",
        extent=Extent(50_000, 10_000, 10_000, inputs=(1, 28, 28), outputs=10),
        confusions={7: 1, 2: 7, 5: 6, 6: 5, 3: 8},  # Patrini et al. 2017, CVPR
        note="Nearly solved: good models differ in few of its test images.",
    ),
    Data(
        cifar10,
        "classification",
        "Krizhevsky 2009, Learning multiple layers of features from tiny images; Toronto",
        licence="none stated",
        drawn="fixed",
        extent=Extent(45_000, 5_000, 10_000, inputs=(3, 32, 32), outputs=10),
        confusions=_confusions(  # Patrini et al. 2017, CVPR
            CIFAR10_CLASSES,
            {
                "truck": "automobile",
                "bird": "airplane",
                "deer": "horse",
                "cat": "dog",
                "dog": "cat",
            },
        ),
        note="3.3% of its test images have near-duplicates in training (Barz and Denzler 2020).",
    ),
    Data(
        cifar100,
        "classification",
        "Krizhevsky 2009, Learning multiple layers of features from tiny images; Toronto",
        licence="none stated",
        drawn="fixed",
        extent=Extent(45_000, 5_000, 10_000, inputs=(3, 32, 32), outputs=100),
        confusions={  # the next of the superclass, as in Patrini et al. 2017, CVPR
            label: other
            for family in FAMILIES
            for label, other in zip(family, family[1:] + family[:1], strict=True)
        },
        note="10% of its test images have near-duplicates in training (Barz and Denzler 2020).",
    ),
)
