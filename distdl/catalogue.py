"""Every network of the zoo in a line: its family's file in distdl/models, its paper, its input, its published accuracy.

A network's name is that of the function which makes it. Free of torch, so that the registry can read it. What can be
counted (parameters, multiply-accumulates) is counted by distdl/models/zoo.py; counting all of it takes a minute, and
`make docs` writes it to counts.json.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path

Size = tuple[int, ...]  # channels, height, width of an image; frames, features of a sound


@dataclass(frozen=True, slots=True)
class Paper:
    title: str
    year: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Fractions of a test or validation set: one network, one crop, unless the source says otherwise."""

    top1: float
    top5: float | None
    dataset: str
    source: str


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """`file` is that of distdl/models, in which a function `name` makes the network; MACs are counted at `input_size`.

    `reference` is somebody else's figure, whose source was looked at; `measured` is one of our own runs.
    """

    name: str
    file: str
    family: str
    paper: Paper
    input_size: Size
    reference: Accuracy | None
    measured: Accuracy | None = None

    @property
    def is_acoustic(self) -> bool:
        """Whether it is called with features of sounds, and how many frames of them are each row's own."""
        return len(self.input_size) == 2

    @property
    def function(self) -> str:
        return f"distdl.models.{self.file}:{self.name}"


def family(
    name: str, file: str, paper: Paper, input_size: Size, /, **networks: Accuracy | None
) -> Mapping[str, ZooEntry]:
    return {each: ZooEntry(each, file, name, paper, input_size, found) for each, found in networks.items()}


def imagenet(top1_percent: float, top5_percent: float | None, source: str) -> Accuracy:
    top5 = None if top5_percent is None else round(top5_percent / 100, 6)
    return Accuracy(round(top1_percent / 100, 6), top5, "ImageNet-1k", source)


def cifar10(top1_percent: float, source: str) -> Accuracy:
    return Accuracy(round(top1_percent / 100, 6), None, "CIFAR-10", source)


GREY_28, GREY_32, COLOUR_32, COLOUR_48 = (1, 28, 28), (1, 32, 32), (3, 32, 32), (3, 48, 48)
COLOUR_160, COLOUR_221, COLOUR_224 = (3, 160, 160), (3, 221, 221), (3, 224, 224)
COLOUR_231, COLOUR_299 = (3, 231, 231), (3, 299, 299)
SECOND_40, SECONDS_5_80, SECONDS_5_161 = (101, 40), (500, 80), (500, 161)  # frames of 10 ms, features
TORCHVISION = "torchvision, V1 weights"

PERCEPTRON = Paper("The perceptron: a probabilistic model for information storage and organization in the brain", 1958)
LOGISTIC = Paper("The regression analysis of binary sequences", 1958)
LEAST_SQUARES = Paper("Nouvelles méthodes pour la détermination des orbites des comètes", 1805)
BACK_PROPAGATION = Paper("Learning representations by back-propagating errors", 1986)
LENET = Paper("Gradient-based learning applied to document recognition", 1998)
ALEXNET = Paper("ImageNet classification with deep convolutional neural networks", 2012)
ONE_TOWER = Paper("One weird trick for parallelizing convolutional neural networks", 2014)
OVERFEAT = Paper("OverFeat: integrated recognition, localization and detection using convolutional networks", 2013)
VGG = Paper("Very deep convolutional networks for large-scale image recognition", 2014)
MCDNN = Paper("Multi-column deep neural network for traffic sign classification", 2012)
MULTISCALE = Paper("Traffic sign recognition with multi-scale convolutional networks", 2011)
KEYWORD = Paper("Deep residual learning for small-footprint keyword spotting", 2018)
DEEP_SPEECH_2 = Paper("Deep Speech 2: end-to-end speech recognition in English and Mandarin", 2015)
AUTOENCODER = Paper("Reducing the dimensionality of data with neural networks", 2006)
GOOGLENET = Paper("Going deeper with convolutions", 2014)
BATCH_NORM = Paper("Batch normalization: accelerating deep network training by reducing internal covariate shift", 2015)
INCEPTION_V3 = Paper("Rethinking the Inception architecture for computer vision", 2015)
FACENET = Paper("FaceNet: a unified embedding for face recognition and clustering", 2015)
INCEPTION_V4 = Paper("Inception-v4, Inception-ResNet and the impact of residual connections on learning", 2016)
SQUEEZE_EXCITE = Paper("Squeeze-and-excitation networks", 2017)
RESNET = Paper("Deep residual learning for image recognition", 2015)
WIDE_RESNET = Paper("Wide residual networks", 2016)
RESNEXT = Paper("Aggregated residual transformations for deep neural networks", 2017)
CONVNEXT = Paper("A ConvNet for the 2020s", 2022)
DEIT3 = Paper("DeiT III: Revenge of the ViT", 2022)
EFFICIENTNET = Paper("EfficientNet: Rethinking model scaling for convolutional neural networks", 2019)
MOBILENET_V3 = Paper("Searching for MobileNetV3", 2019)
REGNET = Paper("Designing network design spaces", 2020)
AIRBENCH = Paper("94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024)

FAMILIES = (
    # --- basics, and before ImageNet ---
    family("Perceptron", "basics", PERCEPTRON, (2, 1, 1), perceptron=None),
    family("Linear regression", "basics", LEAST_SQUARES, (1, 1, 1), linear_regression=None),
    family("Logistic regression", "basics", LOGISTIC, (2, 1, 1), logistic_regression=None),
    family("MLP", "mlp", BACK_PROPAGATION, GREY_28, mlp=None),
    family(
        "LeNet",
        "lenet",
        LENET,
        GREY_32,
        lenet5=Accuracy(0.9905, None, "MNIST", "the paper, section III.B"),
        lenet5_sparse=Accuracy(0.9905, None, "MNIST", "the paper, section III.B"),
    ),
    family(
        "GTSRB",
        "gtsrb",
        MCDNN,
        COLOUR_48,
        gtsrb_mcdnn=None,
        gtsrb_committee=Accuracy(0.9946, None, "GTSRB", "the paper: each column with its own normalisation"),
    ),
    family("GTSRB", "gtsrb", MULTISCALE, GREY_32, gtsrb_multiscale=None),
    # --- plain networks: AlexNet, OverFeat, VGG ---
    family("AlexNet", "alexnet", ONE_TOWER, COLOUR_224, alexnet=imagenet(56.522, 79.066, TORCHVISION)),
    family("AlexNet", "alexnet", ALEXNET, COLOUR_224, alexnet_two_tower=None),
    family("OverFeat", "overfeat", OVERFEAT, COLOUR_231, overfeat_fast=None),
    family("OverFeat", "overfeat", OVERFEAT, COLOUR_221, overfeat_accurate=None),
    family(
        "VGG",
        "vgg",
        VGG,
        COLOUR_224,
        vgg11=imagenet(69.02, 88.628, TORCHVISION),
        vgg13=imagenet(69.928, 89.246, TORCHVISION),
        vgg16=imagenet(71.592, 90.382, TORCHVISION),
        vgg19=imagenet(72.376, 90.876, TORCHVISION),
        vgg11_bn=imagenet(70.37, 89.81, TORCHVISION),
        vgg13_bn=imagenet(71.586, 90.374, TORCHVISION),
        vgg16_bn=imagenet(73.36, 91.516, TORCHVISION),
        vgg19_bn=imagenet(74.218, 91.842, TORCHVISION),
    ),
    family("VGG", "vgg", SQUEEZE_EXCITE, COLOUR_224, se_vgg16=imagenet(74.78, 92.3, "the paper, table 2")),
    # --- Inception ---
    family(
        "Inception",
        "googlenet",
        GOOGLENET,
        COLOUR_224,
        googlenet=imagenet(69.778, 89.53, TORCHVISION),
        googlenet_paper=imagenet(68.7, 88.9, "Caffe's bvlc_googlenet"),
    ),
    family(
        "Inception", "bn_inception", BATCH_NORM, COLOUR_224, bn_inception=imagenet(74.8, 92.18, "the paper, figure 4")
    ),
    family(
        "Inception",
        "bn_inception",
        SQUEEZE_EXCITE,
        COLOUR_224,
        se_bn_inception=imagenet(75.77, 92.86, "the paper, table 2"),
    ),
    family(
        "Inception",
        "inception_v3",
        INCEPTION_V3,
        COLOUR_299,
        inception_v3=imagenet(77.294, 93.45, TORCHVISION),
    ),
    family(
        "Inception",
        "inception_v4",
        INCEPTION_V4,
        COLOUR_299,
        inception_v4=imagenet(80.0, 95.0, "the paper, table 2"),
    ),
    family(
        "Inception-ResNet",
        "inception_resnet",
        INCEPTION_V4,
        COLOUR_299,
        inception_resnet_v1=imagenet(78.7, 94.5, "the paper, table 2"),
        inception_resnet_v2=imagenet(80.1, 95.1, "the paper, table 2"),
    ),
    family(
        "Inception-ResNet",
        "inception_resnet",
        SQUEEZE_EXCITE,
        COLOUR_299,
        se_inception_resnet_v2=imagenet(80.2, 95.21, "the paper, table 2"),
    ),
    family(
        "FaceNet",
        "face",
        FACENET,
        COLOUR_160,
        facenet=Accuracy(0.9965, None, "LFW (pairs)", "facenet-pytorch, trained on VGGFace2"),
    ),
    # --- residual networks ---
    family(
        "ResNet",
        "resnet",
        RESNET,
        COLOUR_224,
        resnet18=imagenet(69.758, 89.078, TORCHVISION),
        resnet34=imagenet(73.314, 91.42, TORCHVISION),
        resnet50=imagenet(76.13, 92.862, TORCHVISION),
        resnet101=imagenet(77.374, 93.546, TORCHVISION),
        resnet152=imagenet(78.312, 94.046, TORCHVISION),
        resnet50_v1=imagenet(75.3, 92.2, "the authors' released weights"),
        resnet101_v1=imagenet(76.4, 92.9, "the authors' released weights"),
        resnet152_v1=imagenet(77.0, 93.3, "the authors' released weights"),
    ),
    family("Wide ResNet", "resnet", WIDE_RESNET, COLOUR_224, wide_resnet50_2=imagenet(78.468, 94.086, TORCHVISION)),
    family(
        "ResNeXt",
        "resnext",
        RESNEXT,
        COLOUR_224,
        resnext50_32x4d=imagenet(77.618, 93.698, TORCHVISION),
        resnext101_32x4d=imagenet(78.8, 94.4, "the paper, table 4"),
        resnext101_32x8d=imagenet(79.312, 94.526, TORCHVISION),
        resnext101_64x4d=imagenet(83.246, 96.454, "torchvision, V1 weights, of a newer recipe"),
    ),
    family(
        "SE-ResNet",
        "se_resnet",
        SQUEEZE_EXCITE,
        COLOUR_224,
        se_resnet50=imagenet(76.71, 93.38, "the paper, table 2"),
        se_resnet101=imagenet(77.62, 93.93, "the paper, table 2"),
        se_resnet152=imagenet(78.43, 94.27, "the paper, table 2"),
        se_resnext50_32x4d=imagenet(78.90, 94.51, "the paper, table 2"),
        se_resnext101_32x4d=imagenet(79.30, 94.99, "the paper, table 2"),
    ),
    family(
        "ResNet",
        "resnet_cifar",
        RESNET,
        COLOUR_32,
        resnet20_cifar=cifar10(91.25, "the paper, table 6"),
        resnet32_cifar=cifar10(92.49, "the paper, table 6"),
        resnet44_cifar=cifar10(92.83, "the paper, table 6"),
        resnet56_cifar=cifar10(93.03, "the paper, table 6"),
        resnet110_cifar=cifar10(93.57, "the paper, table 6, best of 5"),
        resnet1202_cifar=cifar10(92.07, "the paper, table 6"),
    ),
    # --- since 2018 ---
    family(
        "ConvNeXt",
        "convnext",
        CONVNEXT,
        COLOUR_224,
        convnext_tiny=imagenet(82.52, 96.146, TORCHVISION),
        convnext_small=imagenet(83.616, 96.65, TORCHVISION),
        convnext_base=imagenet(84.062, 96.87, TORCHVISION),
    ),
    family(
        "ViT",
        "vit",
        DEIT3,
        COLOUR_224,
        vit_small=imagenet(81.4, None, "the authors' weights, ImageNet-1k alone"),
        vit_base=imagenet(83.8, None, "the authors' weights, ImageNet-1k alone"),
    ),
    family(
        "EfficientNet",
        "efficientnet",
        EFFICIENTNET,
        COLOUR_224,
        efficientnet_b0=imagenet(77.692, 93.532, TORCHVISION),
    ),
    family(
        "MobileNetV3",
        "mobilenet_v3",
        MOBILENET_V3,
        COLOUR_224,
        mobilenet_v3_large=imagenet(74.042, 91.34, TORCHVISION),
        mobilenet_v3_small=imagenet(67.668, 87.402, TORCHVISION),
    ),
    family(
        "RegNet",
        "regnet",
        REGNET,
        COLOUR_224,
        regnet_y_400mf=imagenet(74.046, 91.716, TORCHVISION),
        regnet_y_800mf=imagenet(76.42, 93.136, TORCHVISION),
        regnet_y_1_6gf=imagenet(77.95, 93.966, TORCHVISION),
        regnet_y_3_2gf=imagenet(78.948, 94.576, TORCHVISION),
        regnet_y_8gf=imagenet(80.032, 95.048, TORCHVISION),
    ),
    family(
        "Airbench",
        "airbench",
        AIRBENCH,
        COLOUR_32,
        airbench94_cifar=cifar10(94.01, "the author's airbench94.py: mean of 1,000 runs, six views of each image"),
    ),
    # --- of sounds ---
    family(
        "Keyword",
        "keyword",
        KEYWORD,
        SECOND_40,
        keyword_res8=None,
        keyword_res8_narrow=None,
        keyword_res15=None,
        keyword_res15_narrow=None,
    ),
    family(
        "Deep Speech 2", "deep_speech2", DEEP_SPEECH_2, SECONDS_5_161, deep_speech2=None, deep_speech2_streaming=None
    ),
    # --- not classifiers ---
    family("Autoencoder", "autoencoder", AUTOENCODER, GREY_28, autoencoder=None),
)

# Of our own runs, by the config that is named.
MEASURED = {
    "mlp": Accuracy(0.981, None, "MNIST", "configs/mnist/mlp.yaml"),
    "lenet5": Accuracy(0.9916, None, "MNIST", "configs/mnist/lenet5.yaml"),
    "resnet20_cifar": Accuracy(0.9306, None, "Fashion-MNIST", "configs/fashion_mnist/resnet20.yaml"),
    "airbench94_cifar": Accuracy(0.8226, None, "CIFAR-10, 10,000 images of it", "configs/cifar10/airbench94.yaml"),
    "gtsrb_multiscale": Accuracy(0.644, None, "GTSRB, 1,533 images of it", "configs/gtsrb/multiscale.yaml"),
    "gtsrb_mcdnn": Accuracy(0.821, None, "GTSRB, 1,533 images of it", "configs/gtsrb/mcdnn_imadjust.yaml"),
    "gtsrb_committee": Accuracy(0.79, None, "GTSRB, 1,533 images of it", "configs/gtsrb/mcdnn.yaml: 5 columns"),
    "resnet18": Accuracy(0.816, None, "Tiny ImageNet, 10 classes of it", "configs/transfer/tiny_imagenet.yaml"),
}

ENTRIES: dict[str, ZooEntry] = {
    name: replace(entry, measured=MEASURED.get(name))
    for name, entry in chain.from_iterable(each.items() for each in FAMILIES)
}

COUNTS_FILE = Path(__file__).with_name("counts.json")


@cache
def counts() -> dict[str, tuple[int, int]]:
    """(parameters, multiply-accumulates at the input size) of each network with its default arguments."""
    found = json.loads(COUNTS_FILE.read_text())
    return {name: (parameters, macs) for name, (parameters, macs) in found.items()}
