"""The configs that come with the project: each is whole, and its first line says how it is used and what came of it."""

from pathlib import Path

import pytest
import torch

from distdl import models
from distdl.config import load
from distdl.data.pictures import of_batches, transforms
from distdl.speech import transforms as sounds

HERE = Path(__file__).parents[2]
CONFIGS = sorted(path for path in (HERE / "configs").rglob("*.yaml") if path.name != "common.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(HERE / "configs")))
def test_a_config_is_whole_and_headed_by_its_command_and_what_came_of_it(path: Path) -> None:
    first_line = path.read_text().splitlines()[0]
    config = load(path).config

    with torch.device("meta"):
        network = models.build(config.model.name, config.model.args)
    for where, split in {"data.train": config.data.train, **config.data.eval_sets}.items():
        if config.data.sound:
            sounds.build(split.transforms, where)
            continue
        built, normalise = transforms.build(split.transforms, where)
        of_batches.split(built, where)
        assert len(normalise.mean) in (1, 3)

    assert sum(parameter.numel() for parameter in network.parameters()) > 0
    assert first_line.startswith(f"# distdl train {path.relative_to(HERE)}")
    assert "measured 20" in first_line or "not run by us" in first_line or "not measured yet" in first_line
