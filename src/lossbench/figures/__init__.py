"""The gallery: one function per figure, `(estimates, ax) -> Axes`. Computes nothing, reads nothing.

Draw within `style()` and on a `page()`. A figure's title is the question it answers; it owns the
whole page of its axes: title above, one legend and one note below. Colour is the family of a loss;
line style and marker tell the losses of a family apart.
"""

from lossbench.figures.axes import power_of_ten
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
from lossbench.figures.outcomes import (
    decomposition,
    families,
    forest,
    side_by_side,
    verdict_map,
)
from lossbench.figures.quality import calibration, cross_loss
from lossbench.figures.shapes import error_weight, loss_shapes
from lossbench.figures.styles import (
    BLUE,
    COLORS,
    GREEN,
    INK,
    NIGHT,
    OTHER,
    VERMILION,
    loss_styles,
    style,
)
