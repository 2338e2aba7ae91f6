"""Vision transformers: timm's names, attention, the class token, positions for one image size, stochastic depth."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from distdl import models
from distdl.errors import UserError
from distdl.models.vit import Attention, PatchEmbedding, TransformerBlock, VisionTransformer


def narrow(width: int = 64, image_size: int = 32, dropout: float = 0.0, stochastic_depth: float = 0.0) -> Any:
    torch.manual_seed(0)
    return VisionTransformer(width, 5, 3, image_size, dropout, stochastic_depth)


@cache
def on_meta(name: str, image_size: int = 224) -> Any:
    with torch.device("meta"):
        return models.build(name, {"image_size": image_size})


def test_it_has_the_names_and_shapes_of_timms_weights() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in on_meta("vit_small").state_dict().items()}

    assert len(shapes) == 4 + 12 * 14 + 4
    assert {
        "cls_token": (1, 1, 384),
        "pos_embed": (1, 196, 384),
        "patch_embed.proj.weight": (384, 3, 16, 16),
        "patch_embed.proj.bias": (384,),
        "blocks.0.norm1.weight": (384,),
        "blocks.0.attn.qkv.weight": (1152, 384),
        "blocks.0.attn.qkv.bias": (1152,),
        "blocks.5.attn.proj.weight": (384, 384),
        "blocks.5.ls1.gamma": (384,),
        "blocks.11.mlp.fc1.weight": (1536, 384),
        "blocks.11.mlp.fc2.bias": (384,),
        "blocks.11.ls2.gamma": (384,),
        "norm.weight": (384,),
        "head.weight": (1000, 384),
    }.items() <= shapes.items()


@pytest.mark.parametrize("image_size, positions", [(16, 1), (160, 100), (384, 576)])
def test_positions_are_made_for_the_image_size_and_none_for_the_class_token(image_size: int, positions: int) -> None:
    assert on_meta("vit_base", image_size).pos_embed.shape == (1, positions, 768)
    assert on_meta("vit_base", image_size)(torch.zeros(2, 3, image_size, image_size, device="meta")).shape == (2, 1000)


def test_its_blocks_are_named_though_a_submodule_is_called_blocks() -> None:
    network, called = narrow(), []
    names = models.blocks(network)
    for name in names:
        network.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.append(name))

    network(torch.zeros(1, 3, 32, 32))

    assert called == names == [f"blocks.{index}" for index in range(12)]
    assert all(isinstance(network.get_submodule(name), TransformerBlock) for name in names)


def test_tokens_are_patches_row_by_row() -> None:
    embedding = PatchEmbedding(1, 4)
    image = torch.arange(6.0).reshape(2, 3).repeat_interleave(16, 0).repeat_interleave(16, 1)[None, None]
    nn.init.constant_(embedding.proj.weight, 1 / 256)  # a token is its patch's mean
    nn.init.zeros_(embedding.proj.bias)

    torch.testing.assert_close(embedding(image), torch.arange(6.0)[None, :, None].expand(1, 6, 4))


def test_attention_mixes_values_by_the_softmax_of_scaled_products_in_each_head() -> None:
    torch.manual_seed(0)
    attention, tokens = Attention(128), torch.randn(2, 5, 128)

    queries, keys, values = attention.qkv(tokens).split(128, dim=2)
    heads = []
    for part in (slice(0, 64), slice(64, 128)):
        products = queries[..., part] @ keys[..., part].transpose(1, 2) / 8  # the root of 64
        heads.append(products.softmax(-1) @ values[..., part])

    torch.testing.assert_close(attention(tokens), attention.proj(torch.cat(heads, dim=2)))


def test_only_positions_tell_patches_apart() -> None:
    network = narrow().eval()
    for name in models.blocks(network):
        nn.init.ones_(network.get_submodule(name).ls1.gamma)  # else attention would hardly be seen
    image = torch.randn(1, 3, 32, 32)
    left_right_exchanged = image.roll(16, dims=3)  # whole patches

    with_positions = network(image), network(left_right_exchanged)
    nn.init.zeros_(network.pos_embed)
    without = network(image), network(left_right_exchanged)

    assert not torch.allclose(*with_positions, atol=1e-4)
    torch.testing.assert_close(*without, atol=1e-5, rtol=1e-4)


def test_the_class_token_starts_each_row_and_is_what_is_classified() -> None:
    network, seen = narrow(), []
    network.get_submodule("blocks.0").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))

    network(torch.randn(3, 3, 32, 32))

    tokens, classified = seen
    assert tokens.shape == (3, 5, 64)
    assert torch.equal(tokens[:, :1], network.cls_token.expand(3, 1, 64))
    assert classified.shape == (3, 64)


def test_stochastic_depth_is_the_same_in_all_blocks_and_drops_each_residual_of_a_row() -> None:
    assert {on_meta("vit_small").get_submodule(name).drop for name in models.blocks(on_meta("vit_small"))} == {0.05}

    torch.manual_seed(0)
    block, tokens = TransformerBlock(64, drop=0.5), torch.randn(200, 3, 64)
    nn.init.ones_(block.ls1.gamma)
    nn.init.zeros_(block.ls2.gamma)  # the block shows its first residual
    dropped, whole = block.train()(tokens) - tokens, block.eval()(tokens) - tokens

    left_out = (dropped == 0).flatten(1).all(1)
    torch.testing.assert_close(dropped[~left_out], 2 * whole[~left_out], atol=1e-5, rtol=1e-4)
    assert left_out.float().mean() == pytest.approx(0.5, abs=0.15)


def test_weights_start_as_in_the_authors_code() -> None:
    network = narrow(width=128)

    assert network.get_submodule("blocks.3.mlp.fc1").weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not network.get_submodule("blocks.3.attn.qkv").bias.any()
    assert (network.get_submodule("blocks.3.ls2").gamma == torch.tensor(1e-4)).all()
    assert network.pos_embed.std().item() == pytest.approx(0.02, rel=0.2)


def test_memory_order_does_not_change_the_result() -> None:
    network, images = narrow().eval(), torch.randn(2, 3, 32, 32)

    expected = network(images)
    channels_last = network.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))

    torch.testing.assert_close(channels_last, expected)


def test_every_parameter_learns() -> None:
    network = narrow()

    network(torch.randn(2, 3, 32, 32)).square().sum().backward()

    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_dropout_is_in_front_of_the_output() -> None:
    network, seen = narrow(dropout=0.4), []
    network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    network.train()(torch.randn(50, 3, 32, 32))

    assert (seen[0] == 0).float().mean() == pytest.approx(0.4, abs=0.05)


def test_an_image_size_that_patches_do_not_fill_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"model\.args\.image_size: 200 is not a multiple of 16.*\n.*image_size=192"):
        models.build("vit_small", {"image_size": 200})
    with pytest.raises(UserError, match=r"image_size=16,"):
        models.build("vit_small", {"image_size": 3})
    with pytest.raises(UserError, match=r"model\.args\.image_size: 224\.0 is not a whole number"):
        models.build("vit_small", {"image_size": 224.0})


@pytest.mark.parametrize(
    "height, width, fix", [(48, 48, "Set model.args.image_size=48, or resize"), (32, 48, "Resize"), (40, 40, "Resize")]
)
def test_images_of_another_size_are_refused_with_what_fits_them(height: int, width: int, fix: str) -> None:
    with pytest.raises(UserError, match=rf"takes images of 32x32, these are {height}x{width}\n.*{fix} or crop"):
        narrow()(torch.zeros(2, 3, height, width))


def test_grey_images_are_refused_by_their_channels() -> None:
    with pytest.raises(UserError, match=r"3 channel\(s\), these have 1\n.*model.args.channels=1"):
        narrow()(torch.zeros(2, 1, 32, 32))
