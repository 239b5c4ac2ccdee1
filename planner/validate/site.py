"""Where a user's own runs were made: the cluster, model and framework release that their rows need not repeat.

Published tables describe a machine in words; whoever calibrates on runs of one cluster has its profile, so that GPU,
nodes and links come from there, and a row that contradicts it is an error instead of an assumption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...costmodels.load_software import Era
from ...costmodels.model_spec import ModelSpec
from ...hardware_profiles.errors import InvalidProblemError, MeshwrightError
from ...hardware_profiles.load import load_cluster, resolve_gpu
from ...hardware_profiles.names import is_yaml_path
from ...hardware_profiles.types import Cluster
from .runs import BadCellError, Run

#: Stands for all files in ``Site.models``.
ANY_FILE = ""
#: Year of a run that states none: later than every release, so that the current one is taken.
NO_YEAR = 9999


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One cluster and what was run on it.

    Attributes:
        base: the cluster at the size that its file states; other sizes come from ``cluster_of``.
        name: shipped name or path that ``base`` was loaded from.
        models: exact model by file of the runs (``ANY_FILE``: of every other file); rows without one are read from
            their columns.
        era: framework release of every row; without it each row's own words decide.
    """

    base: Cluster
    name: str
    models: Mapping[str, ModelSpec] = field(default_factory=dict)
    era: Era | None = None

    def model_of(self, run: Run) -> ModelSpec | None:
        """The exact model of a row, where it is known."""
        return self.models.get(run.file, self.models.get(ANY_FILE))

    def cluster_of(self, n_gpus: int) -> Cluster:
        """The cluster with as many GPUs as a run used.

        Raises:
            InvalidProblemError: it cannot have that many.
        """
        stated = is_yaml_path(self.name) and self.base.nodes > 1
        if stated and n_gpus > self.base.n_gpus:
            raise InvalidProblemError(f"{n_gpus} GPUs are more than the {self.base.n_gpus} of {self.base.name}.")
        per_node = self.base.gpus_per_node
        if n_gpus > per_node and n_gpus % per_node:
            raise InvalidProblemError(f"{n_gpus} GPUs do not fill nodes of {per_node} GPUs of {self.base.name}.")
        return load_cluster(self.name, gpus=n_gpus)


def load_site(name: str, *, models: Mapping[str, ModelSpec] | None = None, era: Era | None = None) -> Site:
    """The site of a cluster by name or path, as ``meshwright plan --cluster`` takes it.

    Raises:
        InvalidProblemError: unknown name, or a broken file.
    """
    return Site(base=load_cluster(name), name=name, models=models or {}, era=era)


def placed(run: Run, site: Site) -> Run:
    """The row with what the cluster says filled in, and its result as tokens per second where it gives a step time.

    Raises:
        InvalidProblemError: the row contradicts the cluster or the model; the sentence names file and line.
    """
    if run.broken:
        return run
    try:
        n_gpus, per_node = run.integer("n_gpus"), run.integer("gpus_per_node")
        _check_gpu(run, site.base)
        if n_gpus is not None:
            size = site.cluster_of(n_gpus)
            if per_node not in (None, size.gpus_per_node, site.base.gpus_per_node):
                raise InvalidProblemError(
                    f"gpus_per_node is {per_node}, but {site.base.name} has nodes of {site.base.gpus_per_node} GPUs."
                )
        _check_model(run, site.model_of(run))
        filled = {**run.cells, "gpu": site.base.gpu.name, "gpus_per_node": str(site.base.gpus_per_node)}
        filled |= {"gpu_memory_gb": "", "interconnect": "", **_throughput(run, n_gpus)}
    except BadCellError as error:
        return replace(run, broken=str(error))  # costs this row alone
    except MeshwrightError as error:
        sentence = str(error).rstrip(".")
        raise InvalidProblemError(f"{run.place}: {sentence}; correct the row, or --cluster.") from None
    return replace(run, cells=filled)


def _check_gpu(run: Run, cluster: Cluster) -> None:
    text = run.text("gpu")
    if not text or text.lower() == cluster.gpu.name.lower():
        return
    if resolve_gpu(text, run.number("gpu_memory_gb")) != cluster.gpu.name:
        raise InvalidProblemError(f"gpu is {text!r}, but {cluster.name} has {cluster.gpu.name}.")


def _check_model(run: Run, model: ModelSpec | None) -> None:
    if model is None:
        return
    for column, value in (("n_layers", model.n_layers), ("hidden", model.hidden)):
        said = run.integer(column)
        if said is not None and said != value:
            raise InvalidProblemError(f"{column} is {said}, but {model.name} has {value} (see --model).")


def _throughput(run: Run, n_gpus: int | None) -> dict[str, str]:
    """Tokens per second and GPU from the step time, where only that is stated."""
    step, batch, seq_len = (run.number(name) for name in ("step_time_s", "global_batch_sequences", "seq_len"))
    if run.text("tps_gpu_effective") or step is None or batch is None or seq_len is None or n_gpus is None:
        return {}
    return {"tps_gpu_effective": f"{batch * seq_len / step / n_gpus:.9g}"}
