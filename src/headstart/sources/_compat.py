"""A CPU-only torch with a CUDA-built torchvision cannot import it; a small remedy, used only after that failure.

torchvision registers fake kernels for ``torchvision::nms`` whose schemas live in a library that a CPU torch skips.
Defining the schemas lets the import go through; ``torchvision.ops.nms`` itself stays unavailable.
"""

from __future__ import annotations

import sys
from typing import Any

_alive: list[Any] = []  # the Library object must outlive the import


def repair_torchvision() -> str:
    """Import torchvision; returns "native", "repaired", or "absent"."""
    try:
        import torchvision
    except ModuleNotFoundError:
        return "absent"
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return "repaired" if _alive else "native"
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _alive.append(library)
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]
    import torchvision  # noqa: F401

    return "repaired"
