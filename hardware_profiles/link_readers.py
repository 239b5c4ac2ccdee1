"""Readers of link matrices: CSV, mpiGraph, nccl-tests logs and YAML, told apart by what they hold.

Formats, each read in its source:

- mpiGraph 1.5 (github.com/LLNL/mpiGraph, ``mpiGraph.c``): a table headed ``Send`` with ``host:rank`` columns and rows
  ``host:rank to``, values with three decimals, tab-separated. Its "MB/s" are ``bytes * 1e6 / 2**20`` per microsecond,
  that is MiB/s. Every figure is what one task (one per node) reached while all tasks sent at the same distance.
- nccl-tests (github.com/NVIDIA/nccl-tests, ``common.cu``, ``sendrecv.cu``): ``#  Rank  0 Group  0 Pid 1 on HOST device
  0 ...`` lines, a header that names the columns, rows by size. ``sendrecv_perf`` sends from each rank to the next
  and ``busbw`` (GB/s, decimal) is what one rank sends, in both directions at once: the bandwidth of one GPU.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .errors import InvalidProblemError
from .link_matrix import LinkMatrix
from .link_yaml import links_from_yaml
from .names import is_yaml_path

#: Names of bandwidth columns and corner cells -> bytes/s of one unit.
UNITS: Mapping[str, float] = {
    "bytes_per_s": 1.0,
    "gbytes_per_s": 1e9,
    "gbit_per_s": 1e9 / 8,
    "gbps": 1e9 / 8,
    "gib_per_s": float(2**30),
    "bandwidth_gib_s": float(2**30),
    "mbytes_per_s": 1e6,
    "mib_per_s": float(2**20),
    "busbw": 1e9,
}
_ENDS = (("from", "to"), ("node_a", "node_b"), ("region_a", "region_b"))
_MPIGRAPH = re.compile(r"^START mpiGraph", re.M)
_MPIGRAPH_UNIT = float(2**20)
_TAG = re.compile(r"^\[\d+,\d+\]<std(?:out|err)>:\s?")  # mpirun --tag-output
_DEVICE = re.compile(r"^#\s+Rank\s+(\d+)\s.*?\son\s+(\S+)\s+device\s")
_LARGEST_FILE = 64 * 2**20


def read_links(path: str | Path) -> LinkMatrix:
    """Return the links in a file or in a folder of nccl-tests logs.

    Args:
        path: a ``.yaml`` (own file or a cluster file with a ``links`` section), a CSV (matrix or list of pairs), the
            output of mpiGraph, the log of pairwise ``sendrecv_perf`` runs, or a folder of such logs.

    Raises:
        InvalidProblemError: the file is missing, of no known format, or contradicts itself; the sentence names the
            place.
    """
    place = Path(path)
    if place.is_dir():
        return _folder(place)
    if is_yaml_path(str(place)):
        return links_from_yaml(place)
    text = _text(place)
    if _MPIGRAPH.search(text):
        return _mpigraph(text, place.name)
    if _is_nccl(text):
        return _from_pairs(_nccl_pairs(text, place.name), place.name)
    if place.suffix.lower() in (".csv", ".tsv") or "," in text.partition("\n")[0]:
        return _csv(text, place.name)
    raise InvalidProblemError(
        f"{place}: is neither a link matrix as CSV, nor YAML, nor output of mpiGraph or of nccl-tests sendrecv_perf."
    )


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InvalidProblemError(f"{path}: is larger than 64 MiB; give a link matrix or the logs of a benchmark.")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InvalidProblemError(f"{path}: no such file; check the path.") from None
    except UnicodeDecodeError:
        raise InvalidProblemError(f"{path}: is not a text file.") from None
    except OSError as error:
        raise InvalidProblemError(f"{path}: cannot be read ({error.strerror}).") from None


# -- CSV ---------------------------------------------------------------------------------------------------------


def _csv(text: str, place: str) -> LinkMatrix:
    """A matrix (unit in the corner, optional second column ``rack``) or a list of pairs with named columns."""
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=delimiter)]
    rows = [row for row in rows if any(row) and not row[0].startswith("#")]
    if len(rows) < 2:
        raise InvalidProblemError(f"{place}: holds no links; give a matrix or a list of pairs.")
    header = [cell.lower() for cell in rows[0]]
    ends = next(((a, b) for a, b in _ENDS if a in header and b in header), None)
    if ends:
        return _pair_list(rows, header, ends, place)
    return _matrix(rows, header, place)


def _pair_list(rows: list[list[str]], header: list[str], ends: tuple[str, str], place: str) -> LinkMatrix:
    units = [name for name in header if name in UNITS]
    if len(units) != 1:
        raise InvalidProblemError(
            f"{place}: a list of pairs needs exactly one bandwidth column named {', '.join(UNITS)}; found "
            f"{', '.join(units) or 'none'}."
        )
    a, b, column = header.index(ends[0]), header.index(ends[1]), header.index(units[0])
    pairs: dict[tuple[str, str], float] = {}
    for n, row in enumerate(rows[1:], start=2):
        if len(row) <= max(a, b, column):
            raise InvalidProblemError(f"{place}: row {n} has {len(row)} cells, expected {len(header)}.")
        if (row[a], row[b]) in pairs:
            raise InvalidProblemError(f"{place}: row {n} gives the link from {row[a]} to {row[b]} a second time.")
        pairs[row[a], row[b]] = _number(row[column], f"{place}: row {n}") * UNITS[units[0]]
    return _from_pairs(pairs, place)


def _matrix(rows: list[list[str]], header: list[str], place: str) -> LinkMatrix:
    if header[0] not in UNITS:
        raise InvalidProblemError(
            f"{place}: the first cell is {rows[0][0]!r}; in a matrix it names the unit, one of {', '.join(UNITS)}."
        )
    skip = 2 if len(header) > 1 and header[1] == "rack" else 1
    names = rows[0][skip:]
    while names and not names[-1]:
        names.pop()
    if [row[0] for row in rows[1:]] != names:
        raise InvalidProblemError(
            f"{place}: rows and columns must name the same nodes in the same order; found {len(rows) - 1} rows and "
            f"{len(names)} columns."
        )
    matrix = np.full((len(names), len(names)), np.inf)
    for i, row in enumerate(rows[1:]):
        if len(row) < skip + len(names):
            raise InvalidProblemError(f"{place}: the row of {names[i]} has {len(row)} cells, expected {len(rows[0])}.")
        for j, cell in enumerate(row[skip : skip + len(names)]):
            if i != j:
                where = f"{place}: the link from {names[i]} to {names[j]}"
                matrix[i, j] = _number(cell, where) * UNITS[header[0]]
    racks = tuple(row[1] for row in rows[1:]) if skip == 2 else ()
    return LinkMatrix(nodes=tuple(names), bytes_per_s=matrix, racks=racks, measured=True, source=place)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InvalidProblemError(f"{where} holds {text!r}, expected a number.") from None
    if not (np.isfinite(value) and value > 0):
        raise InvalidProblemError(f"{where} holds {text}, expected a positive number.")
    return value


# -- mpiGraph ----------------------------------------------------------------------------------------------------


def _mpigraph(text: str, place: str) -> LinkMatrix:
    """The ``Send`` table; ``Recv`` repeats it from the other end."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("Send\t") and ":" in line), None)
    if start is None:
        raise InvalidProblemError(f"{place}: the output of mpiGraph has no Send table; did the run end?")
    tasks = [cell for cell in lines[start].split("\t")[1:] if cell.strip()]
    hosts = [cell.rpartition(":")[0] for cell in tasks]
    if len(set(hosts)) < len(hosts):
        twice = next(h for h in hosts if hosts.count(h) > 1)
        raise InvalidProblemError(
            f"{place}: {twice} ran more than one task; run mpiGraph with one task a node (srun -N n -n n)."
        )
    rows = lines[start + 1 : start + 1 + len(tasks)]
    if len(rows) < len(tasks) or not all(r.split("\t")[0] == f"{t} to" for r, t in zip(rows, tasks, strict=True)):
        raise InvalidProblemError(f"{place}: the Send table of mpiGraph is cut short; run it again to the end.")
    matrix = np.full((len(hosts), len(hosts)), np.inf)
    for i, row in enumerate(rows):
        cells = [c for c in row.split("\t")[1:] if c.strip()]
        if len(cells) != len(hosts):
            raise InvalidProblemError(f"{place}: the row of {hosts[i]} has {len(cells)} figures, not {len(hosts)}.")
        for j, cell in enumerate(cells):
            if i != j:
                matrix[i, j] = _number(cell, f"{place}: the link from {hosts[i]} to {hosts[j]}") * _MPIGRAPH_UNIT
    return LinkMatrix(nodes=tuple(hosts), bytes_per_s=matrix, measured=True, source=f"{place} (mpiGraph)")


# -- nccl-tests --------------------------------------------------------------------------------------------------


def _is_nccl(text: str) -> bool:
    return any(_DEVICE.match(_TAG.sub("", line)) for line in text.splitlines())


def _folder(folder: Path) -> LinkMatrix:
    pairs: dict[tuple[str, str], float] = {}
    read = 0
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        text = _text(path)
        if not _is_nccl(text):
            continue
        read += 1
        for pair, value in _nccl_pairs(text, f"{folder.name}/{path.name}").items():
            if pair in pairs or pair[::-1] in pairs:
                raise InvalidProblemError(f"{folder / path.name}: {pair[0]} and {pair[1]} were measured already.")
            pairs[pair] = value
    if not read:
        raise InvalidProblemError(f"{folder}: holds no log of nccl-tests; give one log per pair of nodes.")
    return _from_pairs(pairs, f"{folder.name}/ (nccl-tests)")


def _nccl_pairs(text: str, place: str) -> dict[tuple[str, str], float]:
    """Bandwidth by pair of hosts from the runs in one log, each at its largest message."""
    pairs: dict[tuple[str, str], float] = {}
    hosts: list[str] = []
    columns: list[str] = []
    best: tuple[float, float] | None = None

    def close() -> None:
        nonlocal best
        if not hosts:
            return
        names = list(dict.fromkeys(hosts))
        if len(names) != 2:
            raise InvalidProblemError(
                f"{place}: a run names {len(names)} hosts ({', '.join(names[:3])}); pairwise runs name two."
            )
        if best is None:
            raise InvalidProblemError(f"{place}: the run of {names[0]} and {names[1]} has no row of results.")
        pair = (names[0], names[1])
        if pair in pairs or pair[::-1] in pairs:
            raise InvalidProblemError(f"{place}: {pair[0]} and {pair[1]} were measured twice; keep one run.")
        pairs[pair] = best[1]
        best = None
        hosts.clear()

    for raw in text.splitlines():
        line = _TAG.sub("", raw).rstrip()
        device = _DEVICE.match(line)
        if device:
            if device.group(1) == "0":
                close()
            hosts.append(device.group(2))
        elif line.startswith("#") and "busbw" in line and "size" in line:
            columns = line.lstrip("#").split()
        elif columns and hosts and line[:1].isspace() and line.split()[0].isdigit():
            size, rate = _result(line.split(), columns, place)
            if best is None or size >= best[0]:
                best = (size, rate)
    close()
    return pairs


def _result(cells: Sequence[str], columns: Sequence[str], place: str) -> tuple[float, float]:
    """Size and out-of-place ``busbw`` in bytes/s of one row."""
    at = columns.index("busbw")
    if len(cells) <= at:
        raise InvalidProblemError(f"{place}: the row of size {cells[0]} has no busbw; is the log cut short?")
    return float(cells[0]), _number(cells[at], f"{place}: busbw at size {cells[0]}") * UNITS["busbw"]


def _from_pairs(pairs: Mapping[tuple[str, str], float], place: str) -> LinkMatrix:
    """A matrix from pairs; a pair given one way counts both ways.

    Raises:
        InvalidProblemError: a pair is missing.
    """
    nodes = tuple(dict.fromkeys(name for pair in pairs for name in pair))
    at = {n: i for i, n in enumerate(nodes)}
    matrix = np.full((len(nodes), len(nodes)), np.nan)
    for (a, b), value in pairs.items():
        if a == b:
            raise InvalidProblemError(f"{place}: {a} is paired with itself; links join two nodes.")
        matrix[at[a], at[b]] = value
    matrix = np.where(np.isnan(matrix), matrix.T, matrix)
    np.fill_diagonal(matrix, np.inf)
    missing = np.argwhere(np.isnan(np.triu(matrix, 1)))
    if len(missing):
        i, j = missing[0]
        raise InvalidProblemError(
            f"{place}: {len(missing)} of {len(nodes) * (len(nodes) - 1) // 2} pairs are missing, the first is "
            f"{nodes[i]} and {nodes[j]}; measure every pair or leave a node out."
        )
    return LinkMatrix(nodes=nodes, bytes_per_s=matrix, measured=True, source=place)
