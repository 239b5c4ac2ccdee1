"""Asks Megatron-LM's own argument parser about launches. Runs in a process of its own (see the test beside it).

Usage: ``python megatron_verdicts.py UNPACKED_WHEEL < requests``. A request is one JSON line with ``argv``,
``world_size``, ``env`` and ``major`` (compute capability); the answer is one JSON line with ``error`` ("" if
accepted) and a few resolved values. Needs torch (the CPU build will do) and triton, no GPU.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import typing


def _load(path: str) -> tuple[typing.Any, typing.Any]:
    if not hasattr(typing, "override"):  # the wheel is built for Python 3.12
        from typing_extensions import override

        typing.override = override  # type: ignore[attr-defined]
    sys.path.insert(0, path)
    import torch
    from megatron.training import arguments
    from megatron.training.argument_utils import core_transformer_config_from_args

    torch.cuda.get_device_capability = lambda *_: (9, 0)  # no GPU here; only its generation is asked for
    _pretend_transformer_engine()
    return arguments, core_transformer_config_from_args


def _pretend_transformer_engine() -> None:
    """The parser asks for Transformer Engine's version and fused kernels; answer as a current one would."""
    from megatron.core.models.common.embeddings import rope_utils
    from megatron.core.transformer.moe import moe_utils

    rope_utils.fused_apply_rotary_pos_emb = rope_utils.fused_apply_rotary_pos_emb or print
    for name in (
        "permute",
        "permute_with_probs",
        "sort_chunks_by_index",
        "sort_chunks_by_index_with_probs",
        "unpermute",
    ):
        setattr(moe_utils, f"fused_{name}", getattr(moe_utils, f"fused_{name}") or print)
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.") and hasattr(module, "is_te_min_version"):
            module.is_te_min_version = lambda *_, **__: True


def verdict(arguments: typing.Any, config_from_args: typing.Any, request: dict[str, typing.Any]) -> dict[str, object]:
    os.environ["WORLD_SIZE"], os.environ["RANK"] = str(request["world_size"]), "0"
    for name, value in request["env"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    arguments.get_device_arch_version = lambda: request["major"]
    sys.argv = ["pretrain_gpt.py", *request["argv"]]
    noise = io.StringIO()
    try:
        with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            args = arguments.parse_args()
            args = arguments.validate_args(args, {})
            config_cls = {}
            if args.multi_latent_attention:
                from megatron.core.transformer.transformer_config import MLATransformerConfig

                config_cls = {"config_class": MLATransformerConfig}
            config = config_from_args(args, **config_cls)
    except SystemExit:
        return {"error": "argparse: " + noise.getvalue().strip().splitlines()[-1]}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "error": "",
        "dp": args.data_parallel_size,
        "vp": config.virtual_pipeline_model_parallel_size or 1,
        "layers": config.num_layers,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_query_groups,
        "sequence_parallel": bool(config.sequence_parallel),
        "experts": config.num_moe_experts or 0,
    }


def main() -> None:
    out = sys.stdout
    sys.stdout = sys.stderr  # imports talk
    tools = _load(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(verdict(*tools, json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
