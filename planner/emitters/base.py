"""What an emitter is, what it returns, and how a bundle of files reaches the disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import ClassVar, Protocol

from ...costmodels.parallel import LayerSplit
from ...hardware_profiles.errors import InvalidProblemError, UnsupportedByFrameworkError
from ..plan import Plan, PlanSet


class Proof(StrEnum):
    """How far the output of an emitter has been tried, from the strongest to the weakest."""

    EXECUTED = "executed"
    PARSER_DEEP = "parser-deep"
    PARSER_SHALLOW = "parser-shallow"
    GOLDEN = "golden"


#: What may start the processes.
WRAPS = ("torchrun", "slurm", "kubernetes", "skypilot")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions:
    """What a user may say about a launch that is not part of the plan.

    Attributes:
        data_path, tokenizer: passed through; empty means synthetic data and no tokenizer.
        wrap: ``torchrun`` (run ``launch.sh`` on every node), ``slurm`` (adds ``job.sbatch``), ``kubernetes`` (adds
            ``job.yaml``, a Kubeflow TrainJob) or ``skypilot`` (adds ``job.sky.yaml``).
        job_name, partition, account, time_limit: Slurm directives; empty ones are left out.
        container_image: handed to ``srun`` (Pyxis/enroot), the TrainJob or SkyPilot; container_mounts: to ``srun``.
        megatron_dir: checkout that holds ``pretrain_gpt.py``; train_script: the user's own script (DeepSpeed).
        torchtitan_module, torchtitan_config: names in TorchTitan's configuration registry.
        train_iters: steps to run; lr, min_lr: placeholders that any real run must set.
        save_dir, load_dir: checkpoints, none if empty.
        env: further environment variables; extra_args: further words for the training program.
    """

    data_path: str = ""
    tokenizer: str = ""
    wrap: str = "torchrun"
    job_name: str = ""
    partition: str = ""
    account: str = ""
    time_limit: str = ""
    container_image: str = ""
    container_mounts: str = ""
    megatron_dir: str = "Megatron-LM"
    train_script: str = ""
    torchtitan_module: str = ""
    torchtitan_config: str = ""
    train_iters: int = 50
    lr: float = 3e-4
    min_lr: float = 3e-5
    save_dir: str = ""
    load_dir: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    extra_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.wrap not in WRAPS:
            raise InvalidProblemError(f"--wrap is {self.wrap!r}; it must be one of {', '.join(WRAPS)}.")
        if self.train_iters < 1:
            raise InvalidProblemError(f"--train-iters is {self.train_iters}; it must be at least 1.")
        for name in self.env:
            if not (name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()):
                raise InvalidProblemError(f"{name!r} is no name of an environment variable (letters, digits and _).")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchBundle:
    """Files of one launch.

    Attributes:
        files: relative POSIX path -> text, in the order in which they are listed to the user.
        executable: those paths that get the executable bits.
        command: what the user types next, from inside the directory.
    """

    files: Mapping[str, str]
    executable: frozenset[str] = frozenset()
    command: str = ""

    def __post_init__(self) -> None:
        for name in self.files:
            path = PurePosixPath(name)
            if not name or path.is_absolute() or ".." in path.parts or "\\" in name or str(path) != name:
                raise ValueError(f"not a clean relative path: {name!r}")
        if not self.executable <= set(self.files):
            raise ValueError(f"executable but not in the bundle: {sorted(self.executable - set(self.files))}")


class Emitter(Protocol):
    """One framework's launch files.

    ``name`` is the registry key, ``framework`` a value of ``Software.framework``, ``versions`` the releases
    whose options are used, ``proof`` how the output is tested.
    """

    name: ClassVar[str]
    framework: ClassVar[str]
    versions: ClassVar[str]
    proof: ClassVar[Proof]

    def refuse(self, plan_set: PlanSet, plan: Plan) -> str | None:
        """Return one sentence that says why this framework cannot express the plan, or None."""

    def emit(self, plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> LaunchBundle:
        """Return the files of the plan.

        Raises:
            UnsupportedByFrameworkError: with the sentence of ``refuse``.
        """


#: Emitters that write ``Plan.stage_layout``; others would start the even deal instead.
WRITES_LAYOUTS = frozenset({"megatron-lm", "torchtitan"})


def refuse_unlaunchable(plan: Plan) -> str | None:
    """Why no framework's options can express a configuration that can be estimated, or None."""
    if plan.config.vocab_parallel:
        return "no option splits embedding and head over the pipeline (vocab_parallel); it can only be estimated"
    if plan.config.layer_split == LayerSplit.BALANCED:
        return "layer_split=balanced can only be estimated; choose another layer_split"
    return None


def require_expressible(emitter: Emitter, plan_set: PlanSet, plan: Plan) -> None:
    """Raise the refusal of an emitter as an error; no framework's options express a split vocabulary or balanced
    layers."""
    reason = refuse_unlaunchable(plan) or emitter.refuse(plan_set, plan)
    if not reason and plan.stage_layout and emitter.name not in WRITES_LAYOUTS:
        reason = "its emitter does not write stage layouts"
    if reason:
        raise UnsupportedByFrameworkError(f"plan {plan.rank} cannot be written for {emitter.name}: {reason}")


def write_bundle(bundle: LaunchBundle, out_dir: str | Path, *, force: bool = False) -> tuple[Path, ...]:
    """Write all files of a bundle or none.

    The files are written to a temporary directory beside ``out_dir`` first. A new ``out_dir`` then appears by
    one rename; into an existing one the files move one by one, and what they replaced is put back if one fails.
    Files of the directory that the bundle does not name stay.

    Returns:
        The paths written, in the order of the bundle.

    Raises:
        InvalidProblemError: a file exists and ``force`` is off, or the place cannot be written.
    """
    out = Path(out_dir)
    if out.exists() and not out.is_dir():
        raise InvalidProblemError(f"{out} is a file; --out must name a directory.")
    taken = [name for name in bundle.files if (out / name).exists()]
    if taken and not force:
        raise InvalidProblemError(f"{out / taken[0]} exists already; choose another --out or overwrite with --force.")
    blocked = [name for name in taken if (out / name).is_dir()]
    if blocked:
        raise InvalidProblemError(f"{out / blocked[0]} is a directory where a file must go; choose another --out.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InvalidProblemError(f"{out} cannot be written: {error.strerror}.") from None
    try:
        new = staging / "new"
        _fill(new, bundle)
        if out.exists():
            _move_into(new, out, staging / "old", list(bundle.files))
        else:
            new.rename(out)
    except OSError as error:
        raise InvalidProblemError(f"{out} cannot be written: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return tuple(out / name for name in bundle.files)


def _fill(root: Path, bundle: LaunchBundle) -> None:
    root.mkdir()
    umask = os.umask(0)
    os.umask(umask)
    for name, text in bundle.files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        path.chmod((0o777 if name in bundle.executable else 0o666) & ~umask)
    root.chmod(0o777 & ~umask)


def _move_into(new: Path, out: Path, old: Path, names: list[str]) -> None:
    """Replace files one by one; on failure restore what was there."""
    saved: list[str] = []
    placed: list[str] = []
    try:
        for name in names:
            target = out / name
            if target.exists():
                (old / name).parent.mkdir(parents=True, exist_ok=True)
                target.rename(old / name)
                saved.append(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            (new / name).rename(target)
            placed.append(name)
    except OSError:
        for name in placed:
            (out / name).unlink(missing_ok=True)
        for name in saved:
            (old / name).rename(out / name)
        raise
