"""Tables of somebody's own: what is served, and what is refused with the cure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from lossbench.data import tables
from lossbench.data.files import Files
from lossbench.data.tables import Reading
from lossbench.user_code import data_row

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 3)), RNG.normal(size=60)


def row_of(inputs, targets, **reading):
    """The row of arrays, or of a frame with the name of its target."""
    if isinstance(targets, str):
        return tables.frame_table(inputs, Reading(target=targets, **reading), name="mine")
    return tables.table(inputs, targets, Reading(**reading), name="mine")


def row_of_file(path, target, **reading):
    return tables.file_table(path, Reading(target=target, **reading))


def splits(inputs, targets, **reading):
    row = row_of(inputs, targets, **reading)
    return row, row.splits(0, None)


@pytest.mark.parametrize("targets", [Y, Y[:, None], torch.tensor(Y), pd.Series(Y), Y.tolist()])
def test_numbers_of_any_kind_are_a_regression(targets):
    row, made = splits(torch.tensor(X), targets)
    assert (row.task, made.sizes) == ("regression", (3, 1))
    rows = torch.cat([*made.targets.values()])[:, 0] * made.target_scale
    assert rows.double().std() == pytest.approx(np.std(Y, ddof=1), rel=1e-5)


@pytest.mark.parametrize(
    "labels", [np.repeat([1, 2, 3], 20), np.repeat(["a", "b", "c"], 20), np.arange(60) % 3]
)
def test_words_and_few_whole_numbers_are_labels_from_wherever_they_count(labels):
    row, made = splits(X, labels)
    assert (row.task, made.sizes) == ("classification", (3, 3))
    counts = sum(rows.sum(0) for rows in made.targets.values())
    assert counts.tolist() == [20, 20, 20]


def test_whole_numbers_are_a_regression_where_somebody_says_so():
    assert splits(X, np.arange(60) % 3, task="regression")[0].task == "regression"
    assert splits(X, np.arange(60))[0].task == "regression"


def test_a_frame_gives_an_input_for_each_number_and_each_category():
    frame = pd.DataFrame({"a": X[:, 0], "is": X[:, 1] > 0, "kind": ["u", None, "v"] * 20, "y": Y})
    _, made = splits(frame, "y")
    assert made.sizes == (1 + 1 + 3, 1)


def test_the_same_test_examples_for_every_seed_and_another_content_for_another_number():
    row = row_of(X, Y)
    raw = []
    for seed in (0, 1):
        made = row.splits(seed, None)
        test = made.targets["test"].double() * made.target_scale
        raw.append(test - test.mean())  # the mean that was taken off is that of training
    assert torch.allclose(*raw, atol=1e-5)
    other = X.copy()
    other[7, 1] += 1e-9
    rows = [row_of(inputs, Y) for inputs in (X, other)]
    assert len({row.content for row in rows}) == 2


def test_dates_are_days_since_the_first_as_such_and_as_texts():
    dates = pd.Series(pd.date_range("2020-02-27", periods=60, freq="12h"))
    for column in (dates, dates.astype(str)):
        row = row_of(pd.DataFrame({"a": column, "y": Y}), "y")
        inputs = torch.cat([*row.splits(0, Files()).inputs.values()]).flatten()
        # Inputs are standardised: what is left of days is their order and their even steps.
        steps = inputs.sort()[0].diff()
        assert torch.allclose(steps, steps[:1].expand(59), rtol=1e-4)
        assert float(steps[0]) > 0


def test_columns_that_are_left_out_of_a_file_are_no_inputs(tmp_path):
    path = tmp_path / "t.csv"
    pd.DataFrame({"a": X[:, 0], "id": [f"t{i}" for i in range(60)], "y": Y}).to_csv(path)
    row = row_of_file(path, "y", without=["id", "Unnamed: 0"])
    assert row.splits(0, Files()).inputs["train"].shape[1] == 1
    with pytest.raises(ValueError, match="data t: column 'ids' is unknown: did you mean 'id'"):
        row_of_file(path, "y", without=["ids"])


REFUSED = {
    "lengths": ((X, Y[:-1]), "60 rows of inputs and 59 targets"),
    "few": ((X[:10], Y[:10]), "10 examples: at least 20 are needed"),
    "constant": ((X, np.ones(60)), "nothing can be learnt"),
    "one class": ((X, np.repeat("a", 60)), "nothing can be learnt"),
    "rare class": ((X, np.array(["a"] * 58 + ["b"] * 2)), "b has 2 examples"),
    "missing target": ((X, np.where(np.arange(60) == 3, np.nan, Y)), "1 targets are missing"),
    "NaN": ((np.where(np.arange(180).reshape(60, 3) == 5, np.nan, X), Y), "1 inputs are NaN"),
    "matrix": ((X, np.stack([Y, Y], 1)), "targets have shape [60, 2]"),
    "sequences": ((X[:, None, :], Y), "inputs have shape [60, 1, 3]"),
    "not whole": ((X, Y), "numbers that are not whole", "classification"),
    "numbers and a word": (
        (pd.DataFrame({"a": ["1.5"] * 40 + ["?"] * 20, "y": Y}), "y"),
        "column 'a' has numbers, and '?', which Python does not read as one: write it like 1234.5",
    ),
    "numbers in words": (
        (pd.DataFrame({"a": [f"1,{100 + i}" for i in range(60)], "y": Y}), "y"),
        "column 'a' has numbers, and '1,100', '1,101', '1,102', which Python does not read",
    ),
    "lists": (
        (pd.DataFrame({"a": [[1]] * 60, "y": Y}), "y"),
        "column 'a' has values that are neither numbers nor words",
    ),
    "complex column": ((pd.DataFrame({"a": 1j * Y, "y": Y}), "y"), "column 'a' has complex"),
    "words": ((X, np.repeat(["a", "b"], 30)), "are not numbers", "regression"),
    "no column": ((pd.DataFrame({"a": Y}), "b"), "there is no column 'b': use one of a"),
    "missing number": (
        (pd.DataFrame({"a": np.where(np.arange(60) == 3, np.nan, Y), "y": Y}), "y"),
        "column 'a' has no value in 1 of 60 rows: fill them in with missing=median",
    ),
    "a missing date": (
        (
            pd.DataFrame({"a": [pd.NaT, *pd.date_range("2020-01-01", periods=59)], "y": Y}),
            "y",
        ),
        "column 'a' has no value in 1 of 60",
    ),
    "several columns": (
        (
            pd.DataFrame(
                {
                    "a": [None, *Y[1:]],
                    "b": [np.inf, *Y[1:]],
                    "c": np.nan,
                    "id": [f"t{i}" for i in range(60)],
                    "y": Y,
                }
            ),
            "y",
        ),
        "column 'a' has no value in 1 of 60 rows: fill them in with missing=median, or leave their "
        "rows out with missing=drop; column 'b' has 1 infinite numbers: replace them, or leave it "
        "out, without=b; column 'c' is empty: leave it out, without=c; column 'id' has 60 differ",
    ),
    "texts": ((pd.DataFrame({"a": [f"t{i}" for i in range(60)], "y": Y}), "y"), "60 different"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_served_is_refused_in_one_sentence(case):
    (inputs, targets), message, *task = case
    with pytest.raises(ValueError, match="data mine: ") as error:
        row_of(inputs, targets, task=task[0] if task else "")
    assert message in str(error.value)


GAPS = pd.DataFrame({"a": Y, "b": np.where(np.arange(60) % 7 == 0, np.nan, X[:, 0]), "y": Y})


def test_missing_numbers_get_the_median_of_a_seeds_training_examples():
    row = row_of(GAPS, "y", missing="median")
    for seed in (0, 1):
        inputs = row.splits(seed, Files()).inputs
        # All numbers are different: what occurs more often is the median, and was filled in.
        values, counts = torch.cat([*inputs.values()])[:, 1].unique(return_counts=True)
        (filled,) = values[counts > 1]
        known = inputs["train"][:, 1][inputs["train"][:, 1] != filled]
        below, above = (known <= filled).sum(), (known >= filled).sum()
        assert int(counts.max()) == 9 + 1
        assert abs(int(below) - int(above)) <= 1


def test_rows_that_miss_a_number_or_a_target_are_left_out_on_request():
    frame = GAPS.assign(y=np.where(np.arange(60) == 3, np.nan, Y))
    row = row_of(frame, "y", missing="drop")
    assert sum(len(one) for one in row.splits(0, Files()).targets.values()) == 60 - 9 - 1
    with pytest.raises(ValueError, match="missing is 'zero': use median"):
        row_of(frame, "y", missing="zero")


def test_a_file_is_named_after_itself_and_refused_where_it_cannot_be_read(tmp_path):
    path = tmp_path / "My Cars-2024.csv"
    pd.DataFrame({"a": Y, "y": Y}).to_csv(path, index=False)
    assert row_of_file(path, "y").name == "my_cars_2024"
    (tmp_path / "broken.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match="cannot be read"):
        row_of_file(tmp_path / "broken.parquet", "y")
    with pytest.raises(ValueError, match="there is no file"):
        row_of_file(tmp_path / "none.csv", "y")


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (np.array([["a"], ["b"]] * 20), range(40), "inputs are not real numbers"),
        (np.ones((40, 1)) * 1j, range(40), "inputs are not real numbers"),
        (np.ones((40, 1)), [*range(39), np.inf], "targets are infinite or complex"),
        (np.ones((40, 1)), np.arange(40) * 1j, "targets are infinite or complex"),
        (pd.DataFrame(np.ones((40, 2)), columns=["a", "a"]), range(40), "are called a"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused_in_a_sentence(inputs, targets, message):
    with pytest.raises(ValueError, match=f"data mine: .*{message}"):
        row_of(inputs, np.array(targets))


def test_columns_may_be_divided_by_semicolons(tmp_path):
    rows = "\n".join(f"{i};{i % 7}.5;{i * 1.5}" for i in range(40))
    (tmp_path / "t.csv").write_text(f"a;b;price\n{rows}\n")
    row = row_of_file(tmp_path / "t.csv", "price")
    assert row.splits(0, Files()).inputs["train"].shape[1] == 2


FILES = {
    "decimal commas": ("a;y\n" + "".join(f"{i},5;{i * 7 % 11},25\n" for i in range(40)), 1),
    "tabs": ("a\ty\n" + "".join(f"{i}.5\t{i * 7 % 11}.25\n" for i in range(40)), 1),
    "blanks in its first line": ("a, y\n" + "".join(f"{i}.5,{i}.25\n" for i in range(40)), 1),
}


@pytest.mark.parametrize(("text", "inputs"), FILES.values(), ids=FILES)
def test_a_file_is_read_as_whoever_wrote_it_meant_it(text, inputs, tmp_path):
    (tmp_path / "T.CSV").write_text(text)
    row = row_of_file(tmp_path / "T.CSV", "y")
    assert row.task == "regression"
    assert row.splits(0, Files()).inputs["train"].shape[1] == inputs


def test_rows_longer_than_the_first_line_and_other_letters_than_utf_8_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,y\n" + "1,2,3\n" * 40)
    with pytest.raises(ValueError, match="some rows have more cells than the first line"):
        row_of_file(path, "y")
    path.write_bytes("größe,y\n".encode("latin-1") + b"1,2\n" * 40)
    with pytest.raises(ValueError, match=r"is not UTF-8 .*: save it as UTF-8"):
        row_of_file(path, "y")


def test_a_single_name_leaves_one_column_out_and_a_rows_target_may_miss():
    frame = pd.DataFrame({"id": X[:, 0], "d": X[:, 1], "i": X[:, 2], "y": [None, *Y[1:]]})
    row = row_of(frame, "y", without="id", missing="median")
    made = row.splits(0, Files())
    assert made.sizes == (2, 1)
    assert sum(map(len, made.targets.values())) == 59


def test_what_is_of_tables_is_refused_elsewhere():
    with pytest.raises(
        ValueError, match="data diabetes: target=, without= and missing= belong to tables"
    ):
        data_row("diabetes", Reading(without=("age",)))
    with pytest.raises(ValueError, match="data diabetes are for regression, not classification"):
        data_row("diabetes", Reading(task="classification"))
    with pytest.raises(ValueError, match="name columns: give a frame"):
        data_row((X, Y), Reading(target="y"))
