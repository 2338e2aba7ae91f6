"""What every network of the zoo has to count: parameters, exactly, and GMACs at its entry's input size, to 0.5 %.

Published, or counted by building somebody else's implementation. In the catalogue's order.
"""


def conformer(d: int, layers: int, classes: int = 128, frames: int = 125) -> tuple[int, float]:
    """By hand, for 80 features: a block's feed-forwards have 16 d^2 weights, its attention 5 d^2 and its convolution
    3 d^2 + 31 d; those for positions are used once for each of 2 T - 1 distances, the others once a frame."""
    subsampling = 9 * d + d + 9 * d * d + d + 20 * d * d + d
    weights = layers * (24 * d * d + 63 * d) + subsampling + classes * (d + 1)
    attention = (2 * frames + 2 * frames - 1) * d
    macs = layers * (frames * (23 * d * d + 31 * d + attention) + (2 * frames - 1) * d * d)
    macs += 2 * frames * 40 * 9 * d + frames * 20 * (9 + 1) * d * d + frames * classes * d
    return weights, macs / 1e9


COUNTS: dict[str, tuple[int, float]] = {
    # --- basics, and before ImageNet ---
    "perceptron": (3, 2e-9),
    "linear_regression": (2, 1e-9),
    "logistic_regression": (3, 2e-9),
    "mlp": (79_510, 0.0000794),
    "lenet5": (61_706, 0.0004165),
    # The paper's connections of C1, C3, C5 and F6 less their biases: 117,600 + 150,000 + 48,000 + 10,080.
    "lenet5_sparse": (60_000, 0.00032568),
    "gtsrb_mcdnn": (1_543_443, 0.126),
    "gtsrb_committee": (25 * 1_543_443, 25 * 0.126),
    # By hand: convolutions 2,808 + 291,708, classifier 799,300 + 4,343; twice 81 MACs a pixel for a contrast norm.
    "gtsrb_multiscale": (1_098_159, 0.03222),
    # --- plain networks: AlexNet, OverFeat, VGG ---
    "alexnet": (61_100_840, 0.714),
    "alexnet_two_tower": (60_965_224, 0.724),
    "overfeat_fast": (145_920_872, 2.801),
    "overfeat_accurate": (144_656_488, 5.369),  # the paper, table 4, which rounds the parameters
    "vgg11": (132_863_336, 7.609),
    "vgg13": (133_047_848, 11.308),
    "vgg16": (138_357_544, 15.47),
    "vgg19": (143_667_240, 19.632),
    "vgg11_bn": (132_868_840, 7.609),
    "vgg13_bn": (133_053_736, 11.308),
    "vgg16_bn": (138_365_992, 15.47),
    "vgg19_bn": (143_678_248, 19.632),
    # 2 C^2 / 16 weights and 17 C / 16 biases behind each convolution of C channels; MACs of Hu et al. 2017, table 2.
    "se_vgg16": (138_365_992 + 226_304 + 4_488, 15.48),
    # --- Inception ---
    # bn_inception is pretrainedmodels', se_bn_inception the authors' prototxt, facenet facenet-pytorch's. Those of
    # inception_resnet_v1 follow from the paper's figures; se_inception_resnet_v2 is inception_resnet_v2 and, for each
    # of 10 residuals of 320, 20 of 1088 and 10 of 2080 channels C, 2 C (C // 16) weights and C // 16 + C biases.
    "googlenet": (6_624_904, 1.498),
    "googlenet_paper": (6_998_552, 1.583),
    "bn_inception": (11_295_240, 2.033),
    "se_bn_inception": (11_931_622, 2.0332),
    "inception_v3": (23_834_568, 5.713),
    "inception_v4": (42_679_816, 12.254),
    "inception_resnet_v1": (22_756_328, 6.206),
    "inception_resnet_v2": (55_843_464, 13.156),
    "se_inception_resnet_v2": (64_387_444, 13.164),
    "facenet": (27_910_327, 1.4221),
    # --- residual networks ---
    # Of ResNets 4.089 and the like are torchvision's, 3.858 and the like the table of Hu et al. 2017,
    # "Squeeze-and-excitation networks".
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "resnet50_v1": (25_557_032, 3.858),
    "resnet101_v1": (44_549_160, 7.570),
    "resnet152_v1": (60_192_808, 11.282),
    "wide_resnet50_2": (68_883_240, 11.398),
    "resnext50_32x4d": (25_028_904, 4.230),
    "resnext101_32x4d": (44_177_704, 7.970),
    "resnext101_32x8d": (88_791_336, 16.414),
    "resnext101_64x4d": (83_455_272, 15.460),
    # Of timm's legacy_seresnet50 and the like; Hu et al. have 3.87, 7.60, 11.32, 4.25 and 8.00.
    "se_resnet50": (28_088_024, 3.861),
    "se_resnet101": (49_326_872, 7.575),
    "se_resnet152": (66_821_848, 11.289),
    "se_resnext50_32x4d": (27_559_896, 4.233),
    "se_resnext101_32x4d": (48_955_416, 7.975),
    # With n blocks a stage: 97,216 n - 21,926 parameters, and 6 * 16 * 16 * 9 * 32 * 32 MACs for each n.
    "resnet20_cifar": (269_722, 0.0406),
    "resnet32_cifar": (464_154, 0.0689),
    "resnet44_cifar": (658_586, 0.0972),
    "resnet56_cifar": (853_018, 0.126),
    "resnet110_cifar": (1_727_962, 0.253),
    "resnet1202_cifar": (19_421_274, 2.829),
    # --- since 2018 ---
    # Built with torchvision 0.29 and timm 1.0 (deit3_*_patch16_224), counted on the meta device.
    "convnext_tiny": (28_589_128, 4.4555),
    "convnext_small": (50_223_688, 8.6837),
    "convnext_base": (88_591_464, 15.3547),
    "vit_small": (22_059_496, 4.5989),
    "vit_base": (86_585_320, 17.5638),
    "efficientnet_b0": (5_288_548, 0.38581),
    "mobilenet_v3_large": (5_483_032, 0.21659),
    "mobilenet_v3_small": (2_542_856, 0.05651),
    "regnet_y_400mf": (4_344_144, 0.40184),
    "regnet_y_800mf": (6_432_512, 0.83386),
    "regnet_y_1_6gf": (11_202_430, 1.61208),
    "regnet_y_3_2gf": (19_436_338, 3.17648),
    "regnet_y_8gf": (39_381_472, 8.47307),
    "airbench94_cifar": (1_972_792, 0.118147),  # the author's list of layers, counted likewise; "1.97 million"
    # --- of sounds ---
    # Tang and Lin 2018, table 4 (110K, 19.9K, 238K, 42.6K): 9 C for the stem, 9 C^2 a layer, 13 (C + 1) for 12 classes.
    "keyword_res8": (9 * 45 + 6 * 9 * 45**2 + 12 * 46, 0.038597),
    "keyword_res8_narrow": (9 * 19 + 6 * 9 * 19**2 + 12 * 20, 0.0072800),
    "keyword_res15": (9 * 45 + 13 * 9 * 45**2 + 12 * 46, 0.9588),
    "keyword_res15_narrow": (9 * 19 + 13 * 9 * 19**2 + 12 * 20, 0.17133),
    # 11 frames of 40, 7 layers of 2048; 15 frames as channels of 84 filters over 8 bands, pools of 6, 2 layers of 1000.
    "acoustic_dnn": (
        2048 * (440 + 1) + 6 * 2048 * 2049 + 2000 * 2049,
        101 * (2048 * 440 + 6 * 2048**2 + 2000 * 2048) / 1e9,
    ),
    "acoustic_cnn": (
        84 * (15 * 8 + 1) + 1000 * (84 * 5 + 1) + 1000 * 1001 + 2000 * 1001,
        101 * (33 * 84 * 120 + 1000 * 420 + 3 * 1000**2) / 1e9,
    ),
    # h (i + h) + h; 4 (h (i + h) + h), of torch's 8 h biases.
    "elman": (512 * (40 + 512) + 512 + 29 * 513, 101 * (512 * 552 + 29 * 512) / 1e9),
    "lstm": (4 * (512 * 552 + 512) + 4 * (512 * 1024 + 512) + 29 * 513, 101 * (4 * 512 * 1576 + 29 * 512) / 1e9),
    "lstm_fused": (
        4 * (512 * 552 + 1024) + 4 * (512 * 1024 + 1024) + 29 * 513,
        101 * (4 * 512 * 1576 + 29 * 512) / 1e9,
    ),
    # 19 frames of 80; 4 layers of 2048 with one bias, 2 directions of 2048 with two.
    "deep_speech": (
        2048 * (19 * 80 + 1) + 3 * 2048 * 2049 + 2 * 2048 * (2 * 2048 + 2) + 29 * 2049,
        500 * (2048 * 1520 + 7 * 2048**2 + 29 * 2048) / 1e9,
    ),
    # Kernels of 11x41, 11x21, 11x21 to 32, 32, 96 channels; 2 x (inputs + 1762) x 1760 in each of 7 layers, of which
    # the first has 96 x 21 inputs; batch norms of 160 and 7 x 1760 channels; 29 classes.
    "deep_speech2": (
        11 * 41 * 32
        + 11 * 21 * 32 * 32
        + 11 * 21 * 32 * 96
        + 2 * 160
        + 2 * 1760 * (96 * 21 + 1762 + 6 * (1760 + 1762))
        + 7 * 2 * 1760
        + 29 * 1761,
        28.3636,
    ),
    # 2 convolutions, 5 GRUs of 1280 in one direction, a row convolution of 20 frames.
    "deep_speech2_streaming": (
        11 * 41 * 32
        + 11 * 21 * 32 * 32
        + 2 * 64
        + 3 * 1280 * (32 * 41 + 1282 + 4 * (1280 + 1282))
        + 5 * 2 * 1280
        + 20 * 1280
        + 29 * 1281,
        10.0542,
    ),
    # --- not classifiers ---
    # NeMo's Conformer-CTC with 128 classes for its 1024 or 128 pieces: 13 M and 30 M there.
    "conformer_ctc_small": conformer(176, 16),
    "conformer_ctc_medium": conformer(256, 18),
    "autoencoder": (2_837_314, 0.00283),  # the sum of (inputs + 1) * outputs, and of inputs * outputs
}
