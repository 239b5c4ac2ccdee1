"""Loading of GPUs and clusters: shipped ones by name, a user's own cluster from a YAML file.

Only the files that are named are read. The other names of this package's loader (aliases, plain-data forms)
are re-exported here, so that callers import from one place.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from .curve_file import CURVES_DIR, CurveSet, override, resolve_curves
from .errors import InvalidProblemError, did_you_mean
from .names import CLUSTER_DIR, GPU_DIR, gpu_assumption, is_yaml_path, list_clusters, list_gpus, resolve_gpu
from .profile_dict import cluster_from_dict, cluster_to_dict, gpu_from_dict, gpu_to_dict, profile_sha256
from .types import GB, GIB, Cluster, Gpu, Tier
from .yaml_reader import Section, read_yaml

__all__ = [
    "CLUSTER_DIR",
    "CURVES_DIR",
    "GPU_DIR",
    "LINK_KINDS",
    "cluster_from_dict",
    "cluster_from_gpu",
    "cluster_to_dict",
    "gpu_assumption",
    "gpu_from_dict",
    "gpu_to_dict",
    "list_clusters",
    "list_gpus",
    "load_cluster",
    "load_gpu",
    "profile_sha256",
    "resolve_gpu",
]

LINK_KINDS = ("nvlink", "xgmi", "pcie", "infiniband", "roce", "ethernet", "slingshot", "omnipath")
_LARGEST_BOARD = 8  # GPUs; a larger scale-up domain than any single host's board spans hosts
GEMM_TYPES = ("bf16", "fp16", "fp8", "fp4", "tf32", "fp32")
_GPU_KEYS = (
    "name",
    "vendor",
    "architecture",
    "memory_gib",
    "hbm_gbytes_per_s",
    "host_gbytes_per_s",
    "peak_tflops",
    "sm_count",
    "power_w",
)
_TIER_KEYS = ("kind", "gbytes_per_s_per_gpu")
_CLUSTER_KEYS = ("name", "gpu", "gpus_per_node", "tiers")


def load_gpu(name: str, *, curves_dir: Path = CURVES_DIR) -> Gpu:
    """Return a shipped GPU with its curves.

    Args:
        name: a shipped name or any alias that ``resolve_gpu`` knows.
        curves_dir: where the fitted curves are; another directory serves held-out fits.

    Raises:
        InvalidProblemError: unknown or ambiguous name, or a broken file.
        MissingProfileDataError: no curve file has a section that every GPU needs.
    """
    return _gpu(_shipped_section(resolve_gpu(name)), curves_dir)


def load_cluster(
    name_or_path: str, *, nodes: int | None = None, gpus: int | None = None, curves_dir: Path = CURVES_DIR
) -> Cluster:
    """Return a cluster at a size.

    Args:
        name_or_path: a shipped name, or the path of a YAML file (ends in .yaml or .yml, or has a slash).
        nodes: hosts; gpus: total GPUs, the alternative. Neither gives the file's own ``nodes``. Fewer GPUs than
            a node holds give one partial node.
        curves_dir: where the fitted curves are.

    Raises:
        InvalidProblemError: unknown name, broken file, or a size that the cluster cannot have.
        MissingProfileDataError: no curve file has a section that the GPU needs.
    """
    path = _cluster_path(name_or_path)
    data = read_yaml(path)
    if "pools" in data:
        raise InvalidProblemError(
            f"{path.name}: a cluster with `pools` is for `meshwright plan` only; name one of its pools' clusters."
        )
    section = Section(data, path.name)
    section.check_keys(_CLUSTER_KEYS, ("nodes", "max_nodes", "host_memory_gib", "efficiency", "links", "notes"))
    return cluster_of_section(section, nodes, gpus, curves_dir)


def cluster_of_section(section: Section, nodes: int | None, gpus: int | None, curves_dir: Path) -> Cluster:
    """The cluster that a section with checked keys describes (a whole file, or one pool of a mixed cluster)."""
    per_node = section.count("gpus_per_node")
    max_nodes = int(section.figure("max_nodes", 0.0))
    name = section.text("name")
    n, per_node = _size(name, nodes, gpus, section.count("nodes", 1), per_node, max_nodes)
    host_memory = section.figure("host_memory_gib", 0.0, zero_allowed=True)
    tiers = _tiers(section, "tiers", section.count("gpus_per_node"))
    gpu = _cluster_gpu(section, curves_dir)
    return Cluster(
        name=name,
        gpu=gpu,
        nodes=n,
        gpus_per_node=per_node,
        tiers=_fit_domains(tiers, n * per_node, section.place),
        host_memory_bytes=host_memory * GIB,
        max_nodes=max_nodes,
        sources=section.sources,
        notes=section.text("notes", ""),
    )


def cluster_from_gpu(
    gpu: str | Gpu,
    *,
    n_gpus: int,
    gpus_per_node: int | None = None,
    scale_out_bytes_per_s_per_gpu: float | None = None,
    scale_out_kind: str = "infiniband",
    scale_up_bytes_per_s_per_gpu: float | None = None,
    scale_up_kind: str | None = None,
    scale_up_domain_gpus: int | None = None,
    nvls: bool | None = None,
    host_memory_bytes: float = 0.0,
    name: str = "",
    curves_dir: Path = CURVES_DIR,
) -> Cluster:
    """Build a cluster from what a measured row says; what it leaves out comes from the GPU's profile.

    Args:
        gpu: a shipped GPU's name (or alias), or a loaded shipped GPU.
        n_gpus: total; fewer than ``gpus_per_node`` (default 8, or 4 where NVLink spans hosts) give a partial node.
        scale_out_bytes_per_s_per_gpu: one direction, per GPU (default: the adapter usual for this GPU).
        scale_up_bytes_per_s_per_gpu, scale_up_kind, scale_up_domain_gpus, nvls: replace the fastest tier's
            figures; a given bandwidth or kind leaves one scale-up tier.

    Raises:
        InvalidProblemError: a size or figure that cannot be, or an unknown kind.
    """
    loaded = load_gpu(gpu, curves_dir=curves_dir) if isinstance(gpu, str) else gpu
    section = _shipped_section(loaded.name)
    tiers = _tiers(section, "scale_up", 1)
    per_node = gpus_per_node or (4 if tiers[-1].domain_gpus > _LARGEST_BOARD else 8)
    if scale_up_bytes_per_s_per_gpu is not None or scale_up_kind is not None:
        tiers = tiers[-1:]
    tiers = _within_host(tiers, per_node)
    fastest = tiers[0]
    tiers[0] = Tier(
        kind=_kind(scale_up_kind, "scale_up_kind") if scale_up_kind else fastest.kind,
        domain_gpus=scale_up_domain_gpus or fastest.domain_gpus,
        bytes_per_s=scale_up_bytes_per_s_per_gpu or fastest.bytes_per_s,
        latency_s=fastest.latency_s,
        nvls=fastest.nvls if nvls is None else nvls,
    )
    given = scale_out_bytes_per_s_per_gpu
    network = section.figure("nic_gbytes_per_s") * GB if given is None else given
    if network <= 0 or tiers[0].bytes_per_s <= 0:
        raise InvalidProblemError(f"Bandwidths of a cluster of {loaded.name} must be more than zero.")
    tiers.append(
        Tier(kind=_kind(scale_out_kind, "scale_out_kind"), domain_gpus=0, bytes_per_s=float(network), latency_s=0.0)
    )
    title = name or f"{loaded.name} x{n_gpus}"
    nodes, per_node = _size(title, None, n_gpus, 1, per_node, 0)
    return Cluster(
        name=title,
        gpu=loaded,
        nodes=nodes,
        gpus_per_node=per_node,
        tiers=_fit_domains(tiers, n_gpus, title),
        host_memory_bytes=host_memory_bytes,
        sources=section.sources,
    )


def _within_host(tiers: list[Tier], per_node: int) -> list[Tier]:
    """Cut the domains of board-level links to the GPUs of one host; a rack-scale domain spans hosts and stays."""
    if tiers[-1].domain_gpus > _LARGEST_BOARD:
        return tiers
    inner = [tier for tier in tiers if tier.domain_gpus < per_node]
    rest = tiers[len(inner) :]
    return [*inner, *(replace(tier, domain_gpus=per_node) for tier in rest[:1])]


def _shipped_section(name: str) -> Section:
    path = GPU_DIR / f"{name}.yaml"
    if not path.is_file():
        raise InvalidProblemError(f"GPU {name!r} is not a shipped one, so its links are unknown; give a cluster YAML.")
    return Section(read_yaml(path), path.name)


def _gpu(section: Section, curves_dir: Path, efficiency: Section | None = None) -> Gpu:
    section.check_keys(_GPU_KEYS, ("scale_up", "nic_gbytes_per_s", "notes"))
    peaks = section.section("peak_tflops")
    peaks.check_keys((), GEMM_TYPES)
    if not peaks.data:
        raise section.error("peak_tflops", f"is empty, give at least one of {', '.join(GEMM_TYPES)}")
    name, architecture = section.text("name"), section.text("architecture")
    peak_flops = {key: peaks.figure(key) * 1e12 for key in peaks.data}
    curves: CurveSet = resolve_curves(name, architecture, peak_flops, curves_dir)
    if efficiency is not None:
        curves = override(curves, efficiency)
    figures = {key: section.figure(f"{key}_gbytes_per_s") for key in ("hbm", "host")}
    memory_gib, power_w, sm_count = section.figure("memory_gib"), section.figure("power_w"), section.count("sm_count")
    return Gpu(
        name=name,
        vendor=section.text("vendor"),
        architecture=architecture,
        peak_flops=peak_flops,
        memory_bytes=memory_gib * GIB,
        hbm_bytes_per_s=figures["hbm"] * GB,
        host_bytes_per_s=figures["host"] * GB,
        sm_count=sm_count,
        power_w=power_w,
        gemm=curves.gemm,
        attention=curves.attention,
        memory_bound=curves.memory_bound,
        collectives=curves.collectives,
        sources={key.removeprefix(section.path): text for key, text in section.sources.items()},
        notes=section.text("notes", ""),
    )


def _cluster_gpu(section: Section, curves_dir: Path) -> Gpu:
    """The GPU of a cluster file: a name, or a mapping written in place, with ``efficiency`` laid over it."""
    efficiency = section.section("efficiency") if "efficiency" in section.data else None
    if isinstance(section.data["gpu"], str):
        try:
            name = resolve_gpu(section.text("gpu"))
        except InvalidProblemError as error:
            raise InvalidProblemError(f"{section.place}: gpu: {error}") from None
        return _gpu(_shipped_section(name), curves_dir, efficiency)
    if not isinstance(section.data["gpu"], dict):
        raise section.error("gpu", "is neither a GPU's name nor a mapping with its figures")
    inline = section.section("gpu")
    return _gpu(Section(inline.data, section.place, "gpu."), curves_dir, efficiency)


def _cluster_path(name_or_path: str) -> Path:
    if is_yaml_path(name_or_path) or "/" in name_or_path:
        return Path(name_or_path)
    name = name_or_path.strip().lower().replace("_", "-")
    path = CLUSTER_DIR / f"{name}.yaml"
    if not name or not path.is_file():
        near = did_you_mean(name, list_clusters()) or " `meshwright hardware` lists all."
        raise InvalidProblemError(f"Unknown cluster {name_or_path!r}.{near}")
    return path


def _tiers(section: Section, key: str, per_node: int) -> list[Tier]:
    """Read link tiers; an absent ``domain_gpus`` is 0 here and means the whole cluster (last tier only)."""
    tiers: list[Tier] = []
    rows = section.sections(key)
    if not rows:
        raise section.error(key, "is empty, give at least one link tier")
    for i, row in enumerate(rows):
        row.check_keys(_TIER_KEYS, ("domain_gpus", "latency_us", "nvls"))
        kind = _kind(row.text("kind"), f"{row.place}: {row.path}kind")
        domain = row.count("domain_gpus") if "domain_gpus" in row.data else 0
        if not domain and i + 1 < len(rows):
            raise row.error("domain_gpus", "is missing; only the last tier may leave it out")
        if domain and tiers and domain <= tiers[-1].domain_gpus:
            raise row.error("domain_gpus", f"is {domain}, expected more than the {tiers[-1].domain_gpus} before it")
        if domain and domain % per_node and per_node % domain:
            raise row.error("domain_gpus", f"is {domain}, neither a part nor a multiple of {per_node} GPUs per node")
        tiers.append(
            Tier(
                kind=kind,
                domain_gpus=domain,
                bytes_per_s=row.figure("gbytes_per_s_per_gpu") * GB,
                latency_s=row.figure("latency_us", 0.0, zero_allowed=True) * 1e-6,
                nvls=row.flag("nvls", False),
            )
        )
        if tiers[-1].nvls and kind != "nvlink":
            raise row.error("nvls", f"is true on {kind}, but only nvlink has it")
    return tiers


def _kind(kind: str, place: str) -> str:
    if kind not in LINK_KINDS:
        near = difflib.get_close_matches(kind, LINK_KINDS, n=1, cutoff=0.7)
        hint = f"did you mean {near[0]}" if near else f"it is one of {', '.join(LINK_KINDS)}"
        raise InvalidProblemError(f"{place} is {kind!r}, which is no link kind; {hint}.")
    return kind


def _fit_domains(tiers: list[Tier], n_gpus: int, place: str) -> tuple[Tier, ...]:
    """Close the last tier over the cluster and cut inner domains that are larger than it."""
    last = tiers[-1]
    if last.domain_gpus and last.domain_gpus < n_gpus:
        raise InvalidProblemError(
            f"{place}: the last tier reaches {last.domain_gpus} of {n_gpus} GPUs; add an outer tier or leave its "
            "domain_gpus out."
        )
    domains = [min(tier.domain_gpus, n_gpus) for tier in tiers[:-1]] + [n_gpus]
    return tuple(replace(tier, domain_gpus=domain) for tier, domain in zip(tiers, domains, strict=True))


def _size(
    name: str, nodes: int | None, gpus: int | None, default: int, per_node: int, max_nodes: int
) -> tuple[int, int]:
    """Return (nodes, GPUs per node); a total below one node gives one partial node."""
    if nodes is not None and nodes < 1:
        raise InvalidProblemError(f"--nodes {nodes} is not possible; give at least 1.")
    if gpus is not None:
        if gpus < 1:
            raise InvalidProblemError(f"--gpus {gpus} is not possible; give at least 1.")
        partial = gpus < per_node
        if not partial and gpus % per_node:
            low = gpus // per_node * per_node
            raise InvalidProblemError(
                f"--gpus {gpus} does not fill nodes of {per_node} GPUs of {name}; give {low} or {low + per_node}."
            )
        implied = 1 if partial else gpus // per_node
        if nodes is not None and nodes != implied:
            raise InvalidProblemError(
                f"--nodes {nodes} and --gpus {gpus} disagree for {per_node} GPUs per node of {name}; give one of them."
            )
        nodes, per_node = implied, gpus if partial else per_node
    n = default if nodes is None else nodes
    if max_nodes and n > max_nodes:
        raise InvalidProblemError(f"{name} has at most {max_nodes} nodes, asked for {n}; ask for fewer.")
    return n, per_node
