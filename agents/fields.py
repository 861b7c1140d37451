"""Types of settings: ranges of numbers, and names in a registry."""

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

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


@dataclass(frozen=True, eq=False)
class OneOf:
    """A name in a registry, which is read at every check: later entries are valid too."""

    registry: Collection[str]

    def check(self, value: str) -> str:
        if value not in self.registry:
            names = ", ".join(self.registry)
            raise ValueError(f"must be one of {names}.{near(value, self.registry)}")
        return value

    def __get_pydantic_core_schema__(self, kind: Any, handler: GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_after_validator_function(self.check, handler(kind))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Any:
        return handler(schema) | {"enum": [*self.registry]}
