"""`distdl cmvn`: mean and deviation of a training set's features, in a file for {cmvn: {over: corpus, file: FILE}}.

All sounds of data.train as they are, without what perturbs them  ->  its features  ->  sums over all frames, in fp64
"""

import argparse
from contextlib import closing

import torch

from distdl import plugins, registry
from distdl.config import load
from distdl.config.schema import Config
from distdl.data.engine import Loader
from distdl.data.length_order import sequential_by_length
from distdl.data.open import open_split
from distdl.data.workers import Threads
from distdl.errors import EXIT_DONE, UserError
from distdl.run import places, trust
from distdl.run.folder import write_atomic
from distdl.speech.normalise import Cmvn, Statistics
from distdl.speech.transforms import build
from distdl.track.progress import progress
from distdl.trainer import sounds

_ROWS_AT_ONCE = 32


def command(arguments: argparse.Namespace) -> int:
    config = load(arguments.config, arguments.overrides).config
    trust.check_file(arguments.config, config)
    places.use(config.paths)
    with registry.using(plugins.load(plugins.read(config.plugins))):
        text = statistics(config).as_json()
    try:
        write_atomic(arguments.out, text.encode())
    except OSError as error:
        raise UserError(f"can't write it: {error.strerror}", where=str(arguments.out)) from error
    print(f"{arguments.out}: use it by {{cmvn: {{over: corpus, file: {arguments.out}}}}}")
    return EXIT_DONE


def statistics(config: Config) -> Statistics:
    """Raises UserError for a config without sounds, or data that can't be had. Bad samples are left out."""
    sound, split, where = config.data.sound, config.data.train, "data.train"
    if sound is None:
        raise UserError("these are no sounds", where="data.sound", fix="Say it in the config: {rate_hz: 16000}.")
    dataset = open_split(split, where, config.data, for_training=True)
    loader = Loader(
        dataset,
        split,
        workers=Threads(config.data.workers or 1),
        prefetch=2,
        where=where,
        label=None,
        augmentation_seed=None,
        bad_sample="mask",
        sounds=sounds.rows_of(dataset, sound, where),
    )
    assert loader.sounds, "it was made with sounds"
    chain = build(_undisturbed(split.transforms), where)
    found, lengths = Statistics(), loader.sounds.lengths
    n_batches = -(-len(lengths) // _ROWS_AT_ONCE)
    rows = sequential_by_length(lengths, range(n_batches), _ROWS_AT_ONCE)
    with closing(loader), closing(loader.stream(rows)) as batches, progress("features", n_batches) as advance:
        for host in batches:
            made = sounds.features(host.tensors, chain, sound.rate_hz, torch.device("cpu"))
            valid_B = host.tensors["valid"] > 0
            found.add(made["features"][valid_B], made["frames"][valid_B])
            advance()
    return found


def _undisturbed(configs: list[dict[str, object]]) -> list[dict[str, object]]:
    """What makes features, up to the normalisation: neither what perturbs waveforms nor what comes after."""
    kept = []
    for config in configs:
        ((name, _),) = config.items()
        function = registry.resolve(name, registry.TRANSFORMS, "transform")
        if function is Cmvn:
            break
        if getattr(function, "gives", "") == "features":
            kept.append(config)
    return kept
