"""Options of a Megatron-LM command line by name, with the values that the reader of launches needs.

Old spellings are mapped to those of Megatron-LM 0.19, so that scripts of older releases can be read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..hardware_profiles.errors import InvalidProblemError
from .bash_values import is_unknown, show

#: old or alternative spelling -> name in Megatron-LM 0.19 (argument parsers of the releases since 2020).
ALIASES = {
    "--model-parallel-size": "--tensor-model-parallel-size",
    "--batch-size": "--micro-batch-size",
    "--encoder-num-layers": "--num-layers",
    "--encoder-seq-length": "--seq-length",
    "--use-custom-fsdp": "--use-megatron-fsdp",
    "--activations-checkpoint-method": "--recompute-method",
    "--activations-checkpoint-num-layers": "--recompute-num-layers",
    "--checkpoint-num-layers": "--recompute-num-layers",
}


@dataclass(slots=True)
class MegatronArgs:
    """Values by option; ``used`` collects the options that were asked for.

    Attributes:
        where: file (and line) for messages.
    """

    values: dict[str, list[str]]
    where: str
    used: set[str] = field(default_factory=set)

    def has(self, name: str) -> bool:
        """Whether the option is present."""
        self.used.add(name)
        return name in self.values

    def text(self, name: str, default: str = "") -> str:
        """First value as text.

        Raises:
            InvalidProblemError: the option stands without a value, or its value is known at run time only.
        """
        if not self.has(name):
            return default
        words = self.values[name]
        if not words:
            raise InvalidProblemError(f"{self.where}: {name} has no value.")
        if is_unknown(words[0]):
            raise InvalidProblemError(
                f"{self.where}: {name} is {show(words[0])!r}, which only the run itself knows; "
                "set the variable in the script or in the environment."
            )
        return words[0]

    def words(self, name: str) -> list[str]:
        """All values (empty if absent)."""
        return list(self.values.get(name, [])) if self.has(name) else []

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole number.

        Raises:
            InvalidProblemError: absent without a default, or no number.
        """
        if not self.has(name):
            if default is None:
                raise InvalidProblemError(f"{self.where}: {name} is missing; a Megatron-LM launch needs it.")
            return default
        text = self.text(name)
        try:
            return int(text)
        except ValueError:
            raise InvalidProblemError(f"{self.where}: {name} is {text!r}, not a whole number.") from None

    def number(self, name: str, default: float) -> float:
        """A number."""
        text = self.text(name, str(default))
        try:
            return float(text)
        except ValueError:
            raise InvalidProblemError(f"{self.where}: {name} is {text!r}, not a number.") from None

    def positive(self, name: str, default: int | None = None) -> int:
        """A whole number of at least 1."""
        value = self.integer(name, default)
        if value < 1:
            raise InvalidProblemError(f"{self.where}: {name} is {value}; it must be at least 1.")
        return value

    def unread(self) -> list[str]:
        """Options that nothing asked for, sorted."""
        return sorted(set(self.values) - self.used)


def parse_args(words: Sequence[str], where: str) -> MegatronArgs:
    """Options from the words behind the training script; the last of a repeated option wins."""
    values: dict[str, list[str]] = {}
    current: list[str] | None = None
    for word in words:
        match = re.fullmatch(r"(--[A-Za-z][\w-]*)(?:=(.*))?", word, re.S)
        if match:
            name = match[1].replace("_", "-")
            current = [] if match[2] is None else [match[2]]
            values[ALIASES.get(name, name)] = current
        elif current is not None and word != "":
            current.append(word)
    return MegatronArgs(values, where)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """Nodes and GPUs as far as a launch says."""

    nodes: int | None = None
    gpus_per_node: int | None = None
    tasks: int | None = None

    @property
    def n_gpus(self) -> int | None:
        """All GPUs, if known."""
        if self.tasks:
            return self.tasks
        return self.nodes * self.gpus_per_node if self.nodes and self.gpus_per_node else None


_NODES = ("--nnodes", "--num-nodes", "--nodes", "-N")
_PER_NODE = ("--nproc-per-node", "--gpus-per-node", "--gres", "--ntasks-per-node", "--num-gpus")
_TASKS = ("--ntasks", "-n", "-np", "--np")


def read_machines(words: Sequence[str], directives: str) -> Machines:
    """Nodes and GPUs from the launcher's words (torchrun, srun, mpirun, deepspeed) and ``#SBATCH`` lines."""
    batch = [w for line in re.findall(r"^#SBATCH\s+(.*)$", directives, re.M) for w in line.split("#")[0].split()]
    first, second = _options(words), _options(batch)

    def find(names: Sequence[str]) -> int | None:
        for table in (first, second):
            for name in names:
                number = _count(table.get(name, ""))
                if number:
                    return number
        return None

    torchrun = any(re.search(r"torchrun|torch\.distributed|deepspeed|accelerate", w) for w in words)
    per_node = find(_PER_NODE[:1] + _PER_NODE[4:]) or find(_PER_NODE[1:3]) or find(_PER_NODE[3:4])
    nodes = find(_NODES) or (1 if torchrun and per_node else None)
    tasks = None if torchrun else find(_TASKS)
    if tasks and nodes and not per_node:
        per_node = tasks // nodes
    return Machines(nodes=nodes, gpus_per_node=per_node, tasks=tasks)


def _options(words: Sequence[str]) -> dict[str, str]:
    table: dict[str, str] = {}
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.startswith("-"):
            following = words[i + 1] if i + 1 < len(words) else ""
            short = re.fullmatch(r"(-[Nn])(\d+)", name)
            if short:
                name, equals, value = short[1], "=", short[2]
            table[name.replace("_", "-")] = value if equals else following
    return table


def _count(text: str) -> int | None:
    """``8``, ``1:4`` (least), ``gpu:8``, ``gpu:a100:8``."""
    if is_unknown(text):
        return None
    match = re.fullmatch(r"(\d+)(?::\d+)?|(?:gpu|gres/gpu)(?::[\w.-]+)?:(\d+)", text)
    return int(match[1] or match[2]) if match else None
