"""Models by name, their seeded initialisation, and the stacking of several models into one pack."""

from lossbench.models import dense, foreign, images, resnet, sequences, vit
from lossbench.models.build import (
    called,
    hidden_matrices,
    initialised,
    paired,
    rescaled,
    stacked,
    widened,
)
from lossbench.models.layers import BatchNorm, Dropout
from lossbench.models.spec import Inputs, Model

MODELS: dict[str, Model] = {
    row.name: row
    for rooms in (dense, images, resnet, vit, sequences, foreign)
    for row in rooms.ROWS
}
