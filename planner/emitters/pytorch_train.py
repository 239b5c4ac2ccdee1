# mypy: ignore-errors
# ruff: noqa: D102, D103, B905
"""Trains a plain transformer by a meshwright plan with native PyTorch: pipeline x FSDP2/HSDP x tensor parallelism.

Run by ``launch.sh`` (torchrun); reads ``plan_config.json`` beside it. Data are random tokens: the loss it prints falls
towards log(vocabulary) only. Works on CUDA (NCCL) and, for a try-out, on CPU (gloo). Needs PyTorch 2.6 or later.
"""

import argparse
import json
import os
import time
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import get_schedule_class
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)


# -- the model ------------------------------------------------------------------------------------
class Attention(nn.Module):
    """Causal self-attention with grouped keys and rotary positions."""

    def __init__(self, m: dict) -> None:
        super().__init__()
        self.head_dim, self.rotary = m["head_dim"], m["learned_positions"] == 0
        width, kv_width = m["n_heads"] * m["head_dim"], m["n_kv_heads"] * m["head_dim"]
        self.q = nn.Linear(m["hidden"], width, bias=m["qkv_bias"])
        self.k = nn.Linear(m["hidden"], kv_width, bias=m["qkv_bias"])
        self.v = nn.Linear(m["hidden"], kv_width, bias=m["qkv_bias"])
        self.out = nn.Linear(width, m["hidden"], bias=m["out_bias"])
        self.q_norm = nn.RMSNorm(m["head_dim"]) if m["qk_norm"] else None
        self.k_norm = nn.RMSNorm(m["head_dim"]) if m["qk_norm"] else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (f(x).view(batch, length, -1, self.head_dim) for f in (self.q, self.k, self.v))
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rotary:
            q, k = rotate(q), rotate(k)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        return self.out(y.transpose(1, 2).reshape(batch, length, -1))


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of (batch, length, heads, head_dim)."""
    half = x.shape[-1] // 2
    speed = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = torch.outer(torch.arange(x.shape[1], device=x.device, dtype=torch.float32), speed)[None, :, None, :]
    a, b = x.float().split(half, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class FeedForward(nn.Module):
    """Two matrices with GELU, or three with a SiLU gate."""

    def __init__(self, m: dict) -> None:
        super().__init__()
        self.up = nn.Linear(m["hidden"], m["ffn_hidden"], bias=m["ffn_bias"])
        self.gate = nn.Linear(m["hidden"], m["ffn_hidden"], bias=m["ffn_bias"]) if m["gated_ffn"] else None
        self.down = nn.Linear(m["ffn_hidden"], m["hidden"], bias=m["ffn_bias"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x)) if self.gate is None else F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """One transformer layer, norms first."""

    def __init__(self, m: dict) -> None:
        super().__init__()
        norm = nn.RMSNorm if m["norm"] == "rmsnorm" else nn.LayerNorm
        self.attention_norm, self.attention = norm(m["hidden"]), Attention(m)
        self.ffn_norm, self.ffn = norm(m["hidden"]), FeedForward(m)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class Chunk(nn.Module):
    """Layers ``first`` to ``last`` of the model, with the embedding in front and the head behind where they belong."""

    def __init__(self, m: dict, first: int, last: int) -> None:
        super().__init__()
        has_head = last == m["n_layers"]
        self.embedding = nn.Embedding(m["vocab"], m["hidden"]) if first == 0 else None
        rows = m["learned_positions"]
        self.positions = nn.Embedding(rows, m["hidden"]) if first == 0 and rows else None
        self.layers = nn.ModuleDict({str(i): Block(m) for i in range(first, last)})
        norm = nn.RMSNorm if m["norm"] == "rmsnorm" else nn.LayerNorm
        self.norm = norm(m["hidden"]) if has_head else None
        self.tied = m["tied_embeddings"] and first == 0 and has_head
        self.head = nn.Linear(m["hidden"], m["vocab"], bias=False) if has_head and not self.tied else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.embedding is not None:
            tokens, x = x, self.embedding(x)
            if self.positions is not None:
                x = x + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for layer in self.layers.values():
            x = layer(x)
        if self.norm is None:
            return x
        x = self.norm(x)
        return F.linear(x, self.embedding.weight) if self.tied else self.head(x)


def initialize(chunk: nn.Module, exact: bool) -> None:
    """Weights from N(0, 0.02), norms one, biases zero.

    With ``exact`` every weight is drawn whole from a seed made of its name, so that all layouts start alike (slow).
    """
    for name, parameter in chunk.named_parameters():
        name = name.replace("_checkpoint_wrapped_module.", "")
        if "norm" in name and name.endswith("weight"):
            nn.init.ones_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif exact:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            full = (torch.randn(parameter.shape, generator=generator) * 0.02).to(parameter)
            with torch.no_grad():
                if isinstance(parameter, DTensor):
                    full = distribute_tensor(full, parameter.device_mesh, parameter.placements)
                parameter.copy_(full)
        else:
            nn.init.normal_(parameter, std=0.02)


# -- the plan -------------------------------------------------------------------------------------
def tensor_parallel(chunk: Chunk, mesh, sequence_parallel: bool) -> None:
    """Split linears over the mesh; with sequence parallelism the tensors between them are split along the sequence."""
    between = Shard(1) if sequence_parallel else Replicate()
    column = {"input_layouts": Replicate()}
    for layer in chunk.layers.values():
        plan = {
            "attention.q": ColwiseParallel(**column),
            "attention.k": ColwiseParallel(**column),
            "attention.v": ColwiseParallel(**column),
            "attention.out": RowwiseParallel(output_layouts=between),
            "ffn.up": ColwiseParallel(**column),
            "ffn.gate": ColwiseParallel(**column),
            "ffn.down": RowwiseParallel(output_layouts=between),
        }
        if layer.ffn.gate is None:
            del plan["ffn.gate"]
        if sequence_parallel:
            gather = {"input_layouts": (Shard(1),), "desired_input_layouts": (Replicate(),)}
            plan |= {
                "attention_norm": SequenceParallel(use_local_output=True),
                "attention": PrepareModuleInput(**gather),
            }
            plan |= {"ffn_norm": SequenceParallel(use_local_output=True), "ffn": PrepareModuleInput(**gather)}
        parallelize_module(layer, mesh, plan)
    outer = {}
    if chunk.embedding is not None:
        outer["embedding"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=between)
    if chunk.positions is not None:
        # (length, hidden): the sequence is its first dimension
        outer["positions"] = RowwiseParallel(
            input_layouts=Replicate(), output_layouts=Shard(0) if sequence_parallel else Replicate()
        )
    if chunk.norm is not None:
        if sequence_parallel:
            outer["norm"] = SequenceParallel(use_local_output=True)
        outer["head"] = ColwiseParallel(input_layouts=between, output_layouts=Replicate())
    parallelize_module(chunk, mesh, outer)


def shard(chunk: Chunk, mesh, c: dict, recompute_left: int) -> int:
    """Recompute, then FSDP2 over (replicate, shard) ranks; returns how many layers may still be recomputed."""
    dtype = {"bf16": torch.bfloat16}.get(c["precision"], torch.float32)
    reduce = torch.bfloat16 if c["grad_dtype_bytes"] < 4 else torch.float32
    options = {
        "mesh": mesh["dp_replicate", "dp_shard"],
        "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduce),
        "offload_policy": CPUOffloadPolicy() if c["optimizer_offload"] else OffloadPolicy(),
        "reshard_after_forward": c["zero_stage"] == 3,
    }
    for name, layer in chunk.layers.items():
        if recompute_left > 0:
            chunk.layers[name] = layer = checkpoint_wrapper(layer)
            recompute_left -= 1
        fully_shard(layer, **options)
    fully_shard(chunk, **options)
    return recompute_left


def my_chunks(c: dict, rank: int) -> list[tuple[int, int, int]]:
    """(stage, first layer, last layer) of the chunks on a pipeline rank; ``stages`` lists layers by stage."""
    pp, stages = c["pp"], c["stages"]
    ends = [sum(stages[: i + 1]) for i in range(len(stages))]
    mine = []
    for turn in range(len(stages) // pp):
        back = c["v_shaped"] and turn % 2
        stage = turn * pp + (pp - 1 - rank if back else rank)
        mine.append((stage, ends[stage] - stages[stage], ends[stage]))
    return mine


def build(c: dict, mesh, device: torch.device, exact: bool) -> list[Chunk]:
    """The chunks of this rank, parallelised and initialised."""
    chunks, left = [], c["recompute_layers"] if c["recompute"] else 0
    for _, first, last in my_chunks(c, mesh["pp"].get_local_rank()):
        with torch.device("meta"):
            chunk = Chunk(c["model"], first, last)
            if c["pure_bf16"]:
                chunk = chunk.to(torch.bfloat16)
        if c["tp"] > 1:
            tensor_parallel(chunk, mesh["tp"], c["sequence_parallel"])
        left = shard(chunk, mesh, c, left)
        chunk.to_empty(device="cpu" if c["optimizer_offload"] else device)
        initialize(chunk, exact)
        chunks.append(chunk)
    return chunks


def loss_fn(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy in fp32."""
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


def make_schedule(c: dict, chunks: list[Chunk], mesh, device: torch.device):
    """The pipeline schedule over this rank's chunks."""
    group = mesh["pp"].get_group()
    total = len(c["stages"])
    stages = [
        PipelineStage(chunk, index, total, device, group=group)
        for chunk, (index, _, _) in zip(chunks, my_chunks(c, mesh["pp"].get_local_rank()))
    ]
    cls = get_schedule_class(c["schedule"])
    return cls(stages if len(stages) > 1 else stages[0], n_microbatches=c["micro_batches"], loss_fn=loss_fn), stages


def step(c: dict, chunks, schedule, stages, tokens: torch.Tensor) -> torch.Tensor | None:
    """Forward and backward of one step; the mean loss where this rank has it."""
    inputs, labels = tokens[:, :-1], tokens[:, 1:].contiguous()
    if schedule is None:
        total = 0.0
        for x, y in zip(inputs.chunk(c["micro_batches"]), labels.chunk(c["micro_batches"])):
            loss = loss_fn(chunks[0](x), y) / c["micro_batches"]
            loss.backward()
            total = total + loss.detach()
        return total
    losses: list[torch.Tensor] = []
    has_first, has_last = any(s.is_first for s in stages), any(s.is_last for s in stages)
    schedule.step(*((inputs,) if has_first else ()), target=labels if has_last else None, losses=losses)
    return torch.stack(losses).mean() if has_last else None


def train(c: dict, steps: int, mesh, device: torch.device, optimizer, run_step) -> None:
    """The loop over steps; one rank that has the loss prints it."""
    # Every rank draws the same global batch and takes its share, so the data do not depend on the layout.
    dp = c["dp_replicate"] * c["dp_shard"]
    dp_rank = mesh["dp_replicate"].get_local_rank() * c["dp_shard"] + mesh["dp_shard"].get_local_rank()
    share = c["micro_batch_size"] * c["micro_batches"]
    generator = torch.Generator().manual_seed(0)
    for i in range(steps):
        start = time.perf_counter()
        drawn = torch.randint(0, c["model"]["vocab"], (share * dp, c["seq_len"] + 1), generator=generator)
        tokens = drawn[dp_rank * share : (dp_rank + 1) * share].to(device)
        loss = run_step(tokens)
        # Pipeline schedules and the loop in step() both leave the mean over micro-batches in the gradients.
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if loss is None:
            continue
        for axis in ("dp_replicate", "dp_shard"):
            torch.distributed.all_reduce(loss, group=mesh[axis].get_group())
        if dp_rank == 0 and mesh["tp"].get_local_rank() == 0:
            value = loss.item() / dp
            seconds = time.perf_counter() - start
            memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
            print(f"step {i + 1} loss {value:.4f} seconds {seconds:.3f} memory_gib {memory:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default=str(Path(__file__).with_name("plan_config.json")))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--exact-init", action="store_true", help="the same weights for every layout (slow)")
    args = parser.parse_args()
    c = json.loads(Path(args.config).read_text())
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if c["precision"] == "tf32":
        torch.backends.cuda.matmul.allow_tf32 = True
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    sizes = (c["pp"], c["dp_replicate"], c["dp_shard"], c["tp"])
    mesh = init_device_mesh(device.type, sizes, mesh_dim_names=("pp", "dp_replicate", "dp_shard", "tp"))
    torch.manual_seed(1234 + mesh["pp"].get_local_rank())
    chunks = build(c, mesh, device, args.exact_init)
    schedule, stages = make_schedule(c, chunks, mesh, device) if c["pp"] > 1 else (None, [])
    parameters = [p for chunk in chunks for p in chunk.parameters()]
    # Without sequence parallelism the norms live on a smaller mesh, which the fused loops do not accept.
    foreach = c["tp"] == 1 or c["sequence_parallel"]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.1, foreach=foreach)
    train(c, args.steps, mesh, device, optimizer, lambda tokens: step(c, chunks, schedule, stages, tokens))
    torch.distributed.barrier()  # nobody leaves while a neighbour still talks
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
