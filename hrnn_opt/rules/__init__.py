"""Rules made by hand, each around any learned optimizer."""

from hrnn_opt.rules.alignment import Alignment
from hrnn_opt.rules.averaging import Averaging
from hrnn_opt.rules.mu import Mu
from hrnn_opt.rules.rescaling import Rescaling
from hrnn_opt.rules.rotation import Rotation

__all__ = ["Alignment", "Averaging", "Mu", "Rescaling", "Rotation"]
