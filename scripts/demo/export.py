"""Export of the trained network as a Hugging Face CodeGen checkpoint, verified with transformers."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from demo.network import Block, DemoModel, Geometry
from demo.tokenizer import EOS, N_ROWS, token_id

MP_NUM = 4  # CodeGen stores qkv in four blocks of [q | v | k] (transformers, modeling_codegen.py)


def fuse_qkv(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Fuse q, k and v, (D, D) each, into CodeGen's (3·D, D): four blocks of rows [q | v | k]."""
    return torch.cat(
        [part for trio in zip(*(t.chunk(MP_NUM) for t in (q, v, k)), strict=True) for part in trio]
    )


def load_checkpoint(folder: Path) -> DemoModel:
    """Return the network of a checkpoint that `export` wrote."""
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text("utf-8"))
    model = DemoModel(Geometry(**{f.name: config[f.name] for f in fields(Geometry)}))
    state = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        short = name.removeprefix("transformer.").replace(".attn.", ".").replace(".mlp.", ".")
        if short.endswith("qkv_proj.weight"):
            trios = zip(*(block.chunk(3) for block in weight.chunk(MP_NUM)), strict=True)
            for letter, blocks in zip("qvk", trios, strict=True):
                state[short.replace("qkv", letter)] = torch.cat(blocks)
        else:
            state[short] = weight
    model.load_state_dict({name: weight.float() for name, weight in state.items()})
    return model


def export(model: DemoModel, tokenizer: Tokenizer, out: Path) -> None:
    """Write a Hugging Face CodeGen checkpoint in F16 and check that transformers computes the same logits."""
    from transformers import AutoModelForCausalLM, CodeGenConfig, CodeGenForCausalLM

    g = model.g
    eos = token_id(tokenizer, EOS)
    config = CodeGenConfig(
        vocab_size=N_ROWS, n_positions=g.n_positions, n_ctx=g.n_positions, n_embd=g.n_embd, n_layer=g.n_layer,
        n_head=g.n_head, rotary_dim=g.rotary_dim, bos_token_id=eos, eos_token_id=eos, n_inner=None,
        architectures=["CodeGenForCausalLM"], tokenizer_class="GPT2TokenizerFast", dtype="float16",
        fim_order="spm",  # in which it completes better, see the card
    )  # fmt: skip
    state: dict[str, Tensor] = {
        "transformer.wte.weight": model.wte.weight,
        "transformer.ln_f.weight": model.ln_f.weight,
        "transformer.ln_f.bias": model.ln_f.bias,
        "lm_head.weight": model.lm_head.weight,
        "lm_head.bias": model.lm_head.bias,
    }
    for i, block in enumerate(model.h):
        assert isinstance(block, Block)
        at = f"transformer.h.{i}."
        state[at + "attn.qkv_proj.weight"] = fuse_qkv(
            block.q_proj.weight, block.k_proj.weight, block.v_proj.weight
        )
        state[at + "attn.out_proj.weight"] = block.out_proj.weight
        for name in ("ln_1", "fc_in", "fc_out"):
            module = getattr(block, name)
            prefix = at + ("mlp." if name.startswith("fc") else "") + name
            state[prefix + ".weight"], state[prefix + ".bias"] = module.weight, module.bias
    state = {k: v.detach().to(torch.float16).contiguous() for k, v in state.items()}

    codegen = CodeGenForCausalLM(config).to(torch.float16)
    missing, unexpected = codegen.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise SystemExit(f"export: missing {missing}, unexpected {unexpected}")
    out.mkdir(parents=True, exist_ok=True)
    codegen.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    # CodeGen's tokenizer class, for the files that Salesforce ships in addition to tokenizer.json
    names = {"bos_token": EOS, "eos_token": EOS, "unk_token": EOS}
    settings = {
        **names,
        "add_prefix_space": False,
        "model_max_length": g.n_positions,
        "tokenizer_class": "CodeGenTokenizer",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (out / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")

    reloaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    ids = torch.randint(0, N_ROWS, (1, 200), generator=torch.Generator().manual_seed(1))
    halved = DemoModel(g)
    halved.load_state_dict({k: v.to(torch.float16).float() for k, v in model.state_dict().items()})
    with torch.no_grad():
        gap = float((reloaded(ids).logits - halved(ids)).abs().max())
    if gap > 1e-3:
        raise SystemExit(f"export: transformers' logits differ from the trained network's by {gap}")
    print(
        f"exported {sum(p.numel() for p in model.parameters()):,} weights to {out}; max |Δlogit| {gap:.1e}"
    )
