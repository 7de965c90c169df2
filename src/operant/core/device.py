"""Where networks compute."""

import torch

from operant.core.errors import InputError


def device(name: str = "auto") -> torch.device:
    """`auto` is an accelerator where there is one; other names are PyTorch's: cpu, cuda, cuda:1, mps.

    Raises `InputError` for one that is not there.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        found = torch.device(name)
    except RuntimeError:
        found = torch.device("meta")
    known = {"cpu": 1} | ({} if accelerator is None else {accelerator.type: torch.accelerator.device_count()})
    if (found.index or 0) >= known.get(found.type, 0):
        raise InputError(
            f"--device is {name}, and PyTorch finds {' and '.join(known)} here: leave it out for the best there is"
        )
    return found
