"""What several unit tests need: a tiny corpus, and runs that are closed at the end of a test."""

import pytest
import tiny
import torch

torch.set_num_threads(1)  # networks of this size only lose by more


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return tiny.write_corpus(tmp_path_factory.mktemp("data") / "corpus", 20)


@pytest.fixture
def opened():
    """Call it with a run that is to be closed; it hands it back."""
    runs = []

    def keep(run):
        runs.append(run)
        return run

    yield keep
    for run in runs:
        run.close()
