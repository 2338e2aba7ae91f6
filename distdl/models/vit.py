"""Vision transformers (Dosovitskiy et al. 2020, "An image is worth 16x16 words") as DeiT III trains them (Touvron, Cord
and Jegou 2022, "DeiT III: revenge of the ViT"): each residual has a layer scale, and the class token no position.

An image is cut into patches of 16x16, each becomes a token; a class token is put in front of them, and its last value
is classified. Submodules have timm's names for deit3_small_patch16_224 and deit3_base_patch16_224 (cls_token,
pos_embed, patch_embed.proj, blocks.0.attn.qkv, blocks.0.ls1.gamma, ..., head), so that published weights load as they
are. Shapes: B rows, T tokens, C channels of a token.
"""

import torch
import torch.nn.functional as F
from torch import nn

from distdl.errors import UserError
from distdl.models.layers import check_channels, check_probabilities, check_sizes, drop_residual, drop_units

PATCH = 16
DEPTH = 12
HEAD_WIDTH = 64  # channels of an attention head
LAYER_SCALE = 1e-4  # where it starts, as in the authors' code
EPSILON = 1e-6  # of layer norms


def vit_small(
    *,
    classes: int = 1000,
    channels: int = 3,
    image_size: int = 224,
    dropout: float = 0.0,
    stochastic_depth: float = 0.05,
) -> nn.Module:
    """ViT-S/16 as in DeiT III: 22,059,496 parameters. `image_size`: pixels a side, a multiple of 16, for which
    positions are made. Stochastic depth is that of the authors' training command."""
    return VisionTransformer(384, classes, channels, image_size, dropout, stochastic_depth)


def vit_base(
    *,
    classes: int = 1000,
    channels: int = 3,
    image_size: int = 224,
    dropout: float = 0.0,
    stochastic_depth: float = 0.2,
) -> nn.Module:
    """ViT-B/16 as in DeiT III: 86,585,320 parameters. `image_size`: pixels a side, a multiple of 16, for which
    positions are made. Stochastic depth is that of the authors' training command."""
    return VisionTransformer(768, classes, channels, image_size, dropout, stochastic_depth)


class VisionTransformer(nn.Module):
    """Stochastic depth is the same in all blocks: DeiT III does not let it rise with depth."""

    def __init__(
        self,
        width: int,
        classes: int,
        channels: int,
        image_size: int,
        dropout: float,
        stochastic_depth: float,
    ) -> None:
        check_sizes(classes=classes, channels=channels, image_size=image_size)
        check_probabilities(dropout=dropout, stochastic_depth=stochastic_depth)
        if image_size % PATCH:
            nearest = max(PATCH, round(image_size / PATCH) * PATCH)
            raise UserError(
                f"{image_size} is not a multiple of {PATCH}, the side of a patch",
                where="model.args.image_size",
                fix=f"Set model.args.image_size={nearest}, and resize or crop the images to {nearest}x{nearest}.",
            )
        super().__init__()
        self.image_size = image_size
        self.dropout = dropout
        self.patch_embed = PatchEmbedding(channels, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, (image_size // PATCH) ** 2, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, stochastic_depth) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.head = nn.Linear(width, classes)

        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, image_size, image_size) -> logits (batch, classes)."""
        check_channels(images_NCHW, self.patch_embed.proj.in_channels)
        check_image_size(images_NCHW, self.image_size)
        patches_BTC = self.patch_embed(images_NCHW) + self.pos_embed
        class_token_B1C = self.cls_token.expand(len(patches_BTC), -1, -1)
        tokens_BTC = self.blocks(torch.cat([class_token_B1C, patches_BTC], dim=1))
        features = drop_units(self.norm(tokens_BTC[:, 0]), self.dropout, self.training)
        logits: torch.Tensor = self.head(features)
        return logits

    def block_names(self) -> list[str]:
        """The transformer's blocks; `blocks` is taken by timm's name of the submodule. The patches' embedding and the
        classifier are left to the root."""
        return [f"blocks.{index}" for index in range(DEPTH)]


class PatchEmbedding(nn.Module):
    """(batch, channels, height, width) -> a token for each patch, row by row (batch, tokens, width)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, PATCH, stride=PATCH)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return self.proj(images_NCHW).flatten(2).transpose(1, 2)


class TransformerBlock(nn.Module):
    """Attention, then two linear layers with four times the width between them; each behind a layer norm and in front
    of a layer scale, and the input is added to each."""

    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        self.drop = drop  # probability of leaving out each residual
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = Attention(width)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = FeedForward(width)
        self.ls2 = LayerScale(width)

    def forward(self, tokens_BTC: torch.Tensor) -> torch.Tensor:
        residual = self.ls1(self.attn(self.norm1(tokens_BTC)))
        tokens_BTC = tokens_BTC + drop_residual(residual, self.drop, self.training)
        residual = self.ls2(self.mlp(self.norm2(tokens_BTC)))
        return tokens_BTC + drop_residual(residual, self.drop, self.training)


class Attention(nn.Module):
    """Multi-head self-attention; one linear layer makes queries, keys and values of all heads, in this order."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens_BTC: torch.Tensor) -> torch.Tensor:
        # (batch, tokens, 3 * width) -> (3, batch, heads, tokens, channels of a head)
        parts = self.qkv(tokens_BTC).unflatten(2, (3, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)
        queries, keys, values = parts.unbind(0)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        mixed_BTC: torch.Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return mixed_BTC


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens_BTC: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.fc2(F.gelu(self.fc1(tokens_BTC)))
        return outputs


class LayerScale(nn.Module):
    """A factor for each channel (Touvron et al. 2021, "Going deeper with image transformers", section 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, tokens_BTC: torch.Tensor) -> torch.Tensor:
        return tokens_BTC * self.gamma


def check_image_size(images_NCHW: torch.Tensor, image_size: int) -> None:
    """Raises UserError for images of another size than the positions were made for."""
    height, width = images_NCHW.shape[2:]
    if height == width == image_size:
        return
    fits = height == width and height % PATCH == 0
    raise UserError(
        f"the network takes images of {image_size}x{image_size}, these are {height}x{width}",
        where="model.args.image_size",
        fix=(f"Set model.args.image_size={height}, or resize" if fits else "Resize")
        + f" or crop the images to {image_size}x{image_size} in the transforms of each split.",
    )
