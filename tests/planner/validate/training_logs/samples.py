"""Short logs in the spellings that the readers' docstrings cite; figures are made up."""

# ruff: noqa: E501 (lines of logs are long)
from __future__ import annotations

from collections.abc import Mapping

MEGATRON_ARGUMENTS: dict[str, object] = {
    "accumulate_allreduce_grads_in_fp32": True, "add_bias_linear": False, "attention_dropout": 0.0, "bf16": True,
    "context_parallel_size": 1, "cp_comm_type": ["p2p"], "exp_avg_dtype": "torch.float32", "ffn_hidden_size": 14336,
    "fp8": None, "global_batch_size": 64, "group_query_attention": True, "hidden_dropout": 0.0, "hidden_size": 4096,
    "max_position_embeddings": 4096, "micro_batch_size": 1, "normalization": "RMSNorm", "num_attention_heads": 32,
    "num_experts": None, "num_layers": 32, "num_layers_per_virtual_pipeline_stage": None, "num_query_groups": 8,
    "overlap_grad_reduce": True, "overlap_param_gather": True, "padded_vocab_size": 128256,
    "pipeline_model_parallel_size": 2, "position_embedding_type": "rope", "recompute_granularity": "full",
    "recompute_method": "block", "recompute_num_layers": 4, "seq_length": 4096, "sequence_parallel": True,
    "swiglu": True, "tensor_model_parallel_size": 2, "untie_embeddings_and_output_weights": True,
    "use_distributed_optimizer": True, "virtual_pipeline_model_parallel_size": None, "world_size": 16,
    "zero_stage": 1.0,
}  # fmt: skip


def arguments(changes: Mapping[str, object] | None = None, prefix: str = "") -> str:
    """A dump of arguments as Megatron-LM prints it, dots up to column 49."""
    values = {**MEGATRON_ARGUMENTS, **(changes or {})}
    lines = ["------------------------ arguments ------------------------"]
    lines += [f"  {name} {'.' * max(3, 48 - len(name))} {value}" for name, value in sorted(values.items())]
    lines += ["-------------------- end of arguments ---------------------"]
    return "\n".join(prefix + line for line in lines) + "\n"


def times(settled: float, n: int = 20) -> list[float]:
    """Step times: two slow ones, then calm ones, one hiccup."""
    out = [8.0 * settled, 1.6 * settled] + [settled * (1.0 + 0.004 * ((7 * i) % 5 - 2)) for i in range(n - 2)]
    out[n // 2 + 1] = 4.0 * settled
    return out


def megatron_now(step_s: float = 2.0, batch: int = 64, prefix: str = "", first: int = 1) -> str:
    """Iteration lines since 2024, with time stamps and throughput."""
    return "".join(
        f"{prefix} [2025-08-01 07:19:{i:02d}.123456] iteration {i:8d}/    5000 | consumed samples: {i * batch:12d} | "
        f"elapsed time per iteration (ms): {t * 1e3:.1f} | throughput per GPU (TFLOP/s/GPU): 80.2 | "
        f"learning rate: 6.976744E-08 | global batch size: {batch:5d} | lm loss: 1.043863E+01 | loss scale: 1.0 | "
        "grad norm: 26.203 | number of skipped iterations:   0 | number of nan iterations:   0 |\n"
        for i, t in enumerate(times(step_s), first)
    )


def megatron_2021(step_s: float = 2.0, batch: int = 64) -> str:
    """Lines without time stamps, one for every ten steps."""
    return "".join(
        f" iteration {10 * i:8d}/ 1000000 | consumed samples: {10 * i * batch:12d} | elapsed time per iteration (ms): "
        f"{t * 1e3:.1f} | learning rate: 2.020E-08 | global batch size: {batch:5d} | lm loss: 1.005022E+01 |\n"
        "time (ms) | forward-compute: 193.77 | backward-compute: 73.02 | optimizer: 63.01 | batch-generator: 25.27\n"
        for i, t in enumerate(times(step_s), 1)
    )


def neox(step_s: float = 4.0) -> str:
    """GPT-NeoX on DeepSpeed."""
    return "".join(
        f"[2023-07-25 21:03:{i:02d},269] [INFO] [timer.py:215:stop] epoch=0/micro_step={i}/global_step={i}, "
        f"RunningAvgSamplesPerSec=7.86, CurrSamplesPerSec={32 / t:.4f}, MemAllocated=59.65GB, MaxMemAllocated=63.31GB\n"
        f" samples/sec: {32 / t:.3f} | iteration {i:8d}/   10000 | elapsed time per iteration (ms): {t * 1e3:.1f} | "
        "learning rate: 2.111E-06 | approx flops per GPU: 112.9TFLOPS | lm_loss: 1.118665E+01 | number of skipped "
        "iterations:   0 | number of nan iterations:   0 |\n"
        for i, t in enumerate(times(step_s), 1)
    )


def alcf(step_s: float = 17.0) -> str:
    """Argonne's Megatron-DeepSpeed writes ``name=value``."""
    return "".join(
        f"[2024-04-21 02:45:{i:02d}][INFO][training:1251] -  iteration={i:8d}/  317892 | consumed_samples= {256 * i:11d} "
        f"| elapsed_time_per_iteration_ms={t * 1e3:.1f} | learning_rate=0.000000 | global_batch_size=  256 | "
        "lm loss=11.208768 | loss_scale=65536.0 |\n"
        for i, t in enumerate(times(step_s), 1)
    )


def titan(tps: float = 7000.0, word: str = "tps", head: str = "", colours: bool = True, tail: bool = True) -> str:
    """Step lines of TorchTitan; ``wps`` and neither ``tflops`` nor ``grad_norm`` is the spelling of 2024."""
    red, end = ("\x1b[31m", "\x1b[39m") if colours else ("", "")
    lines = [head]
    for i, t in enumerate(times(1.0), 1):
        more = f"  {red}tflops: 314.71  mfu: 13.99%{end}" if tail else ""
        lines.append(
            f"[rank0]:[titan] 2025-11-25 19:45:{i:02d},441 - root - INFO - {red}step: {i:2d}  {end}loss:  8.0277  "
            f"{red}memory: {20 + i * 0.1:5.2f}GiB(25.00%)  {end}{word}: {round(tps / t):,}{more}\n"
        )
    lines.append(
        "[rank0]:[titan] 2025-11-25 19:46:00 - root - INFO - validate step: 20  loss: 4.0  "
        "memory: 70.00GiB(88.00%)  tps: 1\n"
    )
    return "".join(lines)


TITAN_2025 = """\
[rank0]:[titan] 2025-11-25 19:44:51,437 - root - INFO - Starting job: Llama 3 8B training
[rank0]:[titan] 2025-11-25 19:44:52,612 - root - INFO - Building device mesh with parallelism: pp=1, dp_replicate=2, dp_shard=4, cp=1, tp=2, ep=1, etp=1
[rank0]:[titan] 2025-11-25 19:44:58,277 - root - INFO - Building llama3 8B with TransformerModelArgs(_enforced='x', dim=4096, n_layers=32, n_heads=32, n_kv_heads=8, vocab_size=128256, multiple_of=1024, ffn_dim_multiplier=1.3, norm_eps=1e-05, max_seq_len=8192)
[rank0]:[titan] 2025-11-25 19:44:58,300 - root - INFO - CUDA capacity: NVIDIA H100 80GB HBM3 with 79.10GiB memory
[rank0]:[titan] 2025-11-25 19:44:58,595 - root - INFO - Applied full activation checkpointing to the model
[rank0]:[titan] 2025-11-25 19:44:58,600 - root - INFO - Compiling each TransformerBlock with torch.compile
[rank0]:[titan] 2025-11-25 19:44:58,838 - root - INFO - Trainer is initialized with local batch size 2, global batch size 32, gradient accumulation steps 2, sequence length 8192, total steps 1000 (warmup 200)
"""

TITAN_2024 = """\
[rank0]:2024-03-27 14:30:01,182 - root - INFO - Building 2-D device mesh with ['dp', 'tp'], [4, 2]
[rank0]:2024-03-27 14:30:02,807 - root - INFO - Building llama debugmodel with ModelArgs(dim=2048, n_layers=12, n_heads=16, n_kv_heads=None, vocab_size=32000, multiple_of=256, ffn_dim_multiplier=None, max_seq_len=2048)
"""


def deepspeed(spelling: str = "now", rate: float = 8.0) -> str:
    """Throughput lines: now, without the current rate (2022), or only the wall-clock breakdown (``clock``)."""
    lines = []
    for i, t in enumerate(times(1.0), 1):
        head = f"[2024-07-17 19:53:{i:02d},981] [INFO] "
        if spelling == "now":
            lines.append(
                f"{head}[timer.py:258:stop] epoch=0/micro_step={4 * i}/global_step={i}, RunningAvgSamplesPerSec=3.1, "
                f"CurrSamplesPerSec={rate / t}, MemAllocated=10.02GB, MaxMemAllocated={30 + 0.1 * i:.2f}GB\n"
            )
        elif spelling == "2022":
            lines.append(
                f"{head}[timer.py:189:stop] 0/{i}, SamplesPerSec={rate / t}, MemAllocated=0.26GB, "
                "MaxMemAllocated=9.02GB\n"
            )
        else:
            lines.append(
                f"{head}[logging.py:96:log_dist] [Rank 0] rank=0 time (ms) | forward_microstep: 1.00 | "
                "step_microstep: 1.00\n"
                f"{head}[logging.py:96:log_dist] [Rank 0] rank=0 time (ms) | {spelling[:-1]}: {200 * t} | "
                f"{'backward' if spelling == 'forward.' else 'bwd'}: {500 * t} | backward_inner: 480.0 | step: {300 * t}\n"
            )
    return "".join(lines)


DEEPSPEED_CONFIG = """\
[2024-07-17 19:50:00,823] [INFO] [config.py:957:print]   gradient_accumulation_steps .. 4
[2024-07-17 19:50:00,824] [INFO] [config.py:957:print]   train_batch_size ............. 64
[2024-07-17 19:50:00,824] [INFO] [config.py:957:print]   train_micro_batch_size_per_gpu  2
[2024-07-17 19:50:00,824] [INFO] [config.py:957:print]   world_size ................... 8
[2024-07-17 19:50:00,824] [INFO] [config.py:957:print]   zero_optimization_stage ...... 3
[2024-07-17 19:50:00,900] [INFO] [config.py:943:print_user_config]   json = {
    "train_batch_size": 64,
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 4,
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {"device": "cpu"}
    },
    "bf16": {"enabled": true},
    "fp16": {"enabled": false}
}
"""


def nemo_1(step_s: float = 3.0, batch: int = 256) -> str:
    """A progress bar that overwrites itself; every step is drawn twice."""
    out = []
    for i, t in enumerate(times(step_s)):
        bar = f"Epoch 0: :  {i}%|█         | {i}/100 [06:19<07:13, v_num=, reduced_train_loss=11.50, "
        bar += f"global_step={i:.3f}, consumed_samples={float(batch * (i + 1))}, train_step_timing in s={t:.3f}]"
        out += [bar, bar]
    return "\r".join(out) + "\n"


def nemo_2(step_s: float = 3.0, batch: int = 128) -> str:
    """One line for each step."""
    return "".join(
        f"Training epoch 0, iteration {i}/149 | lr: 3e-05 | consumed_samples: {batch * i} | global_batch_size: {batch} "
        f"| global_step: {i} | reduced_train_loss: 1.233 | train_step_timing in s: {t:.4}\n"
        for i, t in enumerate(times(step_s))
    )


NEMO_CONFIG = """\
    trainer:
      devices: 8
      num_nodes: 2
      precision: bf16
    model:
      micro_batch_size: 1
      tensor_model_parallel_size: 4
      pipeline_model_parallel_size: 1
      virtual_pipeline_model_parallel_size: null
      encoder_seq_length: 4096
      num_layers: 32
      hidden_size: 4096
      num_attention_heads: 32
      sequence_parallel: true
      activations_checkpoint_granularity: selective
"""


def bridge(step_s: float = 14.0, iterations: bool = True) -> str:
    """Megatron-Bridge: its own line, and with it Megatron-LM's."""
    out = []
    for i, t in enumerate(times(step_s), 1):
        out.append(f"Step Time : {t:.2f}s GPU utilization: 58.2MODEL_TFLOP/s/GPU\n")
        if iterations:
            out.append(
                f" [2025-10-02 22:52:{i:02d}] iteration {i:8d}/      50 | consumed samples: {512 * i:12d} | elapsed time "
                f"per iteration (ms): {t * 1e3:.1f} | learning rate: 3.0E-04 | global batch size:   512 |\n"
            )
    out.append(
        "[Rank 0] (after 10 iterations) memory (MB) | allocated: 11908.05 | max allocated: 12712.43 | reserved: 12954.0 "
        "| max reserved: 12954.0\n"
    )
    return "".join(out)
