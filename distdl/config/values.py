"""How a key of a config is declared, and the values that have a grammar of their own: times, signals, transforms."""

import re
import signal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from distdl import registry

REQUIRED: Any = ...


def key(default: Any, text: str, *, free: bool = False, **bounds: Any) -> Any:
    return Field(default, description=text, json_schema_extra={"free": free}, **bounds)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# --- values with a grammar of their own ---

_PERIOD = re.compile(r"^(\d+(?:\.\d+)?)\s*(steps?|epochs?|s|sec|min|h)$")
_SECONDS = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0}


def parse_period(text: int | str) -> tuple[float, Literal["steps", "epochs", "seconds"]]:
    """200 -> (200, steps); "1 epoch" -> (1, epochs); "30 min" -> (1800, seconds). Raises ValueError otherwise."""
    if isinstance(text, int) and not isinstance(text, bool):
        amount, unit = float(text), "steps"
    else:
        match = _PERIOD.match(str(text).strip())
        if not match:
            raise ValueError(f"'{text}' is not a period: write steps (200), '1 epoch' or '30 min'")
        amount, unit = float(match[1]), match[2]
    if amount <= 0:
        raise ValueError("a period is greater than 0")
    if unit in _SECONDS:
        return amount * _SECONDS[unit], "seconds"
    if unit.startswith("step") and amount != int(amount):
        raise ValueError(f"'{text}' is not a whole number of steps")
    return amount, "epochs" if unit.startswith("epoch") else "steps"


def check_period(text: int | str) -> int | str:
    parse_period(text)
    return text


def check_duration(text: Any) -> Any:
    if not isinstance(text, str) or parse_period(text)[1] != "seconds":
        raise ValueError(f"'{text}' is not a time: write '90 min' or '23 h'")
    return text


def check_signal(name: str) -> str:
    full = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    if full not in signal.Signals.__members__ or full in ("SIGKILL", "SIGSTOP", "SIGINT"):
        raise ValueError(f"'{name}' is not a signal that can ask for a stop (SIGTERM, SIGUSR1, SIGUSR2, ...)")
    return full


def _one_transform(value: Any, info: ValidationInfo) -> Any:
    """`flip` and `{pad: 2}` and `{normalise: {mean: ..., std: ...}}` -> {name: argument or mapping of arguments}."""
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("a transform is a name or a mapping with one name, such as flip or {pad: 2}")
    registry.check_name(str(next(iter(value))), registry.TRANSFORMS, "transform", info.context)
    return value


def _one_stage(value: Any, info: ValidationInfo) -> Any:
    """`my:clean` -> {my:clean: null}, itself the stage; {my:keep: 3} and {my:keep: {least: 3}} make one."""
    if isinstance(value, str):
        value = {value: None}
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("a stage is a name, or a mapping with one name, such as {webdataset:decode: pil}")
    registry.check_name(str(next(iter(value))), registry.STAGES, "stage", info.context)
    return value


def name_in(table: dict[str, str], kind: str) -> AfterValidator:
    """The validation's context: what the config's plugins declare."""
    return AfterValidator(lambda name, info: registry.check_name(name, table, kind, info.context))


Decay = Annotated[float, Field(ge=0, lt=1)]
Epoch = Annotated[float, Field(ge=0)]
Period = Annotated[int | str, AfterValidator(check_period)]
Duration = Annotated[str, BeforeValidator(check_duration)]
SignalName = Annotated[str, AfterValidator(check_signal)]
Stage = Annotated[dict[str, Any], BeforeValidator(_one_stage)]
Transform = Annotated[dict[str, Any], BeforeValidator(_one_transform)]
