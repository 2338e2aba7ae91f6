"""What becomes of a finished run: it names the classes of files, and its weights go elsewhere and come back."""

import io
import json
import tarfile

import pytest
from PIL import Image

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def digits(place):
    """Some of the test set as files in a folder, each named by its class; and a run that has learnt them."""
    folder = place.path / "images"
    folder.mkdir()
    with tarfile.open(place.path / "digits/test/000000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    keys = sorted(name.partition(".")[0] for name in members if name.endswith(".cls"))[:20]
    for key in keys:
        image = Image.open(io.BytesIO(members[f"{key}.png"]))
        image.save(folder / f"{members[f'{key}.cls'].decode().strip()}-{key.replace('/', '-')}.png")
    trained = place.run("train", place.config(train__steps=150, optim__lr=0.1), "--name", "learnt")
    assert trained.code == 0, trained.output
    return folder


def test_files_are_named_by_the_run_as_it_evaluates(place, digits):
    (digits / "z-broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    good = place.run("predict", "learnt", *sorted(digits.glob("[0-9]*")), "--json", "--top", "3")
    with_broken = place.run("predict", "learnt", digits)

    found = json.loads(good.output)
    right = [each["guesses"][0]["label"] == each["file"].rpartition("/")[2][0] for each in found]
    Image.open(next(digits.glob("3-*"))).convert("RGB").resize((40, 35)).save(digits / "colour.png")
    alone = place.run("predict", "learnt", digits / "z-broken.png", "--json")
    colour = place.run("predict", "learnt@best", digits / "colour.png", next(digits.glob("3-*")), "--json")

    assert alone.code == 2 and json.loads(alone.output.partition("error: ")[0])[0]["problem"]
    assert [each["guesses"][0]["label"] for each in json.loads(colour.output)] == ["3", "3"], colour.output
    assert good.code == 0 and len(found) == 20 and sum(right) >= 17
    assert all(len(each["guesses"]) == 3 and each["guesses"][0]["probability"] <= 1 for each in found)
    assert with_broken.code == 2 and "error: 1 of 21 files can't be decoded" in with_broken.output
    assert with_broken.output.count(" %  ") == 20 * 5 and "z-broken.png: " in with_broken.output


def test_what_is_no_file_and_what_a_library_lacks_are_mistakes(place, digits):
    nowhere = place.run("predict", "learnt", "nowhere.png")
    unknown = place.run("export", "learnt", "--format", "timm")

    assert nowhere.code == unknown.code == 2
    assert nowhere.last_line == "error: nowhere.png: there is no such file"
    assert "timm has no network with the layers of 'lenet5'" in unknown.output and "safetensors" in unknown.last_line


def test_exported_weights_evaluate_as_the_run_does(place, digits):
    assert place.run("export", "learnt", "--format", "safetensors", "--out", "there").code == 0

    of_run, of_file = (
        json.loads(place.run("eval", *words).output)[0]
        for words in (("learnt",), (place.path / "run.yaml", "--weights", "there/model.safetensors"))
    )

    assert of_file["top1"] == of_run["top1"] > 0.9 and of_file["loss"] == of_run["loss"]
    words = ("--weights", "there/model.safetensors", "model.args.classes=11")
    other_classes = place.run("eval", place.path / "run.yaml", *words)
    assert other_classes.code == 2 and "another number of classes" in other_classes.output


def test_several_runs_are_evaluated_as_one_and_one_run_on_ten_crops(place, digits):
    darker = {"data__train__transforms": [{"resize": 32}, {"normalise": {"mean": [0.9], "std": [0.2]}}]}
    darker["data__eval__transforms"] = darker["data__train__transforms"]
    config = place.config(train__steps=150, optim__lr=0.05, train__seed=1, **darker)
    assert place.run("train", config, "--name", "second").code == 0
    crops = "data.eval.transforms=[{resize: 36}, {center_crop: 32}, {normalise: {mean: [0.3], std: [0.37]}}]"

    one, two, both, ten, mirrored = (
        json.loads(place.run("eval", *words).output)[0]
        for words in (
            ("learnt",),
            ("second",),
            ("learnt", "second@best"),
            ("learnt", "--ten-crop", crops),
            ("learnt", "--mirror"),
        )
    )
    refused = place.run("eval", "learnt", "--ten-crop")

    assert both["runs"][0] == "learnt@150" and both["runs"][1].startswith("second@")
    # By the inequality of Jensen, if each sees the images as it was trained to.
    assert both["loss"] <= (one["loss"] + two["loss"]) / 2 and both["top1"] > 0.9
    assert ten["views"] == 10 and ten["top1"] > 0.8
    assert mirrored["views"] == 2 and mirrored["loss"] != one["loss"]
    assert refused.code == 2 and "[{resize: 256}, {center_crop: 224}]" in refused.last_line
