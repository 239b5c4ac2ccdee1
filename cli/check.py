"""``meshwright check``: predict an existing Megatron-LM launch, and name better neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o


def check(
    script: Annotated[Path, typer.Argument(metavar="RUN.SH", help="A Megatron-LM launch script.")],
    cluster: Annotated[str | None, typer.Option(metavar="NAME", help="A cluster, or a YAML file.")] = None,
    nodes: o.OneNodesOpt = None,
    gpus: o.GpusOpt = None,
    as_json: o.JsonOpt = False,
) -> None:
    """Predict an existing Megatron-LM launch: its speed, whether it fits, and which neighbours are better."""
    raise NotImplementedError
