"""A module to put in the place of wandb, for tests that have to see what it is told."""

import types
from typing import Any


class Error(Exception):
    """What every error of wandb's own is."""


class FakeWandb(types.ModuleType):
    """Stands for the wandb package; keeps the calls made to it."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.errors = types.SimpleNamespace(Error=Error)
        self.init_arguments: dict[str, Any] = {}
        self.axes: list[Any] = []
        self.hidden: list[str] = []
        self.logged: list[dict[str, Any]] = []
        self.ended: list[Any] = []
        self.url = "https://wandb.example/run"
        self.resumed = False
        self.summary: dict[str, Any] = {}
        self.log_error: Exception | None = None
        self.init_error: Exception | None = None

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def setup(self, settings: Any = None) -> None: ...

    def init(self, **arguments: Any) -> "FakeWandb":
        if self.init_error:
            raise self.init_error
        self.init_arguments = arguments
        return self

    def define_metric(self, name: str, step_metric: str | None = None, hidden: bool = False) -> None:
        self.axes.append((name, step_metric))
        self.hidden += [name] * hidden

    def log(self, values: dict[str, Any]) -> None:
        if self.log_error:
            raise self.log_error
        self.logged.append(values)
        self.summary |= values

    def mark_preempting(self) -> None:
        self.ended.append("preempting")

    def finish(self, exit_code: int) -> None:
        self.ended.append(exit_code)

    def teardown(self) -> None:
        self.ended.append("teardown")
