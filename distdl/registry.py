"""Every name that a config may write, and where its code is: name -> "module:attribute", imported only when asked for.

Free of torch, so that an unknown name is answered in the same 0.3 s as any other mistake in a config. Code of one's own
has two ways in: anywhere a name goes, `package.module:attribute` goes too; and a file that the config names under
`plugins` (distdl/plugins.py) gives its functions and classes names by the decorators below.
"""

import importlib
import inspect
from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from distdl import catalogue
from distdl.errors import UserError, did_you_mean

MODELS = {name: entry.function for name, entry in catalogue.ENTRIES.items()}
TASKS = {
    "classify": "distdl.tasks.classify:Classify",
    "metric": "distdl.tasks.metric:Metric",
    "multilabel": "distdl.tasks.multilabel:Multilabel",
    "multitask": "distdl.tasks.multitask:Multitask",
    "regress": "distdl.tasks.regress:Regress",
    "autoencode": "distdl.tasks.autoencode:Autoencode",
    "ctc": "distdl.tasks.ctc:Ctc",
    "frames": "distdl.tasks.frames:Frames",
}
DATASETS: dict[str, str] = {}  # none is built in: those of one's own
STAGES: dict[str, str] = {}  # likewise
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
    "resize": "distdl.data.pictures.transforms:Resize",
    "center_crop": "distdl.data.pictures.transforms:CenterCrop",
    "random_crop": "distdl.data.pictures.transforms:RandomCrop",
    "random_resized_crop": "distdl.data.pictures.transforms:RandomResizedCrop",
    "flip": "distdl.data.pictures.transforms:Flip",
    "contrast": "distdl.data.pictures.contrast:Contrast",
    "pad": "distdl.data.pictures.transforms:Pad",
    "rotate": "distdl.data.pictures.geometry:Rotate",
    "zoom": "distdl.data.pictures.geometry:Zoom",
    "shift": "distdl.data.pictures.geometry:Shift",
    "homography": "distdl.data.pictures.geometry:Homography",
    "brightness": "distdl.data.pictures.augment:Brightness",
    "channel_shift": "distdl.data.pictures.augment:ChannelShift",
    "colour_jitter": "distdl.data.pictures.augment:ColourJitter",
    "rand_augment": "distdl.data.pictures.rand_augment:RandAugment",
    "random_erasing": "distdl.data.pictures.augment:RandomErasing",
    "normalise": "distdl.data.pictures.transforms:Normalise",
    "speed": "distdl.speech.speed:Speed",
    "volume": "distdl.speech.perturb:Volume",
    "time_shift": "distdl.speech.perturb:TimeShift",
    "noise": "distdl.speech.noise:Noise",
    "reverberation": "distdl.speech.reverb:Reverberation",
    "log_mel": "distdl.speech.features:LogMel",
    "mfcc": "distdl.speech.features:Mfcc",
    "spectrogram": "distdl.speech.features:Spectrogram",
    "librosa_log_mel": "distdl.speech.features:LibrosaLogMel",
    "deltas": "distdl.speech.deltas:Deltas",
    "cmvn": "distdl.speech.normalise:Cmvn",
    "spec_augment": "distdl.speech.spec_augment:SpecAugment",
}
ENGINES = {"exchange": "distdl.trainer.engines:ExchangeEngine", "ddp": "distdl.trainer.engines:DDPEngine"}

KINDS = {  # what a decorator is called -> what it registers, and the names that are taken
    "register_model": ("model", MODELS),
    "register_task": ("task", TASKS),
    "register_dataset": ("dataset", DATASETS),
    "register_stage": ("stage", STAGES),
    "register_transform": ("transform", TRANSFORMS),
    "register_optim": ("optimiser", OPTIMISERS),
    "register_schedule": ("schedule", SCHEDULES),
}

Names: TypeAlias = Collection[tuple[str, str]]  # (kind, name)
Registered: TypeAlias = dict[tuple[str, str], Callable[..., Any]]

_registered: ChainMap[tuple[str, str], Callable[..., Any]] = ChainMap()


# --- code of one's own ---


def _decorator(word: str) -> Callable[..., Any]:
    kind, _ = KINDS[word]

    def register(name: str | Callable[..., Any] | None = None) -> Any:
        """`@register_model` registers a function or a class under its own name, `@register_model("name")` another."""
        if callable(name):
            return register(None)(name)

        def enter(function: Callable[..., Any]) -> Callable[..., Any]:
            _registered[kind, name or function.__name__] = function
            return function

        return enter

    return register


register_model = _decorator("register_model")
register_task = _decorator("register_task")
register_dataset = _decorator("register_dataset")
register_stage = _decorator("register_stage")
register_transform = _decorator("register_transform")
register_optim = _decorator("register_optim")
register_schedule = _decorator("register_schedule")


@contextmanager
def using(registered: Registered) -> Iterator[None]:
    """Within it, these names come before those that were registered outside; what is registered is added to them.

    So two runs whose plugins use one name for two things can be built in one process, one after the other.
    """
    global _registered
    before, _registered = _registered, _registered.new_child(registered)
    try:
        yield
    finally:
        _registered = before


# --- what a name in a config stands for ---


def check_name(name: str, table: Mapping[str, str], kind: str, declared: Names | None = None) -> str:
    """Returns a `name` that is in the table, registered, `declared` by a plugin, or a `package.module:attribute`.

    Raises ValueError with a suggestion for any other.
    """
    declared = () if declared is None else declared  # one that is empty may still claim to contain any
    if name in table or (kind, name) in declared or (kind, name) in _registered or all(name.partition(":")):
        return name
    own_names = [own for its_kind, own in dict.fromkeys((*declared, *_registered)) if its_kind == kind]
    known = [*table, *own_names]
    shown = [*own_names, f"the {len(table)} that `distdl zoo` lists"] if table is MODELS else known
    listed = f"known: {', '.join(shown)}, or" if known else "none is built in or registered; name it as"
    raise ValueError(f"unknown {kind} '{name}'{did_you_mean(name, known)} ({listed} package.module:attribute)")


def resolve(name: str, table: Mapping[str, str], kind: str) -> Callable[..., Any]:
    """Imports what a name stands for. Raises UserError when there is no such name, module or attribute."""
    if (kind, name) in _registered and name not in table:
        return _registered[kind, name]
    try:
        module_name, _, attribute = table.get(check_name(name, table, kind), name).partition(":")
    except ValueError as error:
        raise UserError(str(error)) from None
    if module_name.startswith("."):
        raise UserError(f"{kind} '{name}': a module is named in full", fix="Such as package.module:attribute.")
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
    function = getattr(module, attribute)
    if not callable(function):
        raise UserError(f"{kind} '{name}' is a {type(function).__name__}, not a function or a class")
    return function


def call_with_args(
    function: Callable[..., Any], args: Mapping[str, Any], kind: str, *, where: str = "", **given: Any
) -> Any:
    """`function(**given, **args)`; UserError for an argument that it does not take, and for one that is missing.

    `kind` names the function to the reader, `where` the key of the config that has `args`.
    """
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        raise UserError(
            f"{kind} does not say which arguments it takes", where=where, fix="Write a function round it."
        ) from None
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in args:
        if name in given or (name not in parameters and not open_ended):
            known = [p for p in parameters if p not in given]
            raise UserError(
                f"{kind} takes no argument '{name}'{did_you_mean(name, known)}",
                where=where,
                fix=f"It takes: {', '.join(known) or 'none'}.",
            )
    for name in given:
        if name not in parameters and not open_ended:
            raise UserError(f"{kind} has to take the argument '{name}'", where=where)
    missing = [
        p.name
        for p in parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        and p.name not in args
        and p.name not in given
    ]
    if missing:
        raise UserError(f"{kind} needs the argument '{missing[0]}'", where=where)
    return function(**given, **args)
