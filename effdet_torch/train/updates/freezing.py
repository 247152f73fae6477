"""Parameters that are not trained."""

from __future__ import annotations

import re

from torch import nn

from effdet_torch.errors import ConfigError, listed

EXAMPLE = "(backbone|fpn)"


def freeze(model: nn.Module, pattern: str | None) -> list[str]:
    """Stop the training of the parameters whose names start with a match; return these names.

    As in the official code, their moving averages go on, and so do the statistics of their batch norms. All other
    parameters are trained.

    Args:
        model: whose `requires_grad` is set.
        pattern: regular expression, such as "(backbone|fpn)"; None freezes nothing.

    Raises:
        ConfigError: The pattern is invalid, matches no parameter, or leaves none to train.
    """
    names = [name for name, _ in model.named_parameters()]
    try:
        frozen = [name for name in names if pattern is not None and re.match(pattern, name)]
    except re.error as error:
        raise ConfigError(f"--freeze {pattern!r} is not a regular expression ({error}); try {EXAMPLE!r}") from None
    if pattern is not None and not frozen:
        scopes = listed(dict.fromkeys(name.partition(".")[0] for name in names))
        raise ConfigError(f"--freeze {pattern!r} matches no parameter; their names start with {scopes}")
    if len(frozen) == len(names):
        raise ConfigError(f"--freeze {pattern!r} matches all {len(names)} parameters; leave some to train")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in set(frozen))
    return frozen
