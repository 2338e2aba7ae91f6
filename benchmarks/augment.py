"""What augmentation costs on one CPU core, in microseconds per image, beside Pillow and, where it is installed, kornia.

    python benchmarks/augment.py [--side 224] [--rows 64] [--rounds 20]

Transforms of images work on uint8 in the decoding threads; their peer is the same warp by Pillow. Those of batches work
on fp32 batches, here on the CPU; their peers are the same operations of kornia on such a batch, and of Pillow on each
image. In every round each contender has one turn, in an order that changes; the CPU time of a turn is divided by its
images, and the mean over the rounds is told: RandAugment draws what it does anew in each, ours for every image,
kornia's once for the batch.
"""

import argparse
import importlib.util
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance

from distdl.data.order import keyed
from distdl.data.pictures import augment, geometry, transforms
from distdl.data.pictures.of_batches import split
from distdl.data.pictures.transforms import Draws, Normalise
from distdl.trainer import setup

Pixels = np.ndarray  # uint8 (rows, height, width, 3)
Turn = Callable[[int], object]  # of a round's number: all rows once
RGB = Normalise(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
WARPS = ({"rotate": 15}, {"zoom": [0.8, 1.25]}, {"homography": {"distortion": 0.3, "p": 1.0}})
BATCHES = {
    "brightness": {"brightness": [0.6, 1.4]},
    "colour_jitter": {"colour_jitter": JITTER},
    "rand_augment": {"rand_augment": {"n": 2, "magnitude": 9}},
    "random_erasing": {"random_erasing": {"p": 0.25, "fill": "pixel"}},
}


def pictures(rows: int, side: int) -> Pixels:
    """Smooth as photos are, a little."""
    random_ = np.random.default_rng(0)
    coarse = random_.integers(0, 256, (rows, side // 8, side // 8, 3), dtype=np.uint8)
    return np.stack([cv2.resize(each, (side, side), interpolation=cv2.INTER_CUBIC) for each in coarse])


# --- ours ---


def of_images(images: Pixels, *configs: dict) -> Turn:
    built, _ = transforms.build(list(configs), "data.train")
    (warp,) = geometry.fused(built)
    return lambda number: [warp(image, Draws(1000 * number + row)) for row, image in enumerate(images)]


def of_batches(images: Pixels, config: dict) -> Turn:
    _, chain = split(transforms.build([config], "data.train")[0], "data.train")
    image_NCHW = torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous()

    def turn(number: int) -> None:
        keys = torch.from_numpy(keyed(number, np.arange(len(images), dtype=np.uint64)).view(np.int64))
        augment.augmented(image_NCHW, chain, keys, RGB)

    return turn


# --- peers ---


def pillow_warps(images: Pixels, n: int) -> Turn:
    """As many perspective warps, one after another."""
    pillow = [Image.fromarray(each) for each in images]
    coefficients = (1.02, 0.05, -3.0, -0.04, 0.98, 2.0, 1e-4, -1e-4)

    def warp(image: Image.Image) -> Image.Image:
        for _ in range(n):
            image = image.transform(image.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
        return image

    return lambda number: [np.asarray(warp(image)) for image in pillow]


def pillow_jitter(images: Pixels) -> Turn:
    """Brightness, contrast and saturation; without hue, of which Pillow has no operation."""
    pillow = [Image.fromarray(each) for each in images]

    def jitter(image: Image.Image) -> Image.Image:
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhancer(image).enhance(1.2)
        return image

    return lambda number: [np.asarray(jitter(image)) for image in pillow]


def kornia_turns(images: Pixels) -> dict[str, Turn]:
    """{} where kornia is not installed."""
    if importlib.util.find_spec("kornia") is None:
        return {}
    from kornia import augmentation as kornia

    image_NCHW = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).contiguous()
    chains = {
        "brightness": kornia.RandomBrightness((0.6, 1.4), p=1.0),
        "colour_jitter": kornia.ColorJitter(**JITTER, p=1.0),
        "rand_augment": kornia.auto.RandAugment(n=2, m=9),
        "random_erasing": kornia.RandomErasing(p=0.25),
    }
    return {name: lambda number, chain=chain: chain(image_NCHW) for name, chain in chains.items()}


# --- measuring ---


def measure(contenders: dict[str, Turn], rows: int, n_rounds: int) -> dict[str, float]:
    """Microseconds of CPU per image."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    draw = random.Random(0)
    for number in range(n_rounds + 1):
        for name in draw.sample(list(contenders), len(contenders)):
            began = time.process_time()
            contenders[name](number)
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - began)
    return {name: 1e6 * statistics.mean(times) / rows for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "augment.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setup.keep_freed_memory()  # as distdl's workers do; for all contenders alike
    torch.manual_seed(0)
    images = pictures(arguments.rows, arguments.side)
    contenders: dict[str, Turn] = {"rotate": of_images(images, WARPS[0]), "3 warps, fused": of_images(images, *WARPS)}
    contenders |= {"homography": of_images(images, WARPS[2])}
    contenders |= {name: of_batches(images, config) for name, config in BATCHES.items()}
    contenders |= {"1 warp (Pillow)": pillow_warps(images, 1), "3 warps (Pillow)": pillow_warps(images, 3)}
    contenders |= {"brightness, contrast, saturation (Pillow)": pillow_jitter(images)}
    contenders |= {f"{name} (kornia)": turn for name, turn in kornia_turns(images).items()}
    microseconds = measure(contenders, arguments.rows, arguments.rounds)
    print(f"| {arguments.side}x{arguments.side}, one thread | microseconds of CPU per image |\n|---|---|")
    for name, value in microseconds.items():
        print(f"| {name} | {value:,.0f} |")
    settings = {"side": arguments.side, "rows": arguments.rows, "rounds": arguments.rounds}
    versions = {"torch": torch.__version__, "opencv": cv2.__version__, "pillow": Image.__version__}
    if importlib.util.find_spec("kornia") is not None:
        versions["kornia"] = importlib.import_module("kornia").__version__
    arguments.out.write_text(
        json.dumps({**settings, "versions": versions, "microseconds_per_image": microseconds}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
