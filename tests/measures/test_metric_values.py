"""Metrics against scikit-learn, closed forms and brute force."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import scoringrules as sr
import torch
from scipy import integrate, stats
from sklearn import metrics as sk

from lossbench import records
from lossbench.losses import LOSSES
from lossbench.losses.distributions import Piecewise, StudentT
from lossbench.losses.links import sparsemax
from lossbench.measures import metric_values


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_hot(label, classes):
    return torch.nn.functional.one_hot(label, classes).double()


PROBABLE = torch.ones(3).bool()


@pytest.fixture
def classified():
    draw = torch.Generator().manual_seed(0)
    output = 2.0 * torch.randn(3, 200, 4, generator=draw, dtype=torch.float64)
    label = torch.randint(4, (3, 200), generator=draw)
    return output, label, one_hot(label, 4)


def test_regression_metrics_equal_scikit_learns():
    draw = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 3, 50, 1, generator=draw, dtype=torch.float64)
    found = metric_values.regression(prediction, target)
    for member in range(3):
        p, t = prediction[member, :, 0].numpy(), target[member, :, 0].numpy()
        expected = {
            "rmse": sk.root_mean_squared_error(t, p),
            "mae": sk.mean_absolute_error(t, p),
            "r2": sk.r2_score(t, p),
        }
        for name, value in expected.items():
            assert found[name][member].item() == pytest.approx(value, rel=1e-12)
        assert found["median_ae"][member].item() in np.abs(p - t)


def test_contributions_to_accuracy_are_hits_and_their_mean_is_scikit_learns(classified):
    output, label, target = classified
    found = metric_values.contributions(output.softmax(-1), target, task="classification")
    assert found.dtype == output.dtype
    assert set(found.unique().tolist()) == {0.0, 1.0}
    for member in range(3):
        expected = sk.accuracy_score(label[member], output[member].argmax(-1))
        assert found[member].mean().item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
def test_contributions_to_rmse_are_its_derivatives_by_the_weights_of_the_examples(outputs):
    prediction, target = normal(2, 40, outputs), normal(2, 40, outputs, seed=1)
    found = metric_values.contributions(prediction, target, task="regression")
    for member in range(2):
        p, t = prediction[member].numpy(), target[member].numpy()

        def rmse(weights, p=p, t=t):
            return sk.mean_squared_error(t, p, sample_weight=weights) ** 0.5

        whole = rmse(np.ones(40))
        assert found[member].mean().item() == pytest.approx(whole, rel=1e-12)
        for place in (0, 7, 39):
            more, less = np.ones(40), np.ones(40)
            more[place] += 1e-5
            less[place] -= 1e-5
            influence = 40 * (rmse(more) - rmse(less)) / 2e-5
            assert found[member, place].item() - whole == pytest.approx(influence, abs=1e-6)


def test_exact_predictions_contribute_nothing_to_rmse():
    target = normal(2, 5, 1)
    assert (metric_values.contributions(target, target, task="regression") == 0).all()


def test_wrong_labels_are_counted_as_memorised_as_recovered_or_as_neither():
    eye = torch.eye(4, dtype=torch.float64)
    clean, given = eye[[0, 0, 0, 0, 1, 2]], eye[[1, 1, 1, 1, 1, 2]]  # four wrong, two right
    chosen = torch.stack([eye[[1, 0, 0, 3, 1, 0]], eye[[1, 1, 1, 1, 0, 0]]])
    found = metric_values.of_wrong_labels(chosen, given.expand(2, -1, -1), clean.expand(2, -1, -1))
    assert found["memorised"].tolist() == [0.25, 1.0]
    assert found["recovered"].tolist() == [0.5, 0.0]
    unharmed = metric_values.of_wrong_labels(chosen, clean, clean)
    assert all(value.isnan().all() for value in unharmed.values())


def test_classification_metrics_equal_scikit_learns(classified):
    output, label, target = classified
    p = output.softmax(-1)
    found = metric_values.classification(p, target, recalibrated=p.log(), is_probability=PROBABLE)
    for member in range(3):
        y, q = label[member].numpy(), p[member].numpy()
        expected = {
            "accuracy": sk.accuracy_score(y, q.argmax(-1)),
            "nll": sk.log_loss(y, q),
            "nll_raw": sk.log_loss(y, q),
            "brier": sk.brier_score_loss(y, q, scale_by_half=False, labels=range(4)),
            "zero_share": 0.0,
        }
        for name, value in expected.items():
            assert found[name][member].item() == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_ece_is_the_weighted_gap_between_confidence_and_accuracy(classified):
    output, label, _ = classified
    p = output.softmax(-1)
    for member in range(3):
        confidence, chosen = p[member].max(-1)
        expected = 0.0
        for low in np.arange(15) / 15:
            inside = (confidence > low) & (confidence <= low + 1 / 15)
            if inside.any():
                hit = (chosen == label[member])[inside].double().mean()
                expected += inside.double().mean() * abs(hit - confidence[inside].mean())
        assert metric_values.ece(p, label)[member].item() == pytest.approx(
            float(expected), rel=1e-9
        )


def test_kl_is_zero_at_the_posterior_and_the_textbook_sum_elsewhere():
    pi = torch.tensor([[[0.5, 0.5, 0.0]]], dtype=torch.float64)
    q = torch.tensor([[[0.25, 0.5, 0.25]]], dtype=torch.float64)
    assert metric_values.kl(pi, pi.clamp_min(1e-300).log()).item() == pytest.approx(0.0, abs=1e-12)
    assert metric_values.kl(pi, q.log()).item() == pytest.approx(0.5 * np.log(2), rel=1e-12)


def test_total_variation_is_the_largest_difference_that_any_event_can_have():
    draw = torch.Generator().manual_seed(5)
    p, q = torch.rand(2, 3, 7, 4, generator=draw, dtype=torch.float64).softmax(-1)
    events = [list(event) for n in range(5) for event in itertools.combinations(range(4), n)]
    gaps = torch.stack([(p[..., event].sum(-1) - q[..., event].sum(-1)).abs() for event in events])
    torch.testing.assert_close(metric_values.total_variation(p, q), gaps.amax(0).mean(-1))
    certain = torch.eye(2, dtype=torch.float64)[None]
    assert metric_values.total_variation(certain, certain.flip(-1)).item() == 1.0


def test_total_variation_leaves_out_examples_whose_distribution_is_nan():
    p = torch.tensor([[[0.5, 0.5], [0.2, 0.8]]])
    q = torch.tensor([[[0.4, 0.6], [torch.nan, torch.nan]]])
    assert metric_values.total_variation(p, q).item() == pytest.approx(0.1)
    assert metric_values.total_variation(p, torch.full_like(p, torch.nan)).isnan().all()


def test_every_metric_is_declared_with_unit_and_direction(classified):
    output, label, target = classified
    p = output.softmax(-1)
    always = metric_values.classification(p, target, recalibrated=p.log(), is_probability=PROBABLE)
    final = finals(p, label)
    measured = {"kl", "tv_posterior", "tv_bayes", "entropy_floor", *final}.union(
        metric_values.regression(p, target),
        metric_values.distribution(StudentT(p, p, math.inf), target),
        metric_values.quantile(p, target, level=0.8),
        metric_values.clean_validation(p, target, task="regression"),
        metric_values.clean_validation(p, target, task="classification"),
        metric_values.of_wrong_labels(p, target, target),
        of_labels(output, target),
        {"average_precision"},
    )
    assert measured == set(records.METRICS) | {f"accuracy:{place}" for place in range(4)}
    rows = {name: records.metric_of(name) for name in measured}
    is_final = {name for name, row in rows.items() if row.is_final}
    others = {"entropy_floor", "average_precision"}
    assert is_final == (final.keys() - always.keys()) | others
    undirected = {"coverage_90", "quantile_coverage", "brier_uncertainty", "entropy_floor"}
    for name, row in rows.items():
        assert row.direction in (("",) if name in undirected else ("lower", "higher"))


def test_a_prediction_off_the_simplex_has_no_raw_nll_but_a_brier_score(classified):
    output, _, target = classified
    found = metric_values.classification(
        output, target, recalibrated=output.log_softmax(-1), is_probability=torch.zeros(3).bool()
    )
    assert found["nll_raw"].isnan().all()
    assert found["ece_raw"].isnan().all()
    assert found["brier"].isfinite().all()
    assert (found["zero_share"] > 0).all()


# ---- classification: classes, ranks, bins --------------------------------------------------------


@pytest.fixture
def tied(classified):
    """Predictions so coarse that most examples tie; labels they say something of."""
    output, label, _ = classified
    own = torch.nn.functional.one_hot(label, 4)
    p = (output + own).softmax(-1).mul(8).round().add(0.125)
    return p / p.sum(-1, keepdim=True), label


def finals(p, label, **changes):
    """What is measured at the last step, of probabilities [K, N, C]."""
    given = {"prediction": p, "target": one_hot(label, p.shape[-1]).to(p.dtype)}
    given |= {"recalibrated": p.log(), "is_probability": torch.ones(len(p)).bool()}
    given |= changes
    return metric_values.classification(**given) | metric_values.ranked_classification(**given)


def test_class_accuracies_are_recalls_and_their_mean_the_balanced_accuracy(classified):
    output, label, _ = classified
    p, label = output.softmax(-1), label.where(label % 2 == 0, 0)  # unequal classes, one is empty
    label[:, :20] = 3
    given = {"recalibrated": p.log(), "is_probability": PROBABLE}
    found, final = metric_values.classification(p, one_hot(label, 4), **given), finals(p, label)
    assert final["accuracy:1"].isnan().all()
    for member in range(3):
        y, q = label[member].numpy(), p[member].numpy()
        recalls = sk.recall_score(y, q.argmax(-1), average=None, labels=[0, 2, 3])
        mine = [final[f"accuracy:{place}"][member].item() for place in (0, 2, 3)]
        assert mine == pytest.approx(list(recalls), rel=1e-12)
        balanced = found["balanced_accuracy"][member].item()
        assert balanced == pytest.approx(np.mean(recalls), rel=1e-12)
        assert abs(balanced - sk.accuracy_score(y, q.argmax(-1))) > 1e-3
        areas = [sk.roc_auc_score(y == place, q[:, place]) for place in (0, 2, 3)]
        assert final["auroc"][member].item() == pytest.approx(np.mean(areas), rel=1e-12)


def test_one_class_alone_has_no_area_under_the_curve_but_all_other_final_metrics(classified):
    output, label, _ = classified
    found = finals(output.softmax(-1), torch.zeros_like(label))
    assert found["auroc"].isnan().all()
    absent = {"auroc", "accuracy:1", "accuracy:2", "accuracy:3"}
    assert all(value.isfinite().all() for name, value in found.items() if name not in absent)
    assert (found["brier_uncertainty"] == 0).all()


@pytest.mark.parametrize("classes", [20, 21])
def test_only_sets_of_at_most_twenty_classes_have_an_accuracy_for_each(classes):
    p = torch.full((2, 50, classes), 1.0 / classes, dtype=torch.float64)
    found = finals(p, torch.arange(50).expand(2, 50) % classes)
    assert len([name for name in found if name.startswith("accuracy:")]) == 20 * (classes == 20)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("are_tied", [False, True])
def test_auroc_equals_scikit_learns_also_with_ties(classified, tied, are_tied, classes):
    output, label, _ = classified
    p = tied[0][..., :classes] if are_tied else output[..., :classes].exp()
    p, label = p / p.sum(-1, keepdim=True), label % classes
    assert (len(p[0, :, 0].unique()) < 150) == are_tied
    for member, found in enumerate(metric_values.auroc(p, label)):
        y, q = label[member].numpy(), p[member].numpy()
        q = q[:, 1] if classes == 2 else q
        expected = sk.roc_auc_score(y, q, multi_class="ovr", average="macro")
        assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("places", [1, 3, 30])
def test_auroc_and_aurc_see_the_order_of_scores_only(places, classes):
    # Few places, many ties; powers of two, so that no map makes or breaks one.
    draw = torch.Generator().manual_seed(places)
    score = torch.randint(places, (20, 40, classes), generator=draw).double()
    label = torch.randint(classes, (20, 40), generator=draw)
    for ranked in (metric_values.auroc, metric_values.aurc):
        plain = ranked(score, label)
        for moved in (8.0 * score - 3.0, score**3, 2.0**score):
            torch.testing.assert_close(ranked(moved, label), plain, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("examples", [1, 2, 15, 40])
@pytest.mark.parametrize("places", [1, 3, 12])
def test_no_final_metric_depends_on_the_order_of_the_examples(places, examples):
    draw = torch.Generator().manual_seed(examples)
    p = torch.randint(1, places + 1, (20, examples, 3), generator=draw).double()
    p = p / p.sum(-1, keepdim=True)
    label = torch.randint(3, (20, examples), generator=draw)
    order = torch.randperm(examples, generator=draw)
    plain, moved = finals(p, label), finals(p[:, order], label[:, order])
    for name, value in plain.items():
        torch.testing.assert_close(moved[name], value, rtol=0, atol=1e-14, equal_nan=True)


def test_equal_scores_have_an_area_of_a_half_and_the_risk_of_the_whole(classified):
    _, label, _ = classified
    flat = torch.zeros(3, 200, 4, dtype=torch.float64)
    assert (metric_values.auroc(flat, label) == 0.5).all()
    risk = (label != 0).double().mean(-1)
    torch.testing.assert_close(metric_values.aurc(flat, label), risk, rtol=1e-12, atol=0)


def test_a_perfect_ranking_of_e_errors_has_the_aurc_of_its_closed_form():
    """Errors come last: risk (k - (N - e)) / k beyond N - e examples, and none before."""
    examples, wrong = 50, 7
    label = torch.tensor([[0] * (examples - wrong) + [1] * wrong])
    sure = torch.linspace(-0.01, -0.4, examples, dtype=torch.float64)[None]
    score = torch.stack([sure, sure - 1.0], -1)
    tail = sum((k - examples + wrong) / k for k in range(examples - wrong + 1, examples + 1))
    assert metric_values.aurc(score, label).item() == pytest.approx(tail / examples, rel=1e-12)
    assert metric_values.aurc(score, torch.zeros_like(label)).item() == 0.0
    assert metric_values.aurc(score, torch.ones_like(label)).item() == 1.0


def test_aurc_is_the_mean_over_random_orders_of_equally_sure_examples():
    sure = torch.tensor([-0.1, -0.2, -0.2, -0.2, -0.3], dtype=torch.float64)
    score = torch.stack([sure, sure - 5.0], -1)[None]
    label = torch.tensor([[0, 1, 0, 1, 0]])
    risks = []
    for middle in itertools.permutations([1, 0, 1]):
        errors = np.cumsum([0, *middle, 0])
        risks.append(np.mean(errors / np.arange(1, 6)))
    assert metric_values.aurc(score, label).item() == pytest.approx(np.mean(risks), rel=1e-12)


def test_adaptive_ece_is_the_gap_between_confidence_and_accuracy_in_equal_bins(classified):
    p = classified[0].softmax(-1)
    draw = torch.Generator().manual_seed(4)
    # Labels of these very probabilities: gaps of both signs, so that the bins matter.
    label = torch.multinomial(p.flatten(0, 1), 1, generator=draw).view(3, 200)
    for member in range(3):
        confidence, chosen = p[member].max(-1)
        order = confidence.argsort().numpy()
        hit = (chosen == label[member]).double().numpy()[order]
        sure, gaps = confidence.numpy()[order], []
        for low, high in itertools.pairwise([200 * place // 15 for place in range(16)]):
            assert high - low in (13, 14)
            gaps.append((hit[low:high].sum() - sure[low:high].sum()) / 200)
        assert min(gaps) < 0 < max(gaps)
        expected = np.abs(gaps).sum()
        assert metric_values.ece_adaptive(p, label)[member].item() == pytest.approx(
            expected, rel=1e-12
        )


def test_brier_terms_are_murphys_in_bins_of_one_value_each_and_stephensons_elsewhere(tied):
    coarse, label = tied
    fine = (coarse.log() + 0.01 * torch.arange(200)[:, None] * torch.eye(4)[0]).softmax(-1)
    for p in (coarse, fine.double()):
        found = finals(p, label)
        for member in range(3):
            expected = np.array([by_hand(p[member, :, c], label[member] == c) for c in range(4)])
            names = ("brier_reliability", "brier_resolution", "brier_uncertainty")
            mine = [found[name][member].item() for name in names]
            assert mine == pytest.approx(list(expected[:, :3].sum(0)), rel=1e-9)
    assert np.abs(expected[:, 3]).max() > 1e-4


def by_hand(p, y):
    """Reliability, resolution and uncertainty of one class, and what bins leave inside them."""
    p, y = p.numpy(), y.double().numpy()
    place = np.clip(np.ceil(p * 15), 1, 15)
    reliability = resolution = inside = 0.0
    for one in np.unique(place):
        mine = place == one
        share, mean = mine.mean(), p[mine].mean()
        reliability += share * (mean - y[mine].mean()) ** 2
        resolution += share * (y[mine].mean() - y.mean()) ** 2
        inside += share * (2 * np.cov(p[mine], y[mine], bias=True)[0, 1] - p[mine].var())
    return reliability, resolution + inside, y.mean() * (1 - y.mean()), inside


def test_brier_terms_are_of_the_projected_prediction_and_ranks_of_the_recalibrated(classified):
    output, label, _ = classified
    off = {"recalibrated": output.log_softmax(-1), "is_probability": torch.zeros(3).bool()}
    found, plain = finals(output, label, **off), finals(sparsemax(output), label)
    assert found["brier_reliability"].equal(plain["brier_reliability"])
    assert found["auroc"].equal(metric_values.auroc(output.log_softmax(-1), label))


# ---- any number of labels ------------------------------------------------------------------------


@pytest.fixture
def labelled():
    """Outputs with ties, [3, 200, 4], and targets of any number of labels; the last is rare."""
    draw = torch.Generator().manual_seed(1)
    output = torch.randn(3, 200, 4, generator=draw, dtype=torch.float64).round(decimals=1)
    rate = torch.tensor([0.5, 0.4, 0.2, 0.05], dtype=torch.float64)
    target = (torch.rand(3, 200, 4, generator=draw) < rate).double()
    return output, target


def of_labels(output, target, **given):
    recalibrated = torch.stack([-output, output], -1).log_softmax(-1)
    return metric_values.multilabel(output.sigmoid(), target, recalibrated=recalibrated, **given)


def test_metrics_of_many_labels_equal_scikit_learns(labelled):
    output, target = labelled
    found = of_labels(output, target)
    found["average_precision"] = metric_values.average_precision(2 * output, target)
    for member in range(3):
        z, y = output[member].numpy(), target[member].numpy()
        p = 1 / (1 + np.exp(-2 * z))
        columns = range(4)
        expected = {
            "accuracy": 1 - sk.hamming_loss(y, z > 0),
            "balanced_accuracy": np.mean(
                [sk.balanced_accuracy_score(y[:, c], z[:, c] > 0) for c in columns]
            ),
            "brier": sum(sk.brier_score_loss(y[:, c], 1 / (1 + np.exp(-z[:, c]))) for c in columns),
            "nll": sum(sk.log_loss(y[:, c], p[:, c]) for c in columns),
            "average_precision": sk.average_precision_score(y, z, average="macro"),
        }
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name][member].item() == pytest.approx(value, rel=1e-12)


def test_a_label_that_holds_nowhere_has_no_precision_and_half_a_balanced_accuracy(labelled):
    output, target = labelled
    without = target.clone()
    without[..., 3] = 0.0
    assert metric_values.average_precision(output, without).equal(
        metric_values.average_precision(output[..., :3], target[..., :3])
    )
    assert metric_values.average_precision(output, 0 * target).isnan().all()
    hits = (output[..., 3] <= 0).double().mean(-1)  # absences that are recognised
    first = of_labels(output[..., :3], target[..., :3])["balanced_accuracy"]
    found = of_labels(output, without)["balanced_accuracy"]
    torch.testing.assert_close(found, (3 * first + hits) / 4)


# ---- regression: distributions and quantiles -----------------------------------------------------


@pytest.fixture
def foretold():
    """Locations, scales and targets, [3, 40, 2]."""
    draw = torch.Generator().manual_seed(7)
    location, spread, target = torch.randn(3, 3, 40, 2, generator=draw, dtype=torch.float64)
    return location, spread.exp(), 3.0 * target


@pytest.mark.parametrize("df", [math.inf, 1.5, 4.0, 30.0])
def test_crps_equals_scoringrules(foretold, df):
    location, scale, target = foretold
    found = metric_values.distribution(StudentT(location, scale, df), target)
    mu, sigma, y = (part.numpy() for part in foretold)
    scores = sr.crps_normal(y, mu, sigma) if math.isinf(df) else sr.crps_t(y, df, mu, sigma)
    np.testing.assert_allclose(found["crps"], scores.mean((1, 2)), rtol=1e-7)


def test_crps_of_a_sure_forecast_is_the_absolute_error_and_that_of_cauchy_noise_is_none(foretold):
    location, scale, target = foretold
    sure = metric_values.distribution(StudentT(location, 1e-9 * scale, math.inf), target)
    expected = (location - target).abs().flatten(1).mean(-1)
    torch.testing.assert_close(sure["crps"], expected, rtol=1e-7, atol=0)
    assert metric_values.distribution(StudentT(location, scale, 1.0), target)["crps"].isnan().all()


@pytest.mark.parametrize("df", [math.inf, 1.0, 4.0])
def test_coverage_is_the_share_inside_scipys_central_interval(foretold, df):
    location, scale, target = foretold
    found = metric_values.distribution(StudentT(location, scale, df), target)
    law = stats.norm if math.isinf(df) else stats.t(df)
    low, high = (law.ppf(level) for level in (0.05, 0.95))
    z = ((target - location) / scale).numpy()
    share = ((z >= low) & (z <= high)).mean((1, 2))
    np.testing.assert_allclose(found["coverage_90"], share)
    np.testing.assert_allclose(found["coverage_error"], abs(share - 0.9))
    assert 0 < share.min() < share.max() < 1


@pytest.fixture
def drawn_piecewise():
    """Points and levels of distribution functions, [3, 40, 2, 6], some of them alike; targets."""
    draw = torch.Generator().manual_seed(3)
    points = torch.randn(3, 40, 2, 6, generator=draw, dtype=torch.float64).sort(-1).values
    points[:, ::4, :, 2] = points[:, ::4, :, 3]  # a jump in between
    levels = torch.rand(3, 40, 2, 6, generator=draw, dtype=torch.float64).sort(-1).values
    return points, levels, 1.5 * torch.randn(3, 40, 2, generator=draw, dtype=torch.float64)


def crps_by_hand(points, levels, target):
    """The integral that defines the crps, of one distribution function."""

    def squared(x):
        below = np.interp(x, points, levels, left=0.0, right=1.0)
        return (below - (x >= target)) ** 2

    corners = sorted([*points, target])
    return sum(integrate.quad(squared, *ends)[0] for ends in itertools.pairwise(corners))


def test_crps_of_pieces_is_the_integral_that_defines_it(drawn_piecewise):
    points, levels, target = (part[0, :10, 0].numpy() for part in drawn_piecewise)
    found = metric_values.piecewise_crps(*drawn_piecewise)[0, :10, 0].numpy()
    expected = [crps_by_hand(*one) for one in zip(points, levels, target, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_crps_of_one_piece_with_jumps_at_its_ends_equals_scoringrules(drawn_piecewise):
    points, levels, target = drawn_piecewise
    points, levels = points[..., [0, 5]], levels[..., [0, 5]]
    found = metric_values.distribution(Piecewise(points, levels), target)["crps"]
    jumps = {"lmass": levels[..., 0].numpy(), "umass": 1.0 - levels[..., 1].numpy()}
    ends = (end.numpy() for end in points.unbind(-1))
    expected = sr.crps_uniform(target.numpy(), *ends, **jumps).mean((1, 2))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_coverage_of_pieces_is_the_share_between_the_points_of_their_levels(drawn_piecewise):
    points, levels, target = drawn_piecewise
    found = metric_values.distribution(Piecewise(points, levels), target)["coverage_90"]
    share = np.zeros((3, 40, 2))
    for at in np.ndindex(share.shape):
        low, high = np.interp((0.05, 0.95), levels[at].numpy(), points[at].numpy())
        share[at] = low <= target[at].item() <= high
    np.testing.assert_allclose(found.numpy(), share.mean((1, 2)))
    assert 0 < share.mean() < 1


LAW = stats.norm(0.3, 0.8)


def gaussian_as(name):
    """Outputs of a loss that say that the target is Gaussian, as nearly as they can: [1, 1, W]."""
    if name == "gaussian_nll":
        return torch.tensor([[[0.3, 2 * math.log(0.8)]]], dtype=torch.float64)
    if name == "quantiles":
        return torch.tensor(LAW.ppf([0.5, *(i / 20 for i in range(1, 20) if i != 10)]))[None, None]
    edges = np.linspace(-5, 5, 52)
    return torch.tensor(
        LAW.logcdf(edges)[1:] + np.log1p(-LAW.cdf(edges[:-1]) / LAW.cdf(edges[1:]))
    )[None, None]


@pytest.mark.parametrize("name", ["gaussian_nll", "quantiles", "hl_gauss"])
def test_the_same_forecast_is_judged_alike_whichever_loss_says_it(name):
    target = torch.tensor(LAW.rvs(20_000, random_state=0))[None, :, None]
    output = gaussian_as(name).expand(1, 20_000, -1)
    found = metric_values.distribution(LOSSES[name].predicted(output), target)
    exact = sr.crps_normal(target.numpy(), 0.3, 0.8).mean()
    assert found["crps"].item() == pytest.approx(exact, rel=0.01)
    assert found["coverage_90"].item() == pytest.approx(0.9, abs=0.006)


def test_quantiles_that_cross_are_put_in_order():
    row, output = LOSSES["quantiles"], normal(4, 7, 19 * 2)
    points, levels = row.predicted(output)
    assert points.shape == (4, 7, 2, 19)
    assert points.equal(output.unflatten(-1, (19, 2)).mT.sort(-1).values)
    np.testing.assert_allclose(levels.numpy(), np.arange(1, 20) / 20)
    sorted_output = points.mT[..., [9, *range(9), *range(10, 19)], :].flatten(-2)
    assert row.predicted(sorted_output).points.equal(points)
    assert row.predict(sorted_output).equal(points[..., 9])


def test_an_even_number_of_quantiles_has_no_median_and_is_refused():
    with pytest.raises(ValueError, match="4 quantiles per target: use an odd number"):
        LOSSES["quantiles"].values(normal(3, 4), normal(3, 1))


def test_bins_say_how_likely_each_is_and_their_mean_is_the_prediction():
    row, output = LOSSES["hl_gauss"].at(low=-1.0, high=2.0), 3.0 * normal(3, 5, 51 * 2)
    points, levels = row.predicted(output)
    p = output.unflatten(-1, (51, 2)).mT.softmax(-1)
    torch.testing.assert_close(levels.diff(), p)
    middle = -1.0 + (torch.arange(51, dtype=torch.float64) + 0.5) * 3.0 / 51
    torch.testing.assert_close(row.predict(output), p @ middle)
    assert (points[..., 0].unique().item(), points[..., -1].unique().item()) == (-1.0, 2.0)


def test_quantile_coverage_counts_targets_at_or_below_the_prediction():
    target = torch.arange(10.0).view(1, 10, 1)
    found = metric_values.quantile(torch.full_like(target, 3.0), target, level=0.3)
    assert found["quantile_coverage"].item() == pytest.approx(0.4)
    assert found["coverage_error"].item() == pytest.approx(0.1)


def test_a_row_says_what_its_loss_predicts_with_the_parameters_of_the_loss():
    output = torch.tensor([[0.3, math.log(4.0)]], dtype=torch.float64)
    location, scale, df = LOSSES["gaussian_nll"].predicted(output)
    assert (location.item(), scale.item(), df) == (0.3, pytest.approx(2.0), math.inf)
    floored = LOSSES["gaussian_nll"].predicted(output, {"eps": 9.0})
    assert floored.scale.item() == pytest.approx(3.0)
    location, scale, df = LOSSES["student_t"].predicted(output, {"df": 7.0, "scale": 0.5})
    assert location.equal(output)
    assert (scale.unique().item(), df) == (0.5, 7.0)


SCORED = {"beta_nll", "gaussian_crps", "quantiles", "hl_gauss"}
"""Losses of a predicted distribution that are not its likelihood."""


@pytest.mark.parametrize(
    "name", [row.name for row in LOSSES.values() if row.distribution and row.name not in SCORED]
)
def test_a_predicted_distribution_is_the_one_whose_likelihood_the_loss_is(name):
    row, draw = LOSSES[name], torch.Generator().manual_seed(0)
    output = torch.randn(50, row.outputs_per_target, generator=draw, dtype=torch.float64)
    target = torch.randn(50, 1, generator=draw, dtype=torch.float64)
    location, scale, df = row.predicted(output)
    law = stats.norm if math.isinf(df) else stats.t(df)
    expected = -law.logpdf(((target - location) / scale).numpy()) + scale.log().numpy()
    gaps = row.values(output, target).numpy() - expected[:, 0]
    np.testing.assert_allclose(gaps, gaps[0], atol=1e-12)  # up to a constant


@pytest.mark.parametrize("name", [row.name for row in LOSSES.values() if row.quantile])
def test_a_loss_is_least_where_its_declared_share_of_targets_lies_below(name):
    row, target = LOSSES[name], torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None]
    for level in (0.1, 0.5, 0.8):
        params = {row.quantile: level}
        means = [row.values(p.expand_as(target), target, params).mean().item() for p in target]
        assert target[np.argmin(means)].item() == pytest.approx(level, abs=2e-3)


@pytest.mark.parametrize("field", ["distribution", "quantile"])
def test_a_row_that_declares_an_unknown_distribution_or_quantile_is_refused(field):
    with pytest.raises(ValueError, match=f"{field} 'sigma'"):
        replace(LOSSES["pinball"], **{field: "sigma"})


# ---- a member alone and among others -------------------------------------------------------------


@pytest.mark.parametrize("members", [2, 3, 50])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_metrics_of_a_member_are_the_same_bits_alone_and_among_others(members, classes):
    draw = torch.Generator().manual_seed(classes)
    output = torch.randn(members, 97, classes, generator=draw)
    label = torch.randint(classes, (members, 97), generator=draw)
    scale, target = torch.rand(members, 97, classes, generator=draw), torch.randn(97, classes)

    def measured(at):
        p, own = output[at].softmax(-1), torch.nn.functional.one_hot(label[at], classes).float()
        is_probability = torch.tensor([place % 2 == 0 for place in range(50)])[:members][at]
        given = {"recalibrated": p.log(), "is_probability": is_probability}
        predicted = [StudentT(output[at], scale[at], df) for df in (math.inf, 4.0)]
        pieces = torch.stack([output[at], output[at] + scale[at]], -1)
        predicted.append(Piecewise(pieces, torch.tensor([0.1, 0.8])))
        return [
            metric_values.classification(output[at], own, **given)["balanced_accuracy"],
            *finals(output[at], label[at], **given).values(),
            *(v for one in predicted for v in metric_values.distribution(one, target).values()),
            *metric_values.quantile(output[at], target, level=0.8).values(),
        ]

    together = measured(slice(None))
    for place in (0, members - 1):
        alone = measured([place, place])  # the engine pads one member to two
        for mine, found in zip(alone, together, strict=True):
            assert mine[0].equal(found[place]) or (mine[0].isnan() and found[place].isnan())
