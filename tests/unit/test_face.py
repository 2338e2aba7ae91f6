"""FaceNet: logits to train by, an embedding to use."""

from typing import Any

import pytest
import torch

from distdl import models
from distdl.errors import UserError


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    return models.build("facenet", {"classes": 5, "embedding": 128, "append_embedding": True})


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    return torch.randn(2, 3, 75, 75, generator=torch.Generator().manual_seed(1))


def test_an_embedding_has_unit_length(network: Any, faces: torch.Tensor) -> None:
    with torch.no_grad():
        embedding = network.eval().embedding(faces)

    assert embedding.shape == (2, 128)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_logits_stand_alone_in_evaluation_and_next_to_the_embedding_in_training(
    network: Any, faces: torch.Tensor
) -> None:
    with torch.no_grad():
        assert network.eval()(faces).shape == (2, 5)
        outputs = network.train()(faces)

    assert outputs.shape == (2, 5 + 128)
    torch.testing.assert_close(outputs[:, 5:].norm(dim=1), torch.ones(2))


def test_names_and_shapes_are_those_of_facenet_pytorchs_weights() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in models.build("facenet", {}).state_dict().items()}

    assert len(shapes) == 716
    assert {
        "conv2d_4b.conv.weight": (256, 192, 3, 3),
        "repeat_1.4.branch2.2.bn.running_var": (32,),
        "mixed_6a.branch1.0.conv.weight": (192, 256, 1, 1),
        "repeat_2.9.conv2d.bias": (896,),
        "block8.conv2d.weight": (1792, 384, 1, 1),
        "last_linear.weight": (512, 1792),
        "last_bn.num_batches_tracked": (),
        "logits.weight": (8631, 512),
    }.items() <= shapes.items()


def test_a_face_that_is_too_small_is_refused_with_what_to_do(network: Any) -> None:
    with pytest.raises(UserError, match=r"at least 75x75, these are 64x64\n.*\{resize: 75\}"):
        network.embedding(torch.zeros(2, 3, 64, 64))
