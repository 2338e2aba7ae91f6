"""Builds the decoder in C while the package is installed, if it can: without it distdl does the same by other means."""

import os
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("distdl/data/native")
FLAGS = ("-O3", "-fPIC", "-shared")


class NativeDecoder(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        source, library = Path(self.root, FOLDER, "jpeg.c"), Path(self.root, FOLDER, "_jpeg.so")
        unfinished = library.with_suffix(".unfinished")
        command = [os.environ.get("CC", "cc"), *FLAGS, "-o", str(unfinished), str(source), "-ljpeg", "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", b"").decode(errors="replace") or str(error)
            self.app.display_warning(f"without the native JPEG decoder: {reason.strip().splitlines()[0]}")
            return
        unfinished.replace(library)  # a running process keeps the one that it has loaded
        build_data["artifacts"].append(str(FOLDER / library.name))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
