"""Next-token prediction: a generated language with known posterior, and real texts by characters.

An example is a window of T tokens; the label of a token is the next token, so a window reads T + 1
tokens of the text. A text is cut into consecutive blocks of `BLOCK` windows, and each block belongs
to one split: no window of test or validation overlaps a window of training. The remainder at the
end of the text is dropped.
"""

from __future__ import annotations

import functools
import hashlib
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lossbench.data.files import Program
from lossbench.data.splits import SPLITS, Data, Extent, Splits
from lossbench.errors import ConfigError
from lossbench.fingerprints import stream

if TYPE_CHECKING:  # code that locates files is not hashed into a run's identity
    from lossbench.data.files import Files

BLOCK = 8
"""Number of windows in a block."""

MOST_WINDOW = 4096
MOST_CHARACTERS = 10**8

PYTHON_MODULES = (
    "argparse", "ast", "calendar", "cgitb", "configparser", "copy", "csv", "dataclasses",
    "datetime", "difflib", "enum", "fractions", "functools", "gettext", "heapq", "inspect",
    "locale", "mailbox", "optparse", "pathlib", "pdb", "pickle", "platform", "pprint", "random",
    "shutil", "socket", "statistics", "string", "subprocess", "tarfile", "textwrap", "threading",
    "tokenize", "traceback", "turtle", "typing", "uuid", "warnings", "zipfile",
)  # fmt: skip
"""Modules of the standard library that `python_source` reads; modules that the installed version
lacks are skipped."""

PROGRAMS = {
    "bible": Program(  # prints each verse on a line, after the verse's number
        "bible",
        ("-p", "{lib}", "-f", "gen1:1-rev22:21"),
        "cd45f0c9cedab8e4439bd6486c8952c77cc8b0ecc5d1f6ae3513f2039f47229d",
        "sudo apt-get install bible-kjv brings Debian's, or use data=python_source",
    )
}
"""Programs that print texts, by data set."""


def markov_text(
    *,
    seed: int,
    examples: int = 2000,
    held_out: int = 256,
    window: int = 32,
    vocabulary: int = 16,
    branches: int = 4,
    zipf: float = 1.0,
) -> Splits:
    """A Markov chain of order 2: the last two tokens give known probabilities of the next token.

    After each pair of tokens `branches` tokens may follow. These followers are drawn without
    replacement with weights 1/rank^zipf of the tokens, so that some tokens are frequent after every
    pair; the probability of the r-th drawn follower is proportional to 1/r^zipf. A window is a
    sentence that starts as if two tokens 0 preceded it, so that the first position has a context.

    Args:
        seed: Draws the language and all sentences.
        examples: Number of training windows, which changes neither the language, nor validation and
            test.
        held_out: Number of validation windows, and of test windows.
        window: T.
        vocabulary: V, 2 or more.
        branches: Number of tokens that may follow a pair, 1 to V.
        zipf: Exponent of the token weights; at 0 all tokens are equally frequent.

    Source:
        Shannon 1948, section 2; Zipf 1949.
    """
    _check_windows(examples=examples, held_out=held_out, window=window)
    if vocabulary < 2 or not 1 <= branches <= vocabulary or not zipf >= 0:
        raise ValueError(
            f"vocabulary {vocabulary}, branches {branches}, zipf {zipf}: use 2 tokens or more, "
            "1 up to so many branches, and zipf of 0 or more"
        )
    if vocabulary**3 > 10**7:
        raise ValueError(
            f"vocabulary {vocabulary}: use at most 215, since a language has a row of "
            "probabilities for each pair of tokens"
        )
    draw = stream(seed, "data")
    weight = torch.arange(1, vocabulary + 1, dtype=torch.float64).pow(-zipf)
    # The top `branches` of log weight + Gumbel noise are a weighted draw without replacement.
    level = torch.rand(vocabulary**2, vocabulary, generator=draw, dtype=torch.float64)
    noise = -torch.log(-torch.log(level.clamp(1e-300, 1 - 1e-16)))
    followers = (weight.log() + noise).topk(branches, -1).indices
    shares = weight[:branches] / weight[:branches].sum()
    language = torch.zeros(vocabulary**2, vocabulary, dtype=torch.float64)
    language.scatter_(-1, followers, shares.expand(vocabulary**2, -1))
    # Training is drawn last, so that validation and test do not depend on `examples`.
    sizes = {"validation": held_out, "test": held_out, "train": examples}
    inputs, labels, posterior = {}, {}, {}
    for split, count in sizes.items():
        tokens, states = _sentences(language, count, window, draw)
        inputs[split], labels[split] = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        posterior[split] = language[states].float()
    return Splits(
        inputs={split: inputs[split] for split in SPLITS},
        targets={split: labels[split] for split in SPLITS},
        task="classification",
        target_scale=1.0,
        posterior={split: posterior[split] for split in SPLITS},
        vocabulary=vocabulary,
    )


def _sentences(
    language: Tensor, count: int, window: int, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw sentences [count, T + 1], and the index of the pair before each label, [count, T]."""
    vocabulary = language.shape[1]
    state = torch.zeros(count, dtype=torch.int64)
    tokens, states = [], []
    for _ in range(window + 1):
        token = torch.multinomial(language[state], 1, generator=draw)[:, 0]
        state = state % vocabulary * vocabulary + token
        tokens.append(token)
        states.append(state)
    return torch.stack(tokens, 1), torch.stack(states[:-1], 1)


def text(
    *,
    seed: int,
    path: str = "",
    examples: int = 4000,
    held_out: int = 256,
    window: int = 32,
    most_tokens: int = 128,
) -> Splits:
    """A text file of the user, in UTF-8, by characters.

    Args:
        seed: Divides blocks into training and validation; test is the same for every seed.
        path: Path of the file, relative to the current folder.
        examples: Most training windows; fewer if the text is short.
        held_out: Number of validation windows, and of test windows, taken from whole blocks.
        window: T.
        most_tokens: Most distinct characters that the text may have.
    """
    return _windows(
        _own_text(path), f"the text of {path}", seed, examples, held_out, window, most_tokens
    )


def python_source(
    *, seed: int, examples: int = 4000, held_out: int = 256, window: int = 32
) -> Splits:
    """Source of the installed Python's standard library, by characters: no download.

    The text is `PYTHON_MODULES`, in that order, without characters beyond ASCII. Other versions of
    Python have other texts, and so other runs.

    Args: as for `text`.
    """
    return _windows(_python_text(), "Python's source", seed, examples, held_out, window, 128)


def bible(
    *, seed: int, files: Files, examples: int = 4000, held_out: int = 256, window: int = 32
) -> Splits:
    """The Bible in the translation of 1611, by characters: one verse a line, without verse numbers.

    Args: as for `text`.
    """
    return _windows(_verses(files), "the Bible", seed, examples, held_out, window, 128)


# ---- texts ---------------------------------------------------------------------------------------


def _own_text(path: str) -> str:
    if not path:
        raise ConfigError("data text has no file: give one, as data.params.path=FILE")
    try:
        facts = Path(path).stat()
    except OSError as error:
        raise ConfigError(f"data text: {path} cannot be read ({error.strerror})") from error
    return _read_text(path, facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=2)
def _read_text(path: str, changed: int, size: int) -> str:
    """Text of a file; `changed` (time in ns) and `size` (bytes) make the cache notice a change."""
    if size > MOST_CHARACTERS:
        raise ConfigError(f"data text: {path} has {size:,} bytes: use at most {MOST_CHARACTERS:,}")
    try:
        content = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"data text: {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"data text: {path} is not UTF-8 (byte {error.start:,} is "
            f"0x{error.object[error.start]:02x}): convert it, if it is Latin-1 "
            "with iconv -f LATIN1 -t UTF-8"
        ) from error
    if not content:
        raise ConfigError(f"data text: {path} is empty: give a file with text")
    return content


@functools.cache
def _python_text() -> str:
    folder = Path(sysconfig.get_path("stdlib"))
    files = [folder / f"{name}.py" for name in PYTHON_MODULES]
    texts = [path.read_bytes().decode("ascii", "ignore") for path in files if path.is_file()]
    if not texts:
        raise ConfigError(
            f"data python_source: {folder} has no source of the standard library: use data=text "
            "data.params.path=FILE"
        )
    return "".join(texts)


@functools.cache
def _verses(files: Files) -> str:
    lines = files.printed(PROGRAMS["bible"]).decode("ascii").splitlines()
    return "".join(f"{line.partition(' ')[2]}\n" for line in lines)


@functools.lru_cache(maxsize=4)  # because every run of a sweep needs the hash
def _hash_of(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


# ---- windows -------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _tokens(content: str) -> tuple[Tensor, int]:
    """Rank of each character among the distinct characters, [M], and the number of the latter."""
    points = torch.frombuffer(bytearray(content.encode("utf-32-le")), dtype=torch.int32)
    different, places = points.unique(return_inverse=True)
    return places, len(different)


def _windows(
    content: str,
    what: str,
    seed: int,
    examples: int,
    held_out: int,
    window: int,
    most_tokens: int,
) -> Splits:
    """Cut a text into windows and split them; `what` is the name of the text in messages."""
    _check_windows(examples=examples, held_out=held_out, window=window)
    tokens, vocabulary = _tokens(content)
    if vocabulary > most_tokens:
        raise ValueError(
            f"{what} has {vocabulary} different characters: data.params.most_tokens is "
            f"{most_tokens}, raise it, or replace rare ones"
        )
    if vocabulary < 2:
        raise ValueError(f"{what} has only one distinct character: give a file with text")
    size = BLOCK * window + 1
    count, held = len(tokens) // size, -(-held_out // BLOCK)
    if count < 3 * held:
        raise ValueError(
            f"{what} has {len(tokens):,} characters, and {3 * held * size:,} are needed for "
            f"windows of {window} and held_out of {held_out}: use a longer text, or a smaller "
            "window or held_out"
        )
    blocks = tokens[: count * size].view(count, size)
    order = torch.randperm(count, generator=stream(0, "split"))
    test, others = order[:held], order[held:]
    others = others[torch.randperm(len(others), generator=stream(seed, "split"))]
    rows = {
        "train": others[held : held + -(-examples // BLOCK)],
        "validation": others[:held],
        "test": test,
    }
    most = {"train": examples, "validation": held_out, "test": held_out}
    chosen = {split: blocks[rows[split]] for split in SPLITS}

    def cut(places: Tensor, split: str) -> Tensor:
        """Cut tokens of blocks into windows [N, T], at most as many as the split has."""
        return places.reshape(-1, window)[: most[split]].contiguous()

    return Splits(
        inputs={split: cut(block[:, :-1], split) for split, block in chosen.items()},
        targets={split: cut(block[:, 1:], split) for split, block in chosen.items()},
        task="classification",
        target_scale=1.0,
        vocabulary=vocabulary,
    )


def _check_windows(*, examples: int, held_out: int, window: int) -> None:
    for name, size in {"examples": examples, "held_out": held_out, "window": window}.items():
        if size < 2:
            raise ValueError(f"{name} is {size}: use 2 or more")
    if window > MOST_WINDOW:
        raise ValueError(f"window is {window}: use at most {MOST_WINDOW}")


ROWS = (
    Data(
        markov_text,
        "classification",
        "generated; probabilities of the next token known",
        drawn="generated",
        note="Sentences of a random language, not of a human one.",
    ),
    Data(
        text,
        "classification",
        "a file of your own",
        licence="your own",
        content=lambda path="", **_: _hash_of(_own_text(path)),
    ),
    Data(
        python_source,
        "classification",
        "the installed Python's standard library",
        licence="PSF-2.0",
        note="Each version of Python has another text.",
        content=lambda **_: _hash_of(_python_text()),
    ),
    Data(
        bible,
        "classification",
        "King James Version of 1611; Debian package bible-kjv",
        licence="public domain",
        extent=Extent(4000, 256, 256, inputs=(32,), outputs=63),
    ),
)
