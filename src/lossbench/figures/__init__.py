"""Figures: one function each, `(estimates, ax) -> Axes`, which computes nothing and reads no file.

Draw within `style()` and on a `page()`. The title of a figure is the question that the figure
answers. A figure fills the page of its axes: title above, one legend and one note below. Colour
shows the family of a loss (or, up to eight losses, the loss); line style and marker distinguish
the losses of a family.
"""

from lossbench.figures.layout import ONE_COLUMN, TWO_COLUMNS, label, page, stamp, strips
from lossbench.figures.lines import (
    error_signal,
    layer_gradients,
    learning_curves,
    learning_rate_cost,
    learning_rate_sensitivity,
    noise_curve,
    time_to_target,
)
from lossbench.figures.outcomes import decomposition, families, forest, side_by_side, verdict_map
from lossbench.figures.quality import calibration, cross_loss
from lossbench.figures.shapes import error_weight, loss_shapes
from lossbench.figures.styles import BLUE, COLORS, NIGHT, OTHER, loss_styles, style
