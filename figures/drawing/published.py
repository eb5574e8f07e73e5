"""Published curves that are drawn beside ours: Rangwani et al. (NeurIPS 2022), |λ_min / λ_max| of single classes."""

from __future__ import annotations

from ...analysis.records.published_data import on_cifar10_lt_100
from ...analysis.records.results import CurvatureResult

#: who printed them, and how they were read
SOURCE = "Rangwani et al. 2022, slide 19: ResNet-32; read by eye, about ±0.02"
_EPOCHS = (10, 50, 100, 160, 170, 190, 200)
#: optimizer -> class -> the ratio at each of these epochs; printed for people in reports/literature/papers.toml too (F4)
_RATIOS = {
    "sgd": {
        0: (0.14, 0.06, 0.06, 0.04, 0.08, 0.08, 0.08),
        2: (0.13, 0.06, 0.06, 0.15, 0.10, 0.11, 0.11),
        5: (0.26, 0.09, 0.08, 0.10, 0.48, 0.78, 0.95),
        7: (0.28, 0.14, 0.11, 0.11, 0.98, 0.98, 0.98),
        8: (0.47, 0.19, 0.95, 0.99, 0.99, 1.0, 0.99),
    },
    "sam": {
        0: (0.18, 0.10, 0.06, 0.05, 0.06, 0.06, 0.06),
        2: (0.23, 0.14, 0.10, 0.07, 0.08, 0.08, 0.08),
        5: (0.17, 0.20, 0.17, 0.16, 0.12, 0.14, 0.14),
        7: (0.12, 0.27, 0.15, 0.13, 0.14, 0.13, 0.14),
        8: (0.20, 0.37, 0.17, 0.14, 0.20, 0.19, 0.15),
    },
}


def published_ratios(result: CurvatureResult, group: str, optimizer: str) -> dict[int, float]:
    """Epoch -> the published ratio of the class that ``group`` is; empty where none was published for these data.

    Args:
        result: any result that holds the group.
        group: of the result's scheme.
        optimizer: the rule, as ``sgd``.
    """
    classes = result.scheme.groups.get(group, [])
    if len(classes) != 1 or not on_cifar10_lt_100(result.provenance):
        return {}
    values = _RATIOS.get(optimizer, {}).get(classes[0], ())
    return dict(zip(_EPOCHS, values, strict=False))
