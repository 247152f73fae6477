"""What the last convolutions of the heads start from.

Source: focal loss (arXiv:1708.02002) section 4.1.
"""

from __future__ import annotations

import math

PRIOR_PROBABILITY = 0.01
# Every class starts at this probability, which keeps focal loss stable at first.
CLASS_BIAS = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
