"""Read a layer profile of any known format; the format follows from what the path is."""

from __future__ import annotations

from pathlib import Path

from ...costmodels.layer_profile import LayerProfile
from ...hardware_profiles.errors import InvalidProblemError
from . import base, galvatron, metis, piper, table


def read_profile(
    path: Path,
    *,
    memory: Path | None = None,
    layers: int | None = None,
    seq: int | None = None,
    seconds_per_unit: float = 1.0,
) -> LayerProfile:
    """A folder is Metis', ``.csv`` and ``.yaml`` ours, ``.json`` Piper's, or Galvatron's where ``memory`` names its
    second file.

    Args:
        memory, layers, seq: Galvatron's memory file, the depth of the model, the sequence length;
        seconds_per_unit: of the times in a Piper file.

    Raises:
        InvalidProblemError, MissingProfileDataError: what is wrong or missing, with file and key.
    """
    if memory is not None:
        if layers is None:
            raise InvalidProblemError(f"{path} does not say how many layers the model has; give --layers.")
        return galvatron.read(path, memory, layers=layers, seq=seq)
    if path.is_dir():
        return metis.read(path)
    if path.suffix == ".csv":
        return table.read_csv(path)
    if path.suffix in (".yaml", ".yml"):
        return table.read_file(path)
    if path.suffix == ".json":
        if any(key.startswith(("layernum", "layertype")) for key in base.load_json(path)):
            raise InvalidProblemError(f"{path} is a profile of Galvatron; name its other file with --memory-profile.")
        return piper.read(path, seconds_per_unit=seconds_per_unit)
    raise InvalidProblemError(f"{path} is neither a folder nor a .csv, .yaml or .json file; docs/layer_profiles.md.")
