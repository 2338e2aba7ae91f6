"""Which networks of the zoo other libraries have, and what they call them. Free of torch.

Their layers have the same names, so that weights go both ways as they are; a test compares both networks' logits, with
the same weights. `arguments`: with which theirs is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Arguments of a network here that leave its layers and what they compute in evaluation as the other library has them.
OF_NO_MATTER = {"classes", "dropout", "stochastic_depth", "zero_init_residual", "auxiliary", "auxiliary_dropout"}


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


_RESNETS = """
    resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet50_2 resnext50_32x4d resnext101_32x8d resnext101_64x4d
"""
_IN_TORCHVISION = f"""
    alexnet vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn {_RESNETS}
    convnext_tiny convnext_small convnext_base efficientnet_b0 mobilenet_v3_large mobilenet_v3_small
    regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf
"""
_WITHOUT_HEADS = {"aux_logits": False, "init_weights": False}

TORCHVISION: dict[str, Peer] = {name: Peer(name) for name in _IN_TORCHVISION.split()} | {
    "googlenet": Peer("googlenet", _WITHOUT_HEADS),
    "inception_v3": Peer("inception_v3", _WITHOUT_HEADS),
}
TIMM: dict[str, Peer] = {name: Peer(name) for name in _RESNETS.split()} | {
    "resnext101_32x4d": Peer("resnext101_32x4d"),
    "se_resnet50": Peer("legacy_seresnet50"),
    "se_resnet101": Peer("legacy_seresnet101"),
    "se_resnet152": Peer("legacy_seresnet152"),
    "se_resnext50_32x4d": Peer("legacy_seresnext50_32x4d"),
    "se_resnext101_32x4d": Peer("legacy_seresnext101_32x4d"),
    "inception_v4": Peer("inception_v4"),
    "inception_resnet_v2": Peer("inception_resnet_v2"),
    "vit_small": Peer("deit3_small_patch16_224"),
    "vit_base": Peer("deit3_base_patch16_224"),
}

PEERS = {"torchvision": TORCHVISION, "timm": TIMM}
