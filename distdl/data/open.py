"""From what a config names to an open dataset: in the training process, and once more in its worker processes.

Free of torch, as all is that worker processes need: each of them would take a second and its memory to import it.
"""

from distdl.config.schema import DataConfig
from distdl.config.sources import SourceConfig, SplitConfig, TrainSplitConfig
from distdl.data.corpus.dataset import Dataset
from distdl.data.corpus.folder import FolderDataset
from distdl.data.corpus.manifest import ManifestDataset
from distdl.data.iterable import open_own
from distdl.data.mixture import AnyDataset, Mixture, Source
from distdl.data.own import OwnDataset
from distdl.errors import UserError
from distdl.run.places import located


def open_split(split: SplitConfig, where: str, data: DataConfig, *, for_training: bool) -> AnyDataset:
    if split.dataset is not None and for_training:
        return open_own(split, where, data.draws)
    if not isinstance(split, TrainSplitConfig) or not split.mixture:
        return _open_source(split, where, data)
    return Mixture({name: _open_source(of, f"{where}.mixture.{name}", data) for name, of in split.mixture.items()})


def open_again(split: SplitConfig, data: DataConfig, identity: str, where: str) -> AnyDataset:
    """In a worker process. Raises UserError if it is not the dataset that its parent has."""
    dataset = open_split(split, where, data, for_training=where == "data.train")
    if dataset.identity != identity:
        raise UserError("the data has changed since this run began", where=f"{where}: {split.source}")
    return dataset


def _open_source(split: SourceConfig, where: str, data: DataConfig) -> Source:
    if split.dataset is not None:
        return OwnDataset.open(split, where)
    try:
        if split.folder is not None:
            return FolderDataset.open(located(split.folder))
        if split.manifest is not None:
            return ManifestDataset.open(located(split.manifest))
        assert split.shards is not None, "a split has one source"
        return Dataset.open(split.shards, index_folder=split.index, remote=data.remote, stage=data.stage)
    except UserError as error:
        key = "folder" if split.folder else "manifest" if split.manifest else "shards"
        raise UserError(error.what, where=f"{where}.{key}: {error.where or split.source}", fix=error.fix) from None
