"""The hierarchical RNN of Wichrowska et al. 2017.

| section of the paper | room |
|---|---|
| 3.2 the three levels | `cells.py`, `HierarchicalRNN._parameter_bias`, `_upper_levels` |
| 3.3.1 lookahead | `HierarchicalRNN._direction` (the attended update), `iterates.Lookahead` |
| 3.3.2 momentum at several time scales, 3.3.3 input scaling | `_scaled_averages`, `_inputs` |
| 3.3.4 directions and step sizes | `_direction`, `_learning_rate`, `_sized` |
| 3.3.5 relative learning rates | `_mean_log_rate`, `_inputs` |
| start values, and rules written into them | `network.py`, `starts.py` |
| the released program's names | `released.py` |
"""

from hrnn_opt.networks.hrnn.config import HierarchicalRNNConfig
from hrnn_opt.networks.hrnn.network import HierarchicalRNN

__all__ = ["HierarchicalRNN", "HierarchicalRNNConfig"]
