"""Types of settings: ranges of numbers, and names in a registry."""

import difflib
from collections.abc import Collection
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

# An unknown setting is an error.
FORBID = ConfigDict(extra="forbid", use_attribute_docstrings=True)
Count = Annotated[int, Field(ge=1, le=10**15)]
Whole = Annotated[int, Field(ge=0, le=10**15)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def near(value: str, allowed: Collection[str]) -> str:
    """' Did you mean x?' for the name in `allowed` that is nearest to the value; '' without one."""
    lower = {name.lower(): name for name in allowed}
    close = difflib.get_close_matches(value.lower(), lower, n=1, cutoff=0.5)
    return f" Did you mean {lower[close[0]]}?" if close else ""


def one_of(registry: Collection[str]) -> AfterValidator:
    """A validator of names. It reads the registry at every check: later entries are valid too."""

    def check(value: str) -> str:
        if value not in registry:
            raise ValueError(f"must be one of {', '.join(registry)}.{near(value, registry)}")
        return value

    return AfterValidator(check)
