"""In fp64 networks of every sort have the gradients of one process, on any number of workers."""

import pytest

pytestmark = pytest.mark.timeout(120)
N_WORKERS = (2, 3, 4)
MODELS = (
    *("logistic_regression", "mlp", "lenet5", "lenet5_sparse", "gtsrb_multiscale", "autoencoder", "googlenet"),
    *("resnet18", "resnet50", "se_resnet50", "resnet20_cifar", "resnet110_cifar"),
    *("mobilenet_v3_small", "regnet_y_400mf", "efficientnet_b0", "convnext_tiny", "airbench94_cifar"),
    *("keyword_res8_narrow", "keyword_res15_narrow", "deep_speech2", "deep_speech2_streaming"),
)
COVERED = [(name, N_WORKERS[i % 3]) for i, name in enumerate(MODELS)]
OTHERS = [(name, n) for name in MODELS for n in N_WORKERS if (name, n) not in COVERED]


@pytest.mark.parametrize(("name", "n_workers"), COVERED)
def test_gradients_are_those_of_one_process(workers, name, n_workers):
    difference, *_ = workers(n_workers).run("zoo_gradients", name=name, n_rows=9, deadline_s=100)

    assert difference < 1e-10


@pytest.mark.matrix
@pytest.mark.parametrize(("name", "n_workers"), OTHERS)
def test_so_they_are_on_every_other_number_of_workers(workers, name, n_workers):
    test_gradients_are_those_of_one_process(workers, name, n_workers)
