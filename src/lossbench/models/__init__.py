"""Models by name, their seeded initialisation, and the stacking of several into one pack."""

from lossbench.models import dense, foreign, images, resnet, vit
from lossbench.models.build import called, initialised, paired, rescaled, stacked, widened
from lossbench.models.layers import BatchNorm, Dropout
from lossbench.models.spec import Inputs, Model

MODELS: dict[str, Model] = {
    row.name: row for row in dense.ROWS + images.ROWS + resnet.ROWS + vit.ROWS + foreign.ROWS
}
