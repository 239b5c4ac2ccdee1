"""Files that put ranks on hosts in a chosen order, one for each kind of launcher, and readers that take them back.

- ``hosts.txt``: one host per line in the order of node ranks (``torchrun --node-rank``, ``pdsh``, DeepSpeed's order).
- ``hostfile``: ``HOST slots=N`` (Open MPI ``--hostfile``, DeepSpeed ``--hostfile``).
- ``rankfile``: ``rank R=HOST slot=A-B`` (Open MPI ``--rankfile``): the cores of a rank, counted within its host.
- ``slurm_hostfile``: one line per task; Slurm's ``--distribution=arbitrary`` takes tasks in the order of the file
  that ``SLURM_HOSTFILE`` names (sbatch and srun manuals). One task, that is one torchrun, a node.
- ``node_env.sh``: sourced on every node; sets ``NODE_RANK`` by host name, ``MASTER_ADDR`` and, where a node's GPUs
  are not taken in order, ``CUDA_VISIBLE_DEVICES``; ``PLACED_TORCHRUN_ARGS`` is a static rendezvous, since the c10d one
  hands out node ranks as nodes arrive.
- ``placement.json``: the mesh, its dimension order and every host with its ranks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...costmodels.parallel import ParallelConfig
from ...hardware_profiles.errors import InvalidProblemError
from .base import LaunchBundle
from .shell import comment, quote, script

SCHEMA = "meshwright.placement/v1"
_HOST = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
_RANK = re.compile(r"^rank (\d+)=(\S+) slot=(\d+)(?:-(\d+))?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlacement:
    """Hosts in the order of node ranks.

    Attributes:
        hosts: host i runs ranks ``i * gpus_per_node`` and up; mesh: degree by dimension, slowest first.
        gpu_order: GPUs of a host in the order of its local ranks, where it is not 0, 1, 2, ...
    """

    hosts: tuple[str, ...]
    gpus_per_node: int
    mesh: Mapping[str, int] = field(default_factory=dict)
    gpu_order: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for host in self.hosts:
            if not _HOST.match(host):
                raise InvalidProblemError(f"{host!r} is no host name (letters, digits, dots and hyphens).")


def mesh_of(config: ParallelConfig) -> Mapping[str, int]:
    """Dimensions of the rank grid, slowest first: rank = ((pp * dp + d) * cp + c) * tp + t."""
    return {"pp": config.pp, "dp": config.dp, "cp": config.cp, "tp": config.tp}


def placement_bundle(placement: HostPlacement, *, title: str = "", cores_per_gpu: int = 1) -> LaunchBundle:
    """All files of a placement.

    Args:
        title: one line for the comments; cores_per_gpu: CPU cores that the rankfile binds to each rank.
    """
    if cores_per_gpu < 1:
        raise InvalidProblemError(f"--cores-per-gpu is {cores_per_gpu}; it must be at least 1.")
    p = placement
    files = {
        "hosts.txt": "".join(f"{h}\n" for h in p.hosts),
        "hostfile": "".join(f"{h} slots={p.gpus_per_node}\n" for h in p.hosts),
        "rankfile": _rankfile(p, cores_per_gpu),
        "slurm_hostfile": "".join(f"{h}\n" for h in p.hosts),
        "node_env.sh": _node_env(p, title),
        "job_placed.sbatch": _job(p, title),
        "placement.json": _mesh(p),
    }
    return LaunchBundle(files=files, command="sbatch job_placed.sbatch")


def _rankfile(p: HostPlacement, cores: int) -> str:
    lines = []
    for i, host in enumerate(p.hosts):
        for local in range(p.gpus_per_node):
            first = local * cores
            slot = f"{first}" if cores == 1 else f"{first}-{first + cores - 1}"
            lines.append(f"rank {i * p.gpus_per_node + local}={host} slot={slot}\n")
    return "".join(lines)


def _node_env(p: HostPlacement, title: str) -> str:
    """Bash to be sourced; a host that is not in the list stops with a sentence."""
    short = [host.partition(".")[0] for host in p.hosts]
    clash = len(set(short)) < len(short)  # then only whole names tell hosts apart
    lines = [
        *(comment(title) if title else []),
        *comment("Source this on every node: it sets the node's rank by its host name."),
        f'HOST="${{MESHWRIGHT_HOST:-$(hostname {"-f" if clash else "-s"})}}"',
        'case "$HOST" in',
    ]
    for rank, host in enumerate(p.hosts):
        names = dict.fromkeys((host,) if clash else (host, short[rank]))
        pattern = "|".join(quote(n) for n in names)
        gpus = p.gpu_order.get(host, ())
        seen = f" CUDA_VISIBLE_DEVICES={quote(','.join(map(str, gpus)))}; export CUDA_VISIBLE_DEVICES;" if gpus else ""
        lines.append(f"  {pattern}) NODE_RANK={rank};{seen} ;;")
    nodes = len(p.hosts)
    return script(
        [
            *lines,
            '  *) echo "$HOST is not among the placed hosts" >&2; exit 2 ;;',
            "esac",
            f'MASTER_ADDR="${{MASTER_ADDR:-{quote(p.hosts[0])}}}"',
            'MASTER_PORT="${MASTER_PORT:-29500}"',
            f"NNODES={nodes}",
            f"GPUS_PER_NODE={p.gpus_per_node}",
            "export NODE_RANK MASTER_ADDR MASTER_PORT NNODES GPUS_PER_NODE",
            "PLACED_TORCHRUN_ARGS=(",
            '  --nnodes "$NNODES" --nproc-per-node "$GPUS_PER_NODE" --node-rank "$NODE_RANK"',
            '  --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT"',
            ")",
            'echo "node $NODE_RANK of $NNODES: torchrun ${PLACED_TORCHRUN_ARGS[*]}" >&2',
        ]
    )


def _job(p: HostPlacement, title: str) -> str:
    """A Slurm job on exactly these hosts, tasks in the order of ``slurm_hostfile``."""
    return script(
        [
            f"#SBATCH --nodes={len(p.hosts)}",
            "#SBATCH --ntasks-per-node=1",
            f"#SBATCH --gpus-per-node={p.gpus_per_node}",
            f"#SBATCH --nodelist={','.join(sorted(p.hosts))}",
            "#SBATCH --exclusive",
            *(comment(title) if title else []),
            *comment("The training command of one node: bash job_placed.sbatch gets it as its arguments."),
            "set -euo pipefail",
            'cd "${SLURM_SUBMIT_DIR:-.}"',
            'export SLURM_HOSTFILE="$PWD/slurm_hostfile"',
            f"srun --distribution=arbitrary --ntasks={len(p.hosts)} --kill-on-bad-exit=1 \\",
            '  bash -c \'set -e; source ./node_env.sh; exec torchrun "${PLACED_TORCHRUN_ARGS[@]}" "$@"\' placed "$@"',
        ]
    )


def _mesh(p: HostPlacement) -> str:
    value: dict[str, Any] = {
        "schema": SCHEMA,
        "gpus_per_node": p.gpus_per_node,
        "mesh_order": list(p.mesh),
        "mesh_shape": list(p.mesh.values()),
        "nodes": [
            {
                "node_rank": i,
                "host": host,
                "ranks": [i * p.gpus_per_node, (i + 1) * p.gpus_per_node - 1],
                **({"gpu_order": list(p.gpu_order[host])} if host in p.gpu_order else {}),
            }
            for i, host in enumerate(p.hosts)
        ],
    }
    return json.dumps(value, indent=2) + "\n"


# -- reading back ------------------------------------------------------------------------------------------------


def read_placement(text: str) -> HostPlacement:
    """The placement in a ``placement.json``.

    Raises:
        InvalidProblemError: it is none, or its ranks have gaps.
    """
    try:
        value = json.loads(text)
        if value["schema"] != SCHEMA:
            raise ValueError(f"its schema is {value['schema']!r}")
        nodes = sorted(value["nodes"], key=lambda n: n["node_rank"])
        size = value["gpus_per_node"]
        if [n["ranks"] for n in nodes] != [[i * size, (i + 1) * size - 1] for i in range(len(nodes))]:
            raise ValueError("its ranks do not fill the nodes in order")
        return HostPlacement(
            hosts=tuple(n["host"] for n in nodes),
            gpus_per_node=size,
            mesh=dict(zip(value["mesh_order"], value["mesh_shape"], strict=True)),
            gpu_order={n["host"]: tuple(n["gpu_order"]) for n in nodes if "gpu_order" in n},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidProblemError(f"This is no placement.json of meshwright ({error}).") from None


def read_hostfile(text: str) -> HostPlacement:
    """Hosts and slots of an Open MPI or DeepSpeed hostfile."""
    rows = [line.split() for line in _lines(text)]
    slots = {row[1].removeprefix("slots=") for row in rows if len(row) == 2 and row[1].startswith("slots=")}
    if not rows or len(slots) != 1 or not all(len(r) == 2 for r in rows) or not min(slots).isdigit():
        raise InvalidProblemError("A hostfile needs one 'HOST slots=N' per line with the same N everywhere.")
    return HostPlacement(hosts=tuple(r[0] for r in rows), gpus_per_node=int(min(slots)))


def read_rankfile(text: str) -> HostPlacement:
    """Hosts of an Open MPI rankfile in the order of ranks."""
    found: dict[int, str] = {}
    for line in _lines(text):
        match = _RANK.match(line)
        if match is None or int(match.group(1)) in found:
            raise InvalidProblemError(f"A rankfile cannot hold the line {line!r} here.")
        found[int(match.group(1))] = match.group(2)
    hosts = list(dict.fromkeys(found[r] for r in sorted(found)))
    per_node = len(found) // max(len(hosts), 1)
    if [found.get(r) for r in range(len(found))] != [h for h in hosts for _ in range(per_node)] or not hosts:
        raise InvalidProblemError("The ranks of this rankfile do not fill its hosts one after another.")
    return HostPlacement(hosts=tuple(hosts), gpus_per_node=per_node)


def read_hosts(text: str) -> tuple[str, ...]:
    """Hosts of ``hosts.txt`` or of a Slurm host file with one task a node."""
    return tuple(_lines(text))


def _lines(text: str) -> Sequence[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
