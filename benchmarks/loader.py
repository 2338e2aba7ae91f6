"""CPU time per image of training pipelines for JPEG shards, in turn on the same photographs, beside a decoder's limit.

    python benchmarks/loader.py FOLDER_OF_JPEGS [--rounds 5] [--workers 2] [--only distdl,folder] [--out FILE.json]

    limit       libjpeg-turbo's full decode of each image, in C: what decoding all of it costs
    folder      a folder of files, PIL, RandomResizedCrop(224), flip, float32 and normalise, torch's DataLoader
    wds_pil     webdataset, the same by PIL
    wds_cv2     webdataset, simplejpeg, OpenCV, uint8
    streaming   mosaicml-streaming, the same by simplejpeg and OpenCV; where `make bench-peers` has installed it
    wheels      distdl without its native decoder: simplejpeg, OpenCV
    native      distdl with it
    processes   the same by worker processes instead of threads

Each makes batches of 64 images of 224 x 224 by `--workers` threads (distdl) or processes (the others), and a round is
`--batches` of them after a few to warm up. What counts is CPU time, of all processes and threads: it repeats to a few
per cent where wall-clock time on a shared machine doesn't. Rounds alternate; each turn stands between two
measurements of the limit; ratios are medians over the rounds, with the smallest and the largest.

Two corpora are made of the photographs: `small`, 500 x 375, and `large`, 1200 x 800, each a montage of six, JPEG
quality 90, 4:2:0; they lie in shards and in a folder per class.
"""

import argparse
import importlib.machinery
import io
import json
import math
import os
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from distdl.bench.ratio import ratio

BATCH = 64
SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WARM_UP = 12  # batches: as many as bring every slot of memory into use
CONTENDERS = ("folder", "wds_pil", "wds_cv2", "streaming", "wheels", "native", "processes")
PEERS = Path(__file__).parents[1] / ".venv-peers"
SIZES = {"small": (500, 375), "large": (1200, 800)}  # width, height

LIMIT_C = r"""
#include <stdio.h>
#include <stdlib.h>
#include <stdint.h>
#include <jpeglib.h>
void decode(const uint8_t *data, size_t size, uint8_t *out) {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&jpeg);
    jpeg_mem_src(&jpeg, data, size);
    jpeg_read_header(&jpeg, TRUE);
    jpeg.out_color_space = JCS_RGB;
    jpeg_start_decompress(&jpeg);
    while (jpeg.output_scanline < jpeg.output_height) {
        JSAMPROW rows[16];
        for (int i = 0; i < 16; i++) rows[i] = out + (jpeg.output_scanline + i) * (size_t)jpeg.output_width * 3;
        JDIMENSION left = jpeg.output_height - jpeg.output_scanline;
        jpeg_read_scanlines(&jpeg, rows, left < 16 ? left : 16);
    }
    jpeg_finish_decompress(&jpeg);
    jpeg_destroy_decompress(&jpeg);
}
"""


# --- the corpora ---


def make_corpora(photographs: Path, folder: Path) -> None:
    import webdataset
    from PIL import Image

    files = sorted(path for path in photographs.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    crops = {"small": (500, 375), "large": (400, 400)}
    draws = random.Random(0)
    for name, (width, height) in crops.items():
        parts = []
        for path in files:
            image = Image.open(path).convert("RGB")
            if image.width < width or image.height < height:
                continue
            for _ in range(3):
                left, top = draws.randint(0, image.width - width), draws.randint(0, image.height - height)
                parts.append(image.crop((left, top, left + width, top + height)))
        draws.shuffle(parts)
        if name == "large":
            parts = [montage(parts[i : i + 6]) for i in range(0, len(parts) - 5, 3)]
        (folder / name / "shards").mkdir(parents=True)
        with webdataset.ShardWriter(f"{folder}/{name}/shards/%06d.tar", maxcount=64, verbose=0) as shards:
            for number, image in enumerate(parts):
                stream = io.BytesIO()
                image.save(stream, "JPEG", quality=90, subsampling="4:2:0")
                file = folder / name / "files" / str(number % 10) / f"{number:06d}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(stream.getvalue())
                shards.write({"__key__": f"{number:06d}", "jpg": stream.getvalue(), "cls": str(number % 10)})


def montage(parts: list[Any]) -> Any:
    from PIL import Image

    width, height = parts[0].size
    whole = Image.new("RGB", (3 * width, 2 * height))
    for number, part in enumerate(parts):
        whole.paste(part, (number % 3 * width, number // 3 * height))
    return whole


# --- the contenders: endless batches ---


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, width, height), as torchvision's RandomResizedCrop draws it."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        shape = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    return 0, 0, width, height


def by_pil(image: Any) -> Any:
    """The crop at 224 x 224, and flip."""
    from PIL import Image

    image = image.convert("RGB")
    width, height = image.size
    left, top, w, h = random_box(width, height)
    image = image.crop((left, top, left + w, top + h)).resize((SIDE, SIDE), Image.BILINEAR)
    return image.transpose(Image.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image


def normalised(image: Any) -> Any:
    import numpy as np
    import torch

    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)
    return tensor.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))


class Files:
    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Any:
        from PIL import Image

        path = self.files[number]
        return normalised(by_pil(Image.open(path))), int(path.parent.name)


def folder_batches(corpus: Path, workers: int) -> Iterator[Any]:
    from torch.utils.data import DataLoader

    loader = DataLoader(
        Files(corpus / "files"),
        BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    while True:
        yield from loader


def decode_pil(sample: dict[str, Any]) -> Any:
    from PIL import Image

    return normalised(by_pil(Image.open(io.BytesIO(sample["jpg"])))), int(sample["cls"])


def decode_cv2(sample: dict[str, Any]) -> Any:
    import cv2
    import simplejpeg
    import torch

    image = simplejpeg.decode_jpeg(sample["jpg"])
    height, width = image.shape[:2]
    left, top, w, h = random_box(width, height)
    image = cv2.resize(image[top : top + h, left : left + w], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    if random.random() < 0.5:
        image = cv2.flip(image, 1)
    return torch.from_numpy(image), int(sample["cls"])


def wds_batches(corpus: Path, workers: int, decode: Callable[[Any], Any]) -> Iterator[Any]:
    import webdataset

    shards = [str(path) for path in sorted((corpus / "shards").glob("*.tar"))]
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards), resampled=True).shuffle(200).map(decode)
    loader = webdataset.WebLoader(dataset.batched(BATCH), batch_size=None, num_workers=workers)
    yield from loader


def streaming_batches(corpus: Path, workers: int) -> Iterator[Any]:
    """From its own format, which is written first."""
    import cv2  # noqa: F401  # before what imports parts of it
    from torch.utils.data import DataLoader

    for name in UNUSED_BY_STREAMING:
        sys.modules[name] = Unused(name)
    from streaming import MDSWriter, StreamingDataset

    class Photographs(StreamingDataset):
        def __getitem__(self, number: int) -> Any:
            return decode_cv2(super().__getitem__(number))

    packed = corpus / "mds"
    if not packed.exists():
        with MDSWriter(out=str(packed), columns={"jpg": "bytes", "cls": "int"}) as writer:
            for path in sorted((corpus / "files").rglob("*.jpg")):
                writer.write({"jpg": path.read_bytes(), "cls": int(path.parent.name)})
    dataset = Photographs(local=str(packed), shuffle=True, batch_size=BATCH)
    loader = DataLoader(dataset, BATCH, num_workers=workers, drop_last=True, persistent_workers=True)
    while True:
        yield from loader


# Large packages that it imports for datasets other than these.
UNUSED_BY_STREAMING = (
    *("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"),
    *("transformers", "transformers.feature_extraction_utils", "transformers.tokenization_utils_base"),
    *("transformers.models", "transformers.models.auto", "transformers.models.auto.tokenization_auto"),
)


class Unused(types.ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def distdl_batches(corpus: Path, workers: int, worker_type: str) -> Iterator[Any]:
    from distdl.config.sources import SplitConfig
    from distdl.data import labels
    from distdl.data.corpus.dataset import Dataset
    from distdl.data.engine import Loader
    from distdl.data.order import Plan
    from distdl.data.processes import Processes
    from distdl.data.workers import Threads

    transforms = [{"random_resized_crop": SIDE}, {"flip": 0.5}, {"normalise": {"mean": MEAN, "std": STD}}]
    split = SplitConfig.model_validate({"shards": str(corpus / "shards"), "transforms": transforms})
    dataset = Dataset.open(corpus / "shards")
    plan = Plan(dataset.sizes, seed=0, global_batch=BATCH)
    loader = Loader(
        dataset,
        split,
        workers=Processes(workers) if worker_type == "process" else Threads(workers),
        prefetch=4,
        open_again=partial(Dataset.open, corpus / "shards"),
        where="data.train",
        label=labels.class_number(None),
        augmentation_seed=plan.augmentation_seed,
        bad_sample="raise",
    )
    yield from loader.stream(plan.steps(0, 1 << 40, end=1 << 40))


def batches(name: str, corpus: Path, workers: int) -> Iterator[Any]:
    if name == "folder":
        return folder_batches(corpus, workers)
    if name in ("wds_pil", "wds_cv2"):
        return wds_batches(corpus, workers, decode_pil if name == "wds_pil" else decode_cv2)
    if name == "streaming":
        return streaming_batches(corpus, workers)
    return distdl_batches(corpus, workers, "process" if name == "processes" else "thread")


# --- measuring ---


def cpu_s(pid: int) -> float:
    """User and system time of a process and of all that it has started and that still run."""
    parent: dict[int, int] = {}
    used: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        number = int(path.parent.name)
        parent[number] = int(fields[1])
        used[number] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    total = 0.0
    for number in used:
        ancestor = number
        while ancestor not in (0, pid):
            ancestor = parent.get(ancestor, 0)
        total += used[number] if ancestor == pid else 0
    return total


def contend(name: str, corpus: Path, workers: int, n_batches: int) -> None:
    """In a process of its own: a round for each line on stdin, answered by its CPU and wall-clock ms per image."""
    import torch

    from distdl.trainer import setup

    torch.set_num_threads(1)
    setup.keep_freed_memory()  # as in distdl's training; for all alike
    stream = batches(name, corpus, workers)
    for _ in range(WARM_UP):
        next(stream)
    print("ready", flush=True)
    for _ in sys.stdin:
        cpu, wall = cpu_s(os.getpid()), time.perf_counter()
        for _ in range(n_batches):
            next(stream)
        n_images = n_batches * BATCH
        cpu, wall = cpu_s(os.getpid()) - cpu, time.perf_counter() - wall
        print(json.dumps([cpu / n_images * 1e3, wall / n_images * 1e3]), flush=True)
    os._exit(0)


def limit(corpus: Path, folder: Path, workers: int) -> Callable[[], float]:
    """CPU ms per image of full decodes in C, on as many cores at a time as the others have."""
    import ctypes

    import numpy as np

    library = folder / "limit.so"
    if not library.exists():
        command = ["cc", "-O3", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ljpeg"]
        subprocess.run(command, input=LIMIT_C.encode(), check=True)
    decode = ctypes.CDLL(str(library)).decode
    decode.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p]
    images = [path.read_bytes() for path in sorted((corpus / "files").rglob("*.jpg"))]

    def decode_all(_: int) -> None:
        out = np.empty(1200 * 800 * 3, np.uint8)
        for image in images:
            decode(image, len(image), out.ctypes.data)

    def measure() -> float:
        began = time.process_time()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(decode_all, range(workers)))
        return (time.process_time() - began) / len(images) / workers * 1e3

    return measure


def turn(name: str, corpus: Path, options: argparse.Namespace) -> tuple[float, float]:
    """CPU and wall-clock ms per image of a contender, started for it."""
    python, paths = sys.executable, []
    if name == "streaming":
        python, paths = str(PEERS / "bin" / "python"), [sysconfig.get_path("purelib"), str(PEERS.parent)]
    command = [python, __file__, str(corpus), "--contend", name]
    command += ["--workers", str(options.workers), "--batches", str(options.batches)]
    environment = os.environ | {"DISTDL_NATIVE": str(int(name != "wheels")), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin and process.stdout
        while (line := process.stdout.readline()) != "ready\n":
            assert line, f"{name} did not begin"
        print("go", file=process.stdin, flush=True)
        cpu, wall = json.loads(process.stdout.readline())
        process.stdin.close()
    return cpu, wall


def compare(corpus: Path, folder: Path, options: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    measure_limit = limit(corpus, folder, options.workers)
    limit_ms: dict[str, list[float]] = {name: [] for name in names}  # before and after a contender's turn
    cpu_ms: dict[str, list[float]] = {name: [] for name in names}
    wall_ms: dict[str, list[float]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names[:: 1 if number % 2 else -1]:
            before = measure_limit()
            cpu, wall = turn(name, corpus, options)
            limit_ms[name].append((before + measure_limit()) / 2)
            cpu_ms[name].append(cpu)
            wall_ms[name].append(wall)
    every_limit = [each for values in limit_ms.values() for each in values]
    result: dict[str, Any] = {"limit": {"cpu_ms": round(statistics.median(every_limit), 4)}}
    for name, values in cpu_ms.items():
        result[name] = {
            "cpu_ms": round(statistics.median(values), 4),
            "wall_ms": round(statistics.median(wall_ms[name]), 4),
            "speed_over_limit": [round(each, 3) for each in ratio(limit_ms[name], values)],
        }
        for peer in ("folder", "wds_pil"):
            if peer in cpu_ms:
                result[name][f"speed_over_{peer}"] = [round(each, 3) for each in ratio(cpu_ms[peer], values)]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=48, help="of 64 images, in a round")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default=",".join(CONTENDERS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contend:
        contend(options.contend, options.photographs, options.workers, options.batches)
        return
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_corpora(options.photographs, folder)
        for corpus, size in SIZES.items():
            files = list((folder / corpus / "files").rglob("*.jpg"))
            kb = sum(path.stat().st_size for path in files) / len(files) / 1e3
            print(f"{corpus}: {len(files)} images of {size[0]} x {size[1]}, {kb:.0f} kB each")
            names = [name for name in options.only.split(",") if name != "streaming" or PEERS.exists()]
            results[corpus] = compare(folder / corpus, folder, options, names)
            for contender, row in results[corpus].items():
                print(f"  {contender:9} {json.dumps(row)}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(vars(options) | {"results": results}, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
