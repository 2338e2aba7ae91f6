"""distdl: data-parallel training on sharded corpora, over any number of GPUs and nodes.

What is named below is imported when it is first asked for: `import distdl` is instant, and torch comes with the
functions that need it.
"""

import importlib

# Known by its name: to import `typing` for it would be the slowest part of the command line's start.
TYPE_CHECKING = False
if TYPE_CHECKING:  # for editors and type checkers
    from distdl.api import Result, TrainingFailed, batches, load_model, metrics, train
    from distdl.errors import UserError
    from distdl.registry import (
        register_dataset,
        register_model,
        register_optim,
        register_schedule,
        register_stage,
        register_task,
        register_transform,
    )

__version__ = "0.1.0"

__all__ = [
    "Result",
    "TrainingFailed",
    "UserError",
    "batches",
    "load_model",
    "metrics",
    "register_dataset",
    "register_model",
    "register_optim",
    "register_schedule",
    "register_stage",
    "register_task",
    "register_transform",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'distdl' has no attribute '{name}'")
    module = "errors" if name == "UserError" else "registry" if name.startswith("register_") else "api"
    return getattr(importlib.import_module(f"distdl.{module}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
