"""One YAML file describes a run: read, check, merge, write and explain it. Free of torch.

schema (each key's type, bounds, default, meaning) -> tree (YAML with line numbers) -> loader (merge and check)
    -> mistakes (errors in the reader's words) | layout (a config as YAML) -> show, changes (resume)
"""

from distdl.config.changes import compare
from distdl.config.layout import dump
from distdl.config.loader import Loaded, load, of_site
from distdl.config.schema import Config
from distdl.config.show import show

__all__ = ["Config", "Loaded", "compare", "dump", "load", "of_site", "show"]
