"""The sections of the page that have figures."""

from __future__ import annotations

SECTIONS: dict[str, tuple[str, str, str]] = {
    "verdicts": (
        "Verdicts",
        "What does each loss change?",
        "Every loss against the reference of its context, seed by seed. What is undecided is not "
        "equal.",
    ),
    "contexts": (
        "Context by context",
        "How well does each loss do, and how much do seeds differ?",
        "Means on their own, then the differences within seeds that the verdicts rest on. What the "
        "columns are stands under Words.",
    ),
    "tuning": (
        "Learning rates",
        "Did every loss get the learning rate that suits it?",
        "One grid for all losses of a context, chosen on validation. A ring on the edge, a flat "
        "or a noisy curve would be a reason for doubt.",
    ),
    "losses": (
        "The losses",
        "How do the losses differ by construction?",
        "Exact curves, no training: this is all that was changed between the runs.",
    ),
    "dynamics": (
        "Gradients",
        "What does each loss feed back while the model learns?",
        "The output gradient is the loss's error signal. Where its ratio to the error and its "
        "cosine with it are both 1, it is prediction - target.",
    ),
    "convergence": (
        "Convergence",
        "How fast does each loss learn, and had it finished?",
        "On validation. Losses that still improve at the end might change places with more "
        "updates.",
    ),
    "calibration": (
        "Calibration",
        "How good are the probabilities?",
        "Accuracy looks at the largest probability only; these measures look at all of them.",
    ),
    "cross": (
        "Cross-loss matrix",
        "Is each loss best at its own game?",
        "Each trained model judged by every loss of the context. Nobody is ranked by this.",
    ),
    "robustness": (
        "Robustness",
        "Would the verdicts be others with other choices?",
        "Other learning rates, another interval, other shares of wrong labels. Verdicts come from "
        "one interval alone; what stands here can only make you trust them less.",
    ),
}
"""Sections with figures in the order of the page: short name, question, hint for reading."""

FOLDED = ("tuning", "dynamics", "convergence", "calibration", "cross", "robustness")
"""Sections that show their first context and fold the others."""
