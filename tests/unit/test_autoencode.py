"""Reconstruction: the image is its own label; and the network of the zoo for it."""

import pytest
import tiny
import torch
from torch.nn import functional

from distdl import models
from distdl.data.corpus.shards import write_shards
from distdl.errors import UserError
from distdl.tasks.autoencode import Autoencode

SMALL = {"inputs": 16, "hidden": [8], "bottleneck": 3}


@pytest.fixture
def image():
    return torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(5, 1, 4, 4), (5, 16)])
def test_the_loss_is_the_mean_squared_error_for_outputs_of_any_shape(image, shape):
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    batch = {"image": image, "valid": torch.tensor([1.0, 1, 0, 1, 1])}

    loss, count = Autoencode().loss(outputs, batch)

    kept = [0, 1, 3, 4]
    expected = functional.mse_loss(outputs.view_as(image)[kept], image[kept])
    torch.testing.assert_close(loss / count, expected)
    error = Autoencode().metrics(outputs, batch)["mae"] / count
    torch.testing.assert_close(error, functional.l1_loss(outputs.view_as(image)[kept], image[kept]))


def test_a_network_with_another_number_of_values_is_the_users_mistake(image):
    with pytest.raises(UserError, match="gives 10 values for an image of 16"):
        Autoencode().loss(torch.zeros(5, 10), {"image": image, "valid": torch.ones(5)})


def test_the_network_gives_the_shape_that_it_takes_through_its_bottleneck(image):
    network = models.build("autoencoder", SMALL)

    assert network(image).shape == image.shape
    assert network.encoder(image.flatten(1)).shape == (5, 3)
    widths = [layer.in_features for layer in network.modules() if isinstance(layer, torch.nn.Linear)]
    assert widths == [16, 8, 3, 8]


def test_the_networks_sizes_are_checked(image):
    with pytest.raises(UserError, match="is not a whole number of at least 1"):
        models.build("autoencoder", {"hidden": [8, 0]})
    with pytest.raises(UserError, match="takes 784 values per sample, these have 16"):
        models.build("autoencoder", {})(image)


def test_a_run_needs_no_labels_and_learns(tmp_path, opened):
    from distdl.trainer import step
    from distdl.trainer.evaluate import evaluate

    corpus = tiny.write_corpus(tmp_path / "labelled", 20)
    pictures = [{"__key__": str(i), "npy": npy(i)} for i in range(20)]
    write_shards(pictures, tmp_path / "bare", classes=None, kind="test")
    for folder in (corpus, tmp_path / "bare"):
        overrides = {
            "model": {"name": "autoencoder", "args": SMALL},
            "task": {"name": "autoencode"},
            "data.eval": {"shards": str(folder)},
        }
        run = opened(tiny.build(tiny.config(folder, overrides)))

        def evaluated(run=run):
            return evaluate(run.engine.model, run.task, run.eval_loaders["eval"], run.device, run.config.train)

        before = evaluated()
        for batch in run.host_batches():
            step.train_step(run, batch, run.lr_now())
            run.state.advance(len(batch.tensors["valid"]))

        assert evaluated()["loss"] < before["loss"]
        assert set(before) == {"loss", "mae", "count"}


def npy(i):
    import io

    import numpy as np

    stream = io.BytesIO()
    np.save(stream, np.full((4, 4), 12 * i, np.uint8))
    return stream.getvalue()
