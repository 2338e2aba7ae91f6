"""GoogLeNet, the first Inception network (Szegedy et al. 2014, "Going deeper with convolutions", table 1).

An inception module looks at its input at several scales at once: 1x1, 3x3 and 5x5 convolutions and a max pooling, side
by side, with 1x1 convolutions that keep the channels few. Two readings of the table: `googlenet` is torchvision's, with
its names and for its weights: batch norms, and 3x3 convolutions where the paper has 5x5. `googlenet_paper` is the
paper's: 5x5, biases, local response normalisation, and Caffe's names (of bvlc_googlenet, a dot for each slash).

Both can have the paper's two auxiliary classifiers, on 4a and 4d, whose losses count 0.3 each in training (section 5).
"""

import torch
import torch.nn.functional as F
from torch import nn

from distdl.errors import UserError
from distdl.models.inception_parts import Branches, Convolution, check_has_heads, check_side
from distdl.models.layers import check_channels, check_probabilities, check_sizes, drop_units

# Channels in; of 1x1; of 3x3 reduce and 3x3; of 5x5 reduce and 5x5; of the pooling's projection.
Channels = tuple[int, int, int, int, int, int, int]
MODULES: dict[str, Channels] = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}
OUTPUTS, OUTPUTS_4A, OUTPUTS_4D = 1024, 512, 528


def googlenet(
    *,
    classes: int = 1000,
    channels: int = 3,
    auxiliary: bool = False,
    dropout: float = 0.2,
    auxiliary_dropout: float = 0.7,
) -> nn.Module:
    """GoogLeNet as in torchvision: batch norms, 3x3 for the paper's 5x5. 6,624,904 parameters, with heads 13,004,888.
    Its published weights want each channel normalised to a mean and a deviation of 0.5."""
    check_sizes(classes=classes, channels=channels)
    check_probabilities(dropout=dropout, auxiliary_dropout=auxiliary_dropout)
    return GoogLeNet(classes, channels, auxiliary, dropout, auxiliary_dropout)


def googlenet_paper(
    *,
    classes: int = 1000,
    channels: int = 3,
    auxiliary: bool = False,
    dropout: float = 0.4,
    auxiliary_dropout: float = 0.7,
) -> nn.Module:
    """GoogLeNet as published: 5x5 convolutions, biases, local response normalisation. 6,998,552 parameters. Weights
    start as in Caffe's bvlc_googlenet: Glorot and Bengio's uniform distribution, biases at 0.2."""
    check_sizes(classes=classes, channels=channels)
    check_probabilities(dropout=dropout, auxiliary_dropout=auxiliary_dropout)
    return PaperGoogLeNet(classes, channels, auxiliary, dropout, auxiliary_dropout)


# --- torchvision's ---


class GoogLeNet(nn.Module):
    """`auxiliary`: whether aux1 and aux2 exist."""

    def __init__(self, classes: int, channels: int, auxiliary: bool, dropout: float, auxiliary_dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv1 = Convolution(channels, 64, 7, stride=2)
        self.conv2 = Convolution(64, 64, 1)
        self.conv3 = Convolution(64, 192, 3)
        for name, of_module in MODULES.items():
            self.add_module(f"inception{name}", _inception(*of_module))
        self.aux1 = AuxiliaryHead(OUTPUTS_4A, classes, auxiliary_dropout) if auxiliary else None
        self.aux2 = AuxiliaryHead(OUTPUTS_4D, classes, auxiliary_dropout) if auxiliary else None
        self.fc = nn.Linear(OUTPUTS, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.01)  # torchvision truncates it at 200 deviations

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), any size from 15 on -> logits (batch, classes); in training with auxiliary
        heads theirs as well, (batch, 3, classes)."""
        if self.training and self.aux1 is not None:
            return torch.stack(self.forward_with_auxiliary(images_NCHW), dim=1)
        return self._from_4d_on(self._from_4a_to_4d(self._up_to_4a(images_NCHW)))

    def forward_with_auxiliary(self, images_NCHW: torch.Tensor) -> list[torch.Tensor]:
        """Logits (batch, classes) of the network, of aux1 and of aux2."""
        check_has_heads(self.aux1, "GoogLeNet")
        maps_4a = self._up_to_4a(images_NCHW)
        maps_4d = self._from_4a_to_4d(maps_4a)
        return [self._from_4d_on(maps_4d), self.aux1(maps_4a), self.aux2(maps_4d)]  # type: ignore[misc]

    def _up_to_4a(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        check_channels(images_NCHW, self.conv1.conv.in_channels)
        check_side(images_NCHW, 15, "GoogLeNet")
        maps = self.conv3(self.conv2(_halve(self.conv1(images_NCHW))))
        return self._through(_halve(self._through(_halve(maps), "3a", "3b")), "4a")

    def _from_4a_to_4d(self, maps: torch.Tensor) -> torch.Tensor:
        return self._through(maps, "4b", "4c", "4d")

    def _from_4d_on(self, maps: torch.Tensor) -> torch.Tensor:
        maps = F.max_pool2d(self._through(maps, "4e"), 2, stride=2, ceil_mode=True)  # the paper's is 3x3
        maps = self._through(maps, "5a", "5b")
        features = drop_units(maps.mean((2, 3)), self.dropout, self.training)
        logits: torch.Tensor = self.fc(features)
        return logits

    def _through(self, maps: torch.Tensor, *names: str) -> torch.Tensor:
        for name in names:
            maps = self.get_submodule(f"inception{name}")(maps)
        return maps

    def blocks(self) -> list[str]:
        """The inception modules. The stem and the classifiers are left to the root."""
        return [f"inception{name}" for name in MODULES]


def _inception(
    inputs: int, of_1x1: int, of_3x3_reduce: int, of_3x3: int, of_5x5_reduce: int, of_5x5: int, of_pool: int
) -> Branches:
    return Branches(
        branch1=Convolution(inputs, of_1x1, 1),
        branch2=nn.Sequential(Convolution(inputs, of_3x3_reduce, 1), Convolution(of_3x3_reduce, of_3x3, 3)),
        branch3=nn.Sequential(Convolution(inputs, of_5x5_reduce, 1), Convolution(of_5x5_reduce, of_5x5, 3)),
        branch4=nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), Convolution(inputs, of_pool, 1)),
    )


class AuxiliaryHead(nn.Module):
    """4x4 means of the maps, whatever their size, 128 channels, 1024 units, logits."""

    def __init__(self, inputs: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv = Convolution(inputs, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.fc2 = nn.Linear(1024, classes)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = self.conv(F.adaptive_avg_pool2d(maps, 4))
        units = F.relu(self.fc1(maps.flatten(1)), inplace=True)
        logits: torch.Tensor = self.fc2(drop_units(units, self.dropout, self.training))
        return logits


# --- the paper's ---


class PaperGoogLeNet(nn.Module):
    """`auxiliary`: whether loss1 and loss2 exist."""

    def __init__(self, classes: int, channels: int, auxiliary: bool, dropout: float, auxiliary_dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv1_7x7_s2 = nn.Conv2d(channels, 64, 7, stride=2, padding=3)
        self.conv2_3x3_reduce = nn.Conv2d(64, 64, 1)
        self.conv2_3x3 = nn.Conv2d(64, 192, 3, padding=1)
        self.normalise = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)  # AlexNet's, section 3.3, but k = 1
        for name, of_module in MODULES.items():
            self.add_module(f"inception_{name}", PaperInception(*of_module))
        self.loss1 = PaperAuxiliaryHead(OUTPUTS_4A, classes, auxiliary_dropout) if auxiliary else None
        self.loss2 = PaperAuxiliaryHead(OUTPUTS_4D, classes, auxiliary_dropout) if auxiliary else None
        self.loss3_classifier = nn.Linear(OUTPUTS, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.constant_(module.bias, 0.2)  # type: ignore[arg-type]  # all of them have one
        nn.init.zeros_(self.loss3_classifier.bias)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), any size from 31 on -> logits (batch, classes); in training with auxiliary
        heads theirs as well, (batch, 3, classes)."""
        if self.training and self.loss1 is not None:
            return torch.stack(self.forward_with_auxiliary(images_NCHW), dim=1)
        return self._from_4d_on(self._from_4a_to_4d(self._up_to_4a(images_NCHW)))

    def forward_with_auxiliary(self, images_NCHW: torch.Tensor) -> list[torch.Tensor]:
        """Logits (batch, classes) of the network, of loss1 and of loss2, which are made for maps of 14x14 pixels.

        Raises UserError for images smaller than 223x223 or larger than 270x270."""
        check_has_heads(self.loss1, "GoogLeNet")
        maps_4a = self._up_to_4a(images_NCHW)
        if not all(14 <= side <= 16 for side in maps_4a.shape[2:]):
            raise UserError(
                "the auxiliary heads of GoogLeNet take images of 223x223 to 270x270, these are "
                f"{images_NCHW.shape[2]}x{images_NCHW.shape[3]}",
                where="data",
                fix="Add {resize: 224} to the transforms of each split, or set model.args.auxiliary=false.",
            )
        maps_4d = self._from_4a_to_4d(maps_4a)
        return [self._from_4d_on(maps_4d), self.loss1(maps_4a), self.loss2(maps_4d)]  # type: ignore[misc]

    def _up_to_4a(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        check_channels(images_NCHW, self.conv1_7x7_s2.in_channels)
        check_side(images_NCHW, 31, "GoogLeNet")
        maps = self.normalise(_halve(F.relu(self.conv1_7x7_s2(images_NCHW), inplace=True)))
        maps = F.relu(self.conv2_3x3_reduce(maps), inplace=True)
        maps = self.normalise(F.relu(self.conv2_3x3(maps), inplace=True))
        return self._through(_halve(self._through(_halve(maps), "3a", "3b")), "4a")

    def _from_4a_to_4d(self, maps: torch.Tensor) -> torch.Tensor:
        return self._through(maps, "4b", "4c", "4d")

    def _from_4d_on(self, maps: torch.Tensor) -> torch.Tensor:
        maps = self._through(_halve(self._through(maps, "4e")), "5a", "5b")
        features = drop_units(maps.mean((2, 3)), self.dropout, self.training)
        logits: torch.Tensor = self.loss3_classifier(features)
        return logits

    def _through(self, maps: torch.Tensor, *names: str) -> torch.Tensor:
        for name in names:
            maps = self.get_submodule(f"inception_{name}")(maps)
        return maps

    def blocks(self) -> list[str]:
        """The inception modules. The stem and the classifiers are left to the root."""
        return [f"inception_{name}" for name in MODULES]


class PaperInception(nn.Module):
    """Figure 2 (b)."""

    def __init__(
        self, inputs: int, of_1x1: int, of_3x3_reduce: int, of_3x3: int, of_5x5_reduce: int, of_5x5: int, of_pool: int
    ) -> None:
        super().__init__()
        self.conv_1x1 = nn.Conv2d(inputs, of_1x1, 1)
        self.conv_3x3_reduce = nn.Conv2d(inputs, of_3x3_reduce, 1)
        self.conv_3x3 = nn.Conv2d(of_3x3_reduce, of_3x3, 3, padding=1)
        self.conv_5x5_reduce = nn.Conv2d(inputs, of_5x5_reduce, 1)
        self.conv_5x5 = nn.Conv2d(of_5x5_reduce, of_5x5, 5, padding=2)
        self.pool_proj = nn.Conv2d(inputs, of_pool, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        of_3x3 = self.conv_3x3(F.relu(self.conv_3x3_reduce(maps), inplace=True))
        of_5x5 = self.conv_5x5(F.relu(self.conv_5x5_reduce(maps), inplace=True))
        of_pool = self.pool_proj(F.max_pool2d(maps, 3, stride=1, padding=1))
        return F.relu(torch.cat([self.conv_1x1(maps), of_3x3, of_5x5, of_pool], 1), inplace=True)


class PaperAuxiliaryHead(nn.Module):
    """5x5 means at a stride of 3, 128 channels, 1024 units, logits (section 5)."""

    def __init__(self, inputs: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv = nn.Conv2d(inputs, 128, 1)
        self.fc = nn.Linear(128 * 4 * 4, 1024)
        self.classifier = nn.Linear(1024, classes)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(batch, inputs, 14, 14) -> (batch, classes)."""
        maps = F.relu(self.conv(F.avg_pool2d(maps, 5, stride=3)), inplace=True)
        units = F.relu(self.fc(maps.flatten(1)), inplace=True)
        logits: torch.Tensor = self.classifier(drop_units(units, self.dropout, self.training))
        return logits


def _halve(maps: torch.Tensor) -> torch.Tensor:
    """Max pooling of 3x3 pixels at a stride of 2, whose last windows may reach out of the map."""
    return F.max_pool2d(maps, 3, stride=2, ceil_mode=True)
