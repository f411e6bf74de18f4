"""Breaks the losses one line at a time and says which test notices: `python tests/mutations.py`.

Every mutation is one literal replacement in a copy of the package. A test that lets one live is
worth less than it looks. Takes a few seconds for each; words after the command choose losses.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "src" / "lossbench"
SOURCES = PACKAGE / "losses"
SUITE = ("losses/test_losses.py", "losses/test_links.py")

LIBRARIES = ("torch", "pandas", "scipy.stats", "sklearn.linear_model")
"""What takes longest to import, and no mutation touches."""


@dataclass(frozen=True)
class Mutation:
    """One way to get a loss wrong.

    Args:
        loss: Whose tests are to notice; every test with its name in it is run.
        file: In the losses package.
        kind: What sort of mistake it is.
        old: Text that occurs once in the file.
        new: What it becomes.
        link: An inverse link whose tests are run as well.
    """

    loss: str
    file: str
    kind: str
    old: str
    new: str
    link: str = ""

    @property
    def name(self) -> str:
        """The loss and the mistake, as a test id."""
        return f"{self.loss}-{self.kind.replace(' ', '_')}"

    @property
    def selection(self) -> str:
        """What pytest is to run."""
        return " or ".join(filter(None, (self.loss, self.link)))


MUTATIONS = (
    Mutation("mse", "power.py", "factor", "0.5 * (output - target)", "(output - target)"),
    Mutation("lp", "power.py", "dropped normalisation", ".pow(p).sum(-1) / p", ".pow(p).sum(-1)"),
    Mutation("cosh", "power.py", "missing stabilisation", "2.0 * (0.5 * inside).sinh().square()",
             "inside.cosh() - 1.0"),
    Mutation("rescaled_square", "power.py", "swapped branch", "(1.0 - target) *", "target *"),
    Mutation("huber", "monotone.py", "factor", "error - 0.5 * clipped", "error - clipped"),
    Mutation("log_cosh", "links.py", "wrong constant", "threshold=50.0", "threshold=20.0"),
    Mutation("barron", "monotone.py", "swapped branch", "if alpha == 0.0", "if alpha == 1.0"),
    Mutation("cauchy", "redescending.py", "factor", "0.5 * c**2 *", "0.5 * c *"),
    Mutation("tukey", "redescending.py", "missing stabilisation", ".clamp(max=1.0)", ""),
    Mutation("welsch", "redescending.py", "sign", "1.0 - (-half).exp()", "1.0 + (-half).exp()"),
    Mutation("welsch", "redescending.py", "missing stabilisation", "1.0 - (-half).exp()",
             "-(-half).expm1()"),
    Mutation("pinball", "asymmetric.py", "swapped branch", "torch.maximum((1.0 - tau)",
             "torch.minimum((1.0 - tau)"),
    Mutation("quantiles", "asymmetric.py", "swapped branch",
             "(1.0 - levels) * error, -levels * error", "levels * error, (levels - 1.0) * error"),
    Mutation("quantiles", "asymmetric.py", "wrong axis", "output.unflatten(-1, (count, -1))",
             "output.unflatten(-1, (-1, count)).mT"),
    Mutation("quantiles", "distributions.py", "off by one", "/ (count + 1)",
             "/ count"),
    Mutation("expectile", "asymmetric.py", "swapped branch", "error < 0,", "error > 0,"),
    Mutation("linex", "asymmetric.py", "missing stabilisation", "capped_expm1(a", "torch.expm1(a"),
    Mutation("poisson_nll", "likelihood.py", "detached factor", "target * output).sum",
             "target * output.detach()).sum"),
    Mutation("gaussian_nll", "likelihood.py", "sign", "return 0.5 * (log_variance +",
             "return 0.5 * (-log_variance +"),
    Mutation("student_t", "likelihood.py", "off by one", "(df + 1.0)", "df"),
    Mutation("msle", "likelihood.py", "wrong link", "(softplus(output)", "(output.exp()"),
    Mutation("brier", "proper.py", "wrong axis",
             "(exact_softmax(output) - target).square()",
             "(output.softmax(0) - target).square()"),
    Mutation("brier", "proper.py", "missing stabilisation",
             "(exact_softmax(output) - target).square()",
             "(softmax(output) - target).square()"),
    Mutation("mse_sigmoid", "proper.py", "wrong link", 'inverse_link="sigmoid"',
             'inverse_link="doubled_sigmoid"'),
    Mutation("mse_sigmoid", "proper.py", "missing stabilisation",
             "functional.logsigmoid(output).exp()", "output.sigmoid()"),
    Mutation("spherical", "proper.py", "dropped normalisation", ".square().sum(-1).sqrt()",
             ".sum(-1)"),
    Mutation("tsallis", "proper.py", "off by one", "((q - 1.0) * log_p)", "(q * log_p)"),
    Mutation("bce_ova", "links.py", "wrong constant", "threshold=50.0", "threshold=20.0"),
    Mutation("entmax15", "links.py", "sign", "mean - torch.where(gap", "mean + torch.where(gap"),
    Mutation("sparsemax", "links.py", "off by one", "ordered.cumsum(-1) - 1.0",
             "ordered.cumsum(-1)"),
    Mutation("entmax", "links.py", "detached factor", "NEWTON_STEPS = 2", "NEWTON_STEPS = 0"),
    Mutation("bi_tempered", "links.py", "detached factor", "NEWTON_STEPS = 2", "NEWTON_STEPS = 1",
             link="tempered_softmax"),
    Mutation("label_smoothing", "regularized.py", "off by one", "output.shape[-1])",
             "(output.shape[-1] - 1))"),
    Mutation("confidence_penalty", "regularized.py", "sign", "+ beta * (log_p", "- beta * (log_p"),
    Mutation("logit_norm", "regularized.py", "dropped normalisation", "direction(output) / tau",
             "output / tau"),
    Mutation("cosine_softmax", "regularized.py", "wrong link", 'inverse_link="cosine_softmax"',
             'inverse_link="softmax"'),
    Mutation("gce", "robust.py", "dropped normalisation", "(q * log_p).exp())).sum(-1) / q",
             "(q * log_p).exp())).sum(-1)"),
    Mutation("gce", "robust.py", "missing stabilisation", "(1.0 - (q * log_p).exp())",
             "-(q * log_p).expm1()"),
    Mutation("mae_probs", "robust.py", "missing stabilisation",
             "2.0 * (target - softmax(output)).clamp(min=0.0)",
             "(target - softmax(output)).abs()"),
    Mutation("reverse_kl", "divergence.py", "missing stabilisation",
             "1.0 + (log_p.exp() * (log_p - 1.0))",
             "(log_p.exp() * log_p)"),
    Mutation("nce", "robust.py", "missing stabilisation", "if output.shape[-1] == 2:", "if False:"),
    Mutation("tsallis", "proper.py", "missing stabilisation",
             "exact_log_softmax(output)", "log_softmax(output)"),
    Mutation("nce", "robust.py", "wrong axis", "/ log_p.sum(-1)", "/ log_p.sum()"),
    Mutation("rce", "robust.py", "wrong constant", "(target.log() - log_zero).clamp(min=0.0)",
             "target.clamp(min=1e-4).log() - log_zero"),
    Mutation("taylor_ce", "robust.py", "off by one", "range(1, t + 1)", "range(1, t)"),
    Mutation("phuber_ce", "robust.py", "swapped branch", "log_p > -math.log(tau)",
             "log_p < -math.log(tau)"),
    Mutation("bi_tempered", "robust.py", "dropped normalisation", " / (2.0 - t1)", ""),
    Mutation("js", "divergence.py", "missing stabilisation",
             ".clamp(min=torch.finfo(p.dtype).tiny).log() for x in (p, p + target)",
             ".log() for x in (p, p + target)"),
    Mutation("hellinger", "divergence.py", "factor", "target.sqrt() * (0.5 * log_p)",
             "target.sqrt() * log_p"),
    Mutation("chi2", "divergence.py", "missing stabilisation", "capped_exp(-log_p)",
             "(-log_p).exp()"),
    Mutation("focal", "weighted.py", "detached factor", "_miss(log_p).pow(gamma) * log_p",
             "_miss(log_p).detach().pow(gamma) * log_p"),
    Mutation("focal", "weighted.py", "missing stabilisation",
             ".clamp(min=torch.finfo(log_p.dtype).tiny)", ""),
    Mutation("asl", "weighted.py", "swapped branch",
             "target * of_label + (1.0 - target) * of_other",
             "target * of_other + (1.0 - target) * of_label"),
    Mutation("class_balanced", "weighted.py", "wrong axis", "weight / weight.sum(-1, keepdim=True)",
             "weight / weight.sum()"),
    Mutation("ldam", "weighted.py", "wrong link", 'inverse_link="scaled_softmax"',
             'inverse_link="softmax"'),
    Mutation("logit_adjusted", "weighted.py", "sign", "output + tau", "output - tau"),
    Mutation("crammer_singer", "margin.py", "wrong constant", "(1.0 + others - output)",
             "(others - output)"),
    Mutation("weston_watkins", "margin.py", "off by one", "torch.where(other, lead, 0.0)", "lead"),
    Mutation("ova_exponential", "margin.py", "missing stabilisation", "capped_exp(-margin)",
             "(-margin).exp()"),
    Mutation("savage", "margin.py", "factor", "logsigmoid(-2.0 * margin)", "logsigmoid(-margin)"),
    Mutation("savage", "margin.py", "missing stabilisation",
             "(2.0 * functional.logsigmoid(-2.0 * margin)).exp()",
             "(-2.0 * margin).sigmoid().square()"),
    Mutation("rps", "proper.py", "off by one", "error.cumsum(-1)[..., :-1]", "error[..., :-1]"),
    Mutation("z_loss", "regularized.py", "dropped normalisation", "output.logsumexp(-1).square()",
             "output.logsumexp(-1)"),
    Mutation("softcap", "links.py", "factor",
             "cap * (output / cap).tanh()", "(output / cap).tanh()"),
    Mutation("stablemax", "links.py", "sign", "-(-output).clamp", "(-output).clamp"),
    Mutation("stablemax", "links.py", "swapped branch", "output < 0, below, above",
             "output < 0, above, below"),
    Mutation("distillation", "regularized.py", "factor", "temperature**2 * ", "temperature * "),
    Mutation("dft", "weighted.py", "detached factor", "log_p.exp().detach() * log_p",
             "log_p.exp() * log_p"),
    Mutation("eaft", "weighted.py", "detached factor", "_entropy(output.detach().topk",
             "_entropy(output.topk"),
    Mutation("eaft", "weighted.py", "missing stabilisation",
             "torch.where(is_largest, 0.0, share).sum(-1) + ties", "share.sum(-1) - 1.0"),
    Mutation("unlikelihood", "weighted.py", "swapped branch", "of_largest, (-share).log1p()",
             "(-share).log1p(), of_largest"),
    Mutation("jsd", "divergence.py", "swapped branch", "beta * of_target + (1.0 - beta)",
             "(1.0 - beta) * of_target + beta"),
    Mutation("skew_kl", "divergence.py", "swapped branch",
             "alpha * target + (1.0 - alpha) * exact_softmax",
             "(1.0 - alpha) * target + alpha * exact_softmax"),
    *(
        Mutation(loss, file, "missing stabilisation", old, old.replace("exact_", ""))
        for loss, file, old in (
            ("unhinged", "robust.py", "1.0 - (target * exact_softmax(output)).sum(-1)"),
            ("taylor_ce", "robust.py", "1.0 - exact_softmax(output)\n    terms"),
            ("rce", "robust.py", "(exact_softmax(output) * _above"),
            ("hellinger", "divergence.py", "exact_log_softmax(output)\n    return 1.0 - (target"),
            ("dice", "divergence.py", "exact_softmax(output)\n    overlap"),
            ("dft", "weighted.py", "exact_log_softmax(output)\n    return -(target * log_p.exp"),
        )
    ),
    Mutation("nce", "robust.py", "dropped normalisation", "log_p.argmin(-1, keepdim=True)",
             "log_p.argmax(-1, keepdim=True)"),
    Mutation("skew_reverse_kl", "divergence.py", "dropped normalisation", "- math.log(alpha)",
             ""),
    Mutation("forward_kl", "divergence.py", "sign",
             "(torch.xlogy(target, target) - target * log_p)",
             "(torch.xlogy(target, target) + target * log_p)"),
    Mutation("beta_nll", "likelihood.py", "detached factor", "beta * log_variance.detach()",
             "beta * log_variance"),
    Mutation("hl_gauss", "likelihood.py", "dropped normalisation",
             " / (below[..., -1:] - below[..., :1])", ""),
    Mutation("hl_gauss", "likelihood.py", "missing stabilisation", "target.clamp(low, high)",
             "target"),
    Mutation("hl_gauss", "links.py", "wrong axis", ".transpose(-1, -2)\n\n\ndef bin_edges",
             ".contiguous()\n\n\ndef bin_edges", link="mean_of_bins"),
    Mutation("gaussian_crps", "likelihood.py", "factor", "+ 2.0 * density", "+ density"),
)  # fmt: skip


def mutated(mutation: Mutation, folder: Path) -> None:
    """Write a copy of the package with the mutation into the folder."""
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / PACKAGE.name / SOURCES.name / mutation.file
    text = file.read_text()
    if (count := text.count(mutation.old)) != 1:
        raise ValueError(
            f"{mutation.old!r} occurs {count} times in {mutation.file}: use text that is unique"
        )
    file.write_text(text.replace(mutation.old, mutation.new))


class FirstFailure:
    """A pytest plugin that notes the first test that fails."""

    test = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after each part of a test."""
        if report.failed and not self.test:
            self.test = report.nodeid.partition("::")[2]


def run_tests(folder: Path, selection: str, told: Connection) -> None:
    """In a child process: import the package of the folder, test it, and send what came out."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    lossbench = importlib.import_module("lossbench")
    assert Path(lossbench.__file__).is_relative_to(folder), lossbench.__file__
    tests = [str(TESTS / name) for name in SUITE]
    options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=no", "-k", selection]
    failure = FirstFailure()
    told.send((pytest.main([*options, *tests], plugins=[failure]), failure.test))


def first_failure(folder: Path, selection: str) -> str:
    """The first of the selected tests that fails on the package in the folder; empty if all pass.

    A forked child already has the libraries that were loaded here, and imports the package anew.
    """
    for library in LIBRARIES:
        importlib.import_module(library)
    answer, told = Pipe(duplex=False)
    child = get_context("fork").Process(target=run_tests, args=(folder, selection, told))
    child.start()
    told.close()
    try:
        code, test = answer.recv()
    except EOFError:
        raise RuntimeError(f"{selection}: the process that tests it has ended") from None
    finally:
        child.join()
    if code == pytest.ExitCode.OK or (code == pytest.ExitCode.TESTS_FAILED and test):
        return test
    raise RuntimeError(f"{selection}: the tests did not run, pytest says {code!r}")


def catcher(mutation: Mutation) -> str:
    """The first test that fails on the mutation; empty if all pass."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        mutated(mutation, folder)
        return first_failure(folder, mutation.selection)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(losses: list[str]) -> int:
    """Print the table; 1 if a mutation survives."""
    if unknown := {*losses} - {mutation.loss for mutation in MUTATIONS}:
        say(f"no mutation of {', '.join(sorted(unknown))}: add one to MUTATIONS")
        return 1
    chosen = [mutation for mutation in MUTATIONS if not losses or mutation.loss in losses]
    everything = " or ".join(mutation.selection for mutation in chosen)
    if plain := first_failure(PACKAGE.parent, everything):
        say(f"without a mutation the tests fail already: {plain}")
        return 1
    caught = 0
    for mutation in chosen:
        test = catcher(mutation)
        caught += bool(test)
        say(f"{mutation.loss:19} {mutation.kind:22} {mutation.old!r:45} {test or 'SURVIVED'}")
    say(f"{caught} of {len(chosen)} caught")
    return int(caught < len(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
