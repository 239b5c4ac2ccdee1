"""Reads an existing Megatron-LM launch script back into a model, a workload and a ``ParallelConfig``.

The script is walked, not run (see ``bash_script``). What the reader leaves aside is listed in ``notes``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..costmodels.model_spec import ModelSpec
from ..costmodels.parallel import CpComm, LayerSplit, ParallelConfig, Recompute
from ..costmodels.stage_layout import StageLayout, even_layout, recompute_flags
from ..costmodels.workload import Workload
from ..hardware_profiles.errors import InvalidProblemError
from .bash_lexer import BashSyntaxError
from .bash_script import Command, Script, rewalk, walk
from .bash_values import show
from .emitters.megatron_layout import decode_layout, decode_stage_layout
from .megatron_args import Machines, MegatronArgs, parse_args, read_machines
from .megatron_model_reader import read_model, read_workload

_CP_COMM = {"p2p": CpComm.RING, "all_gather": CpComm.ALL_GATHER, "a2a": CpComm.ULYSSES, "a2a+p2p": CpComm.ULYSSES}
_MODULES = {
    "core_attn": Recompute.CORE_ATTENTION,
    "layernorm": Recompute.NORM,
    "moe_act": Recompute.FFN_ACTIVATION,
    "mla_up_proj": Recompute.MLA_UP_PROJECTION,
    "mlp": Recompute.FFN,
    "moe": Recompute.FFN,
}
_STRATEGIES = {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3}
#: Options that change neither time nor memory enough to be priced; they raise no note.
_IRRELEVANT = re.compile(
    r"--(lr|min-lr|adam|weight-decay|clip-grad|init-method|log|tensorboard|wandb|save|load|ckpt|dist-ckpt|eval|split"
    r"|data|train|valid|test|tokenizer|merge-file|vocab-file|mock|seed|exit|distributed|finetune|no-load|no-save"
    r"|rotary|rope|no-rope|use-rope|norm-epsilon|timing|num-workers|override|use-mcore|transformer-impl|attention-backend"
    r"|use-flash|no-masked|attention-softmax|manual-gc|moe-aux|moe-router|moe-grouped|moe-permute|moe-z|moe-token"
    r"|untie|make-vocab|lr-decay|initial-loss|loss-scale|hysteresis|profile|async|use-checkpoint|auto-detect|apply-"
    r"|check-|no-check|bias-|no-bias|cross-entropy|disable-|overlap-cpu|optimizer-offload|megatron-fsdp|outer-dp"
    r"|reuse-grad|no-gradient|init-model|delay-|num-dataset|mscale|moe-pad|rerun|null-tokenizer|create-|no-create)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLaunch:
    """A launch as read.

    Attributes:
        n_gpus, nodes, gpus_per_node: None where the script leaves them to the machine; ``config.dp`` is then 1
            until ``with_n_gpus`` says more.
        stage_layers: layers per pipeline stage where the script spells them out, else empty.
        stage_layout: the deal of pieces to stages where a layout string says another than the even one.
        notes: sentences about what was assumed, left aside or not understood.
    """

    model: ModelSpec
    workload: Workload
    config: ParallelConfig
    n_gpus: int | None
    nodes: int | None
    gpus_per_node: int | None
    stage_layers: tuple[int, ...]
    stage_layout: StageLayout | None
    notes: tuple[str, ...]

    def with_n_gpus(self, n_gpus: int) -> ReadLaunch:
        """The launch on a number of GPUs that the script does not say: data parallelism takes the rest.

        Raises:
            InvalidProblemError: tp * cp * pp does not divide the number.
        """
        c = self.config
        dp = _data_parallel(n_gpus, c.tp * c.cp * c.pp, self.model.source)
        replicas = max(1, c.dp * c.cp // max(1, c.dp_shard))
        batch = self.workload.global_batch
        if batch == c.micro_batch_size * c.dp:
            batch = c.micro_batch_size * dp
        return replace(
            self,
            n_gpus=n_gpus,
            config=replace(c, dp=dp, dp_shard=dp * c.cp // replicas),
            workload=replace(self.workload, global_batch=batch),
        )


def read_megatron_launch(
    path: str | Path,
    *,
    env: Mapping[str, str] | None = None,
    nodes: int | None = None,
    gpus_per_node: int | None = None,
) -> ReadLaunch:
    """Read a bash script that starts Megatron-LM.

    Args:
        path: the script (a Slurm batch script will do).
        env: variables that the machine would set, e.g. ``{"NNODES": "4"}``.
        nodes, gpus_per_node: take these instead of what the script says.

    Raises:
        InvalidProblemError: no such file, not a readable script, no launch in it, or a mandatory option is missing
            or garbled; the sentence names the file and the option.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidProblemError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidProblemError(f"{file} is not a text file; give a launch script.") from None
    try:
        script = walk(text, env)
        found = _find_launches(script)
    except BashSyntaxError as error:
        raise InvalidProblemError(f"{file}, line {error.line}: {error}; the script cannot be read.") from None
    if not found:
        raise InvalidProblemError(
            f"{file} starts no Megatron-LM training that can be seen (no command with --num-layers was found)."
        )
    command = found[0]
    cut = next((i for i, w in enumerate(command.words) if w.endswith(".py") or command.words[i - 1] == "-m"), 0)
    while cut and command.words[cut].startswith("torch.distributed"):
        cut = next((i for i in range(cut + 1, len(command.words)) if command.words[i].endswith(".py")), 0)
    machines = read_machines(command.words[:cut], text)
    if nodes or gpus_per_node:
        machines = Machines(nodes=nodes or machines.nodes, gpus_per_node=gpus_per_node or machines.gpus_per_node)
    return _assemble(file, script, found, cut, machines)


def _find_launches(script: Script, depth: int = 0) -> list[Command]:
    """Commands that train: they carry ``--num-layers`` themselves or in a quoted command line."""
    found = []
    for command in script.commands:
        if command.words[0] in ("echo", "printf", "cat", "log"):
            continue
        if any(w == "--num-layers" or w.startswith(("--num-layers=", "--encoder-num-layers")) for w in command.words):
            found.append(command)
        elif command.words[0] == "eval" and any("--num-layers" in w for w in command.words):
            found += _nested(" ".join(command.words[1:]), command, (), script, depth)
        else:
            for i, word in enumerate(command.words):
                if re.search(r"--num-layers[\s=]", word) and depth < 3:
                    found += _nested(word, command, command.words[:i], script, depth)
                    break
        if not found and any(re.search(r"pretrain_\w+\.py$", w) for w in command.words):
            found.append(command)
    plain = [c for c in found if c.words[0] != "<<"]
    return plain or found


def _nested(text: str, outer: Command, prefix: tuple[str, ...], script: Script, depth: int) -> list[Command]:
    inner = _find_launches(rewalk(text, script.values), depth + 1)
    return [Command((*prefix, *c.words), outer.line) for c in inner]


def _assemble(file: Path, script: Script, found: list[Command], cut: int, machines: Machines) -> ReadLaunch:
    command, notes = found[0], list(script.notes)
    if len(found) > 1:
        notes.append(f"{len(found)} trainings were found; the one in line {command.line} was read.")
    if cut and not re.search(r"pretrain_(gpt|llama|mixtral|moe)\w*(\.py)?$", command.words[cut]):
        notes.append(f"{show(command.words[cut])} is read as if it were pretrain_gpt.py.")
    args = parse_args(command.words[cut:], str(file))
    if args.has("--hybrid-layer-pattern") or args.has("--hybrid-override-pattern"):
        raise InvalidProblemError(f"{file} trains a hybrid (Mamba) model, which is not supported; give a transformer.")
    config, stages = read_config(args, machines, notes)
    model = read_model(args, file.stem if file.stem != "launch" else file.resolve().parent.name or "launch", notes)
    if model.moe is None:
        config = replace(config, etp=1)
    if stages and sum(stages) != model.n_layers:
        raise InvalidProblemError(
            f"{file}: the pipeline layout deals {sum(stages)} layers, but --num-layers is {model.n_layers}."
        )
    workload = read_workload(args, config, notes)
    notes += _leftovers(args, script)
    return ReadLaunch(
        model=model,
        workload=workload,
        config=config,
        n_gpus=machines.n_gpus,
        nodes=machines.nodes,
        gpus_per_node=machines.gpus_per_node,
        stage_layers=stages,
        stage_layout=_stage_layout(args, model, config),
        notes=tuple(notes),
    )


def _stage_layout(args: MegatronArgs, model: ModelSpec, config: ParallelConfig) -> StageLayout | None:
    """What ``--pipeline-model-parallel-layout`` says beyond the even deal."""
    option = "--pipeline-model-parallel-layout"
    return None if config.pp == 1 or not args.has(option) else explicit_layout(args.text(option), model, config)


def explicit_layout(text: str, model: ModelSpec, config: ParallelConfig) -> StageLayout | None:
    """The deal that a layout string stands for, layers recomputed as the configuration says; None for the even one.

    Raises:
        InvalidProblemError: the string is malformed or of another model or pipeline.
    """
    dealt = decode_stage_layout(text, config.pp)
    dealt.check_model(model)
    dealt.check_config(config)
    found = StageLayout(dealt.chunks, recompute_flags(dealt.chunks, config))
    return None if found == even_layout(model, config) else found


def _data_parallel(n_gpus: int, others: int, where: str) -> int:
    if n_gpus < 1 or n_gpus % others:
        raise InvalidProblemError(
            f"{where}: {n_gpus} GPUs do not divide by tp * cp * pp = {others}; change the degrees, or say how many "
            "machines there are (--nodes)."
        )
    return n_gpus // others


def read_config(args: MegatronArgs, machines: Machines, notes: list[str]) -> tuple[ParallelConfig, tuple[int, ...]]:
    """Layout of the options on so many machines, and layers per stage where they are spelt out.

    Raises:
        InvalidProblemError: an option is garbled, or the degrees do not divide the GPUs.
    """
    tp = args.positive("--tensor-model-parallel-size", 1)
    cp = args.positive("--context-parallel-size", 1)
    pp = args.positive("--pipeline-model-parallel-size", 1)
    if machines.n_gpus is None:
        dp = 1
        notes.append("the number of GPUs is left to the machine; data parallelism was taken as 1.")
    else:
        dp = _data_parallel(machines.n_gpus, tp * cp * pp, args.where)
    vp, split, stages = _read_pipeline(args, pp)
    zero = _read_zero_stage(args, notes)
    instances = args.positive("--num-distributed-optimizer-instances", 1) if zero else 1
    recompute, layers = _read_recompute(args, vp, notes)
    comm = args.words("--cp-comm-type") or ["p2p"]
    if comm[0] not in _CP_COMM:
        raise InvalidProblemError(f"{args.where}: --cp-comm-type is {comm[0]!r}; it must be p2p, all_gather or a2a.")
    moe = args.integer("--num-experts", 0) > 0
    config = ParallelConfig(
        tp=tp,
        cp=cp,
        pp=pp,
        dp=dp,
        vp=vp,
        ep=args.positive("--expert-model-parallel-size", 1),
        etp=args.positive("--expert-tensor-parallel-size", tp if moe else 1),
        micro_batch_size=args.positive("--micro-batch-size"),
        zero_stage=zero,
        dp_shard=max(1, dp * cp // instances),
        recompute=recompute,
        recompute_layers=layers,
        sequence_parallel=int(args.has("--sequence-parallel") and tp > 1),
        cp_comm=_CP_COMM[comm[0]] if cp > 1 else CpComm.RING,
        overlap_grad_reduce=int(args.has("--overlap-grad-reduce")),
        # Without a sharded optimizer nothing is gathered, and the field keeps its default.
        overlap_param_gather=int(args.has("--overlap-param-gather") or zero == 0),
        tp_overlap=int(args.has("--tp-comm-overlap") and tp > 1),
        optimizer_offload=int(args.has("--optimizer-cpu-offload")),
        layer_split=split,
    )
    return config, stages


def _read_pipeline(args: MegatronArgs, pp: int) -> tuple[int, LayerSplit, tuple[int, ...]]:
    """Chunks per rank, how layers are dealt, and layers per stage where that is spelt out."""
    if args.has("--pipeline-model-parallel-layout"):
        stages, vp = decode_layout(args.text("--pipeline-model-parallel-layout"), pp)
        return vp, LayerSplit.LAYOUT if pp > 1 else LayerSplit.EVEN, stages if pp > 1 else ()
    layers = args.positive("--num-layers")
    embedding = args.has("--account-for-embedding-in-pipeline-split")
    loss = args.has("--account-for-loss-in-pipeline-split")
    units = layers + embedding + loss
    vp = args.positive("--num-virtual-stages-per-pipeline-rank", 1)
    per_chunk = args.integer("--num-layers-per-virtual-pipeline-stage", 0)
    if per_chunk > 0:
        if units % (pp * per_chunk):
            raise InvalidProblemError(
                f"{args.where}: --num-layers-per-virtual-pipeline-stage {per_chunk} times pp {pp} does not divide "
                f"{units} layers."
            )
        vp = units // (pp * per_chunk)
    if pp == 1:
        return 1, LayerSplit.EVEN, ()
    first = args.integer("--decoder-first-pipeline-num-layers", 0)
    last = args.integer("--decoder-last-pipeline-num-layers", 0)
    if first or last:
        return vp, LayerSplit.LAYOUT, _ends(args.where, layers, pp, first, last)
    if embedding and loss:
        return vp, LayerSplit.EMBEDDING_AND_LOSS_COUNT, ()
    if units % pp:
        raise InvalidProblemError(f"{args.where}: --num-layers {layers} does not divide by pp {pp}.")
    if embedding or loss:
        shares = [units // pp] * pp
        shares[0 if embedding else -1] -= 1
        return vp, LayerSplit.LAYOUT, tuple(shares)
    return vp, LayerSplit.EVEN, ()


def _ends(where: str, layers: int, pp: int, first: int, last: int) -> tuple[int, ...]:
    """Layers per stage when the first or last stage is given."""
    middle, rest = pp - (first > 0) - (last > 0), layers - first - last
    if rest < 0 or (middle and rest % middle) or (not middle and rest):
        raise InvalidProblemError(
            f"{where}: {rest} layers remain for {middle} middle stages; change --decoder-first-pipeline-num-layers "
            "or --decoder-last-pipeline-num-layers."
        )
    stages = [rest // middle] * middle if middle else []
    return tuple(([first] if first else []) + stages + ([last] if last else []))


def _read_zero_stage(args: MegatronArgs, notes: list[str]) -> int:
    if args.has("--use-megatron-fsdp"):
        strategy = args.text("--data-parallel-sharding-strategy", "optim_grads_params")
        if strategy not in _STRATEGIES:
            raise InvalidProblemError(
                f"{args.where}: --data-parallel-sharding-strategy is {strategy!r}; it must be {', '.join(_STRATEGIES)}."
            )
        args.has("--use-distributed-optimizer")
        return _STRATEGIES[strategy]
    if args.has("--use-torch-fsdp2"):
        return 3
    if args.has("--deepspeed") or args.has("--zero-stage"):
        notes.append("DeepSpeed's own configuration file is not read; only --zero-stage is.")
        return min(3, args.integer("--zero-stage", 0))
    return int(args.has("--use-distributed-optimizer"))


def _read_recompute(args: MegatronArgs, vp: int, notes: list[str]) -> tuple[int, int]:
    """Mask and number of layers (per rank; Megatron counts those of one chunk)."""
    granularity = args.text("--recompute-granularity")
    method = args.text("--recompute-method")
    layers = args.integer("--recompute-num-layers", 1)
    modules = args.words("--recompute-modules")
    if args.has("--checkpoint-activations") or (method and not granularity):
        granularity = "full"
    if args.has("--recompute-activations"):
        granularity = "selective"
    if granularity == "full":
        if method == "block":
            return Recompute.FULL, layers * vp
        if layers > 1:
            notes.append("uniform recompute in blocks of several layers is priced as blocks of one.")
        return Recompute.FULL, 0
    if granularity == "":
        return Recompute.NONE, 0
    if granularity != "selective":
        raise InvalidProblemError(
            f"{args.where}: --recompute-granularity is {granularity!r}; it must be full or selective."
        )
    mask = 0
    for name in modules or ["core_attn"]:
        if name in _MODULES:
            mask |= _MODULES[name]
        else:
            notes.append(f"recomputing {name} is not priced.")
    return mask, 0


def _leftovers(args: MegatronArgs, script: Script) -> list[str]:
    unread = [name for name in args.unread() if not _IRRELEVANT.match(name)]
    notes = []
    if unread:
        notes.append(f"not read, so without effect here: {', '.join(unread)}.")
    missing = sorted(script.values.missing - {"PATH", "HOME", "USER", "PWD", "HOSTNAME", "LD_LIBRARY_PATH"})
    if missing:
        notes.append(f"variables that the script never sets: {', '.join(missing)}.")
    return notes
