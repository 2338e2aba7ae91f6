"""Published weights: where they are looked for, and `distdl fetch`, which brings them from where they are published."""

import hashlib
from pathlib import Path

import pytest

from distdl.cli import main
from distdl.errors import UserError
from distdl.run import places
from distdl.trainer import published
from distdl.trainer.published import fetch, locate
from tests.web import Web

CONTENT = b"weights " * 300_000  # more than one request


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "DISTDL_DATASETS", "DISTDL_SITE"):
        monkeypatch.setenv(name, "x")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(published, "_PART_BYTES", 1 << 20)
    return tmp_path / "cache"


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "web").mkdir()
    with Web(tmp_path / "web") as web:
        monkeypatch.setattr(published, "TORCHVISION", f"{web.url}/models")
        monkeypatch.setenv("HF_ENDPOINT", web.url)
        yield web


def put(web: Web, path: str, content: bytes = CONTENT) -> str:
    """How its SHA-256 begins."""
    (web.folder / path).parent.mkdir(parents=True, exist_ok=True)
    (web.folder / path).write_bytes(content)
    return hashlib.sha256(content).hexdigest()[:8]


# --- where they are looked for ---


def file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_torchvisions_files_are_found_by_the_networks_name(caches: Path) -> None:
    hub = caches / "torch/hub/checkpoints"
    wanted = file(hub / "vgg16-397923af.pth")
    file(hub / "vgg16_bn-6c64b313.pth")
    inception = file(hub / "inception_v3_google-0cc3c7bd.pth")

    assert locate("torchvision:vgg16") == wanted
    assert locate("torchvision:inception_v3") == inception
    assert locate("torchvision:vgg16-397923af") == wanted


def test_timms_files_are_found_with_and_without_how_they_were_trained(caches: Path) -> None:
    folder = (
        caches / "huggingface/hub/models--timm--resnet50.a1_in1k/snapshots/767268603ca0cb0bfe326fa87277f19c419566ef"
    )
    wanted = file(folder / "model.safetensors")

    for name in ("timm:resnet50", "timm:resnet50.a1_in1k"):
        assert locate(name) == wanted


def test_several_files_of_one_name_are_a_question(caches: Path) -> None:
    first, second = (
        file(caches / "torch/hub/checkpoints" / f"resnet50-{version}.pth") for version in ("0676ba61", "11ad3fa6")
    )

    with pytest.raises(UserError, match="several files are meant by it") as asked:
        locate("torchvision:resnet50")

    assert str(first) in str(asked.value) and str(second) in str(asked.value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("torchvision:resnet50", "`distdl fetch CONFIG`, where there is a network, brings them to data/pretrained/"),
        ("timm:resnet50.a1_in1k", "`distdl fetch CONFIG`"),
        ("https://host/x.safetensors", "`distdl fetch CONFIG`"),
        ("nowhere.safetensors", "torchvision:NAME, timm:NAME or run:NAME"),
        (".", "a run as run:NAME"),
    ],
)
def test_what_is_not_here_is_told_with_the_way_to_get_it(spec: str, says: str) -> None:
    with pytest.raises(UserError) as refused:
        locate(spec)

    assert says in str(refused.value)


# --- bringing them here ---


def test_torchvisions_first_weights_come_by_the_networks_name_and_their_hash_is_right(web, monkeypatch) -> None:
    monkeypatch.setattr(published, "_FIRST_WEIGHTS", [f"vgg16-{put(web, 'models/x')}", "vgg16_bn-6c64b313"])
    put(web, f"models/{published._FIRST_WEIGHTS[0]}.pth")

    path = fetch("torchvision:vgg16")

    assert path == Path("data/pretrained") / f"{published._FIRST_WEIGHTS[0]}.pth"
    assert path.read_bytes() == CONTENT
    assert locate("torchvision:vgg16") == path
    n_requests = len(web.requests)
    assert fetch("torchvision:vgg16") == path and len(web.requests) == n_requests


def test_the_networks_of_the_zoo_that_torchvision_has_are_all_told_apart() -> None:
    for name in published._FIRST_WEIGHTS:
        network = name.rpartition("-")[0].removesuffix("-owt").removesuffix("_google").removesuffix("_rwightman")
        assert published._published(f"torchvision:{network}")[1] == f"{name}.pth"
        assert published._published(f"torchvision:{name}")[1] == f"{name}.pth"


def test_timms_come_from_the_hub(web) -> None:
    put(web, "timm/resnet50.a1_in1k/resolve/main/model.safetensors")
    path = fetch("timm:resnet50.a1_in1k")
    assert path.read_bytes() == CONTENT
    assert locate("timm:resnet50") == locate("timm:resnet50.a1_in1k") == path
    with pytest.raises(UserError, match="several weights of this network") as refused:
        fetch("timm:vgg16")
    assert "timm:vgg16.TAG" in str(refused.value)


def test_an_address_says_what_its_file_has_to_be(web, tmp_path) -> None:
    digest = put(web, "own/x.safetensors")
    places.use(places.PathsConfig(data=str(tmp_path / "sets")))
    spec = f"{web.url}/own/x.safetensors"
    with pytest.raises(UserError, match=f"SHA-256 begins with {digest[:6]} and not abcdef"):
        fetch(f"{spec}#sha256=abcdef")
    assert not list((tmp_path / "sets/pretrained").iterdir())
    assert fetch(f"{spec}#sha256={digest}") == locate(spec) == tmp_path / "sets/pretrained/x.safetensors"


def test_a_transfer_that_breaks_goes_on_and_one_that_fails_leaves_nothing(web) -> None:
    digest = put(web, "models/net-12345678.pth")
    put(web, f"models/net-{digest}.pth")
    web.fail(f"models/net-{digest}.pth", "short", times=2)
    assert fetch(f"torchvision:net-{digest}").read_bytes() == CONTENT
    with pytest.raises(UserError, match="no such file") as refused:
        fetch("torchvision:net-87654321")
    assert "net-87654321.pth" in str(refused.value)
    with pytest.raises(UserError, match="damaged"):
        fetch("torchvision:net-12345678")
    assert [path.name for path in Path("data/pretrained").iterdir()] == [f"net-{digest}.pth"]


def test_the_command_brings_what_a_config_starts_from(web, capsys) -> None:
    digest = put(web, "own/lenet.safetensors")
    config = Path("x.yaml")
    config.write_text(
        "model: {name: lenet5, args: {classes: 10}, pretrained: ORIGIN}\n"
        "data: {train: {shards: x}}\ntrain: {global_batch: 8, steps: 1}\noptim: {lr: 0.1}\n"
    )
    spec = f"{web.url}/own/lenet.safetensors#sha256={digest}"
    assert main(["fetch", str(config), f"model.pretrained={spec}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"fetching {web.url}/own/lenet.safetensors (2.4 MB)",
        "data/pretrained/lenet.safetensors",
    ]
    assert main(["fetch", str(config), "model.pretrained=null"]) == 0
    assert "nothing to fetch" in capsys.readouterr().out
    assert main(["fetch", str(config), "model.pretrained=run:mine"]) == 0
    assert "a run of your own" in capsys.readouterr().out
    assert main(["fetch", str(config), "model.pretrained=https://me:secret@host/x.pth"]) == 2
    assert "secret" not in capsys.readouterr().err
