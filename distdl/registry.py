"""Every name that a config may write, and where its code is: name -> "module:attribute", imported only when asked for.

Free of torch, so that an unknown name is answered in the same 0.3 s as any other mistake in a config. Anywhere a name
goes, `package.module:attribute` goes too: a network, task, transform or optimiser of one's own needs no entry here.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from distdl.errors import UserError, did_you_mean

MODELS = {
    "mlp": "distdl.models.mlp:mlp",
    "lenet5": "distdl.models.lenet:lenet5",
    "resnet18": "distdl.models.resnet:resnet18",
    "resnet34": "distdl.models.resnet:resnet34",
    "resnet50": "distdl.models.resnet:resnet50",
    "resnet50_v1": "distdl.models.resnet:resnet50_v1",
    "resnet20_cifar": "distdl.models.resnet_cifar:resnet20_cifar",
    "resnet110_cifar": "distdl.models.resnet_cifar:resnet110_cifar",
}
TASKS = {
    "classify": "distdl.tasks.classify:Classify",
    "multilabel": "distdl.tasks.multilabel:Multilabel",
    "regress": "distdl.tasks.regress:Regress",
    "autoencode": "distdl.tasks.autoencode:Autoencode",
}
DATASETS: dict[str, str] = {}  # none is built in: those of one's own
OPTIMISERS = {
    "sgd": "distdl.trainer.optim:sgd",
    "adam": "distdl.trainer.optim:adam",
    "adamw": "distdl.trainer.optim:adamw",
    "adagrad": "distdl.trainer.optim:adagrad",
    "adadelta": "distdl.trainer.optim:adadelta",
    "rmsprop": "distdl.trainer.optim:rmsprop",
    "lars": "distdl.trainer.optim:lars",
    "lamb": "distdl.trainer.optim:lamb",
    "muon": "distdl.trainer.optim:muon",
}
SCHEDULES = {
    "constant": "distdl.trainer.schedule:constant",
    "step": "distdl.trainer.schedule:step",
    "multistep": "distdl.trainer.schedule:multistep",
    "cosine": "distdl.trainer.schedule:cosine",
    "linear": "distdl.trainer.schedule:linear",
    "polynomial": "distdl.trainer.schedule:polynomial",
    "one_cycle": "distdl.trainer.schedule:one_cycle",
    "cosine_restarts": "distdl.trainer.schedule:cosine_restarts",
    "plateau": "distdl.trainer.schedule:plateau",
}
TRANSFORMS = {
    "resize": "distdl.data.transforms:Resize",
    "center_crop": "distdl.data.transforms:CenterCrop",
    "random_crop": "distdl.data.transforms:RandomCrop",
    "random_resized_crop": "distdl.data.transforms:RandomResizedCrop",
    "flip": "distdl.data.transforms:Flip",
    "pad": "distdl.data.transforms:Pad",
    "normalise": "distdl.data.transforms:Normalise",
}
ENGINES = {"exchange": "distdl.trainer.engines:ExchangeEngine", "ddp": "distdl.trainer.engines:DDPEngine"}


def check_name(name: str, table: Mapping[str, str], kind: str) -> str:
    """Returns `name` if it is in the table or is a `package.module:attribute`; raises ValueError with a suggestion."""
    if name in table or all(name.partition(":")):
        return name
    raise ValueError(
        f"unknown {kind} '{name}'{did_you_mean(name, table)} (known: {', '.join(table)}, or package.module:attribute)"
    )


def resolve(name: str, table: Mapping[str, str], kind: str) -> Callable[..., Any]:
    """Imports what a name stands for. Raises UserError when there is no such name, module or attribute."""
    try:
        module_name, _, attribute = table.get(check_name(name, table, kind), name).partition(":")
    except ValueError as error:
        raise UserError(str(error)) from None
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A missing dependency inside the user's module is named as such, not as a missing module of theirs.
        raise UserError(
            f"{kind} '{name}': no module named '{error.name}'",
            fix="Is its folder on PYTHONPATH, and is the package installed in this environment?",
        ) from error
    if not hasattr(module, attribute):
        raise UserError(f"{kind} '{name}': module '{module_name}' has no attribute '{attribute}'")
    return getattr(module, attribute)


def call_with_args(function: Callable[..., Any], args: Mapping[str, Any], kind: str, **given: Any) -> Any:
    """`function(**given, **args)`; UserError for an argument that it does not take, and for one that is missing."""
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in args:
        if name in given or (name not in parameters and not open_ended):
            known = [p for p in parameters if p not in given]
            raise UserError(
                f"{kind} takes no argument '{name}'{did_you_mean(name, known)}",
                fix=f"It takes: {', '.join(known) or 'none'}.",
            )
    for name in given:
        if name not in parameters and not open_ended:
            raise UserError(f"{kind} has to take the argument '{name}'")
    missing = [
        p.name
        for p in parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        and p.name not in args
        and p.name not in given
    ]
    if missing:
        raise UserError(f"{kind} needs the argument '{missing[0]}'")
    return function(**given, **args)
