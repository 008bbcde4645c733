"""Writes decoder checkpoints under tests/fixtures with reference outputs of Hugging Face transformers.

    python -m venv VENV && . VENV/bin/activate
    pip install torch==2.15.0 transformers==5.23.0 tokenizers safetensors numpy
    python tests/scripts/make_decoder_fixtures.py [NAME ...]

The files were made with Python 3.11, torch 2.15.0 (on the CPU), transformers 5.23.0, and the versions of
tokenizers and safetensors that reference.json names. Weights are random numbers of a fixed seed. Tokenizers are those of
other fixtures. Each folder has the layout in which its family is published.
See tests/fixtures/README.md for what each holds. Tests read the files only; they never need Python.
"""

import json
import shutil
import sys
from pathlib import Path

import safetensors
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
PROMPT = (
    "The borrow checker looks at every reference and at the place it points to. A `Vec<T>` owns its values, so a slice of "
    "it must not outlive the vector; the compiler says where each of them ends."
)
TOKENS = 37
NEW = 24


def randomize(model, generator):
    """Weights so random that any mistake shows: no bias zero, no gain one, attention far from uniform."""
    one_plus = "gemma" in model.config.model_type
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "embed" in name or "lm_head" in name:
                # Gemma multiplies its tied embedding, which would drown the layers.
                parameter.copy_((0.12 if one_plus else 0.4) * noise)
            elif one_plus and name == "model.norm.weight":
                parameter.copy_(0.2 * noise + 2.0)
            elif parameter.dim() == 1:
                gain = name.endswith("norm.weight") or "layernorm.weight" in name or "layer_norm.weight" in name
                parameter.copy_(0.2 * noise + (1.0 if gain and not one_plus else 0.0))
            else:
                sharp = any(part in name for part in ("q_proj", "k_proj", "query_key_value"))
                parameter.copy_((1.5 if sharp else 1.0) * parameter.shape[1] ** -0.5 * noise)


def neox_names(tensors):
    """GPT-NeoX as published: causal masks and frequencies are stored, and the head is called embed_out."""
    tensors = {name.replace("lm_head.", "embed_out."): tensor for name, tensor in tensors.items()}
    for layer in range(3):
        prefix = f"gpt_neox.layers.{layer}.attention."
        tensors[prefix + "bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
        tensors[prefix + "masked_bias"] = torch.tensor(-1e9)
        tensors[prefix + "rotary_emb.inv_freq"] = torch.full((2,), 0.5)
    return tensors


def llama_names(tensors):
    """Llama as early conversions have it: frequencies are stored."""
    frequencies = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.full((10,), 0.5) for i in range(3)}
    return tensors | frequencies


def fixtures():
    """name -> (class, config, names in the file, stored type, whose tokenizer)."""
    full, sliding = "full_attention", "sliding_attention"
    return {
        # The spelling of transformers 5.
        "gemma3": (
            "Gemma3ForCausalLM",
            dict(
                vocab_size=640, hidden_size=60, intermediate_size=132, num_hidden_layers=7, num_attention_heads=4,
                num_key_value_heads=2, head_dim=18, hidden_activation="gelu_pytorch_tanh", max_position_embeddings=1024,
                rms_norm_eps=1e-6, query_pre_attn_scalar=20, sliding_window=9, attention_bias=False,
                tie_word_embeddings=True, bos_token_id=2, eos_token_id=[1, 638], pad_token_id=0,
                layer_types=[sliding] * 5 + [full, sliding],
                rope_parameters={
                    full: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                    sliding: {"rope_type": "default", "rope_theta": 10000.0},
                },
            ),
            dict, torch.bfloat16, "gemma2",
        ),
        "gpt_neox": (
            "GPTNeoXForCausalLM",
            dict(
                vocab_size=520, hidden_size=54, intermediate_size=130, num_hidden_layers=3, num_attention_heads=3,
                hidden_act="gelu", max_position_embeddings=64, layer_norm_eps=1e-5, rotary_pct=0.25,
                rotary_emb_base=10000, use_parallel_residual=True, tie_word_embeddings=False, bos_token_id=511,
                eos_token_id=511,
            ),
            neox_names, torch.float16, "gpt2",
        ),
        # The spelling of transformers 4.
        "llama-yarn": (
            "LlamaForCausalLM",
            dict(
                vocab_size=517, hidden_size=70, intermediate_size=147, num_hidden_layers=3, num_attention_heads=5,
                num_key_value_heads=1, head_dim=20, hidden_act="silu", max_position_embeddings=256, rms_norm_eps=1e-5,
                rope_theta=10000.0, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
                rope_scaling={
                    "type": "yarn", "factor": 16.0, "original_max_position_embeddings": 16, "beta_fast": 4.0,
                    "beta_slow": 0.5,
                },
                bos_token_id=506, eos_token_id=507,
            ),
            llama_names, torch.bfloat16, "llama",
        ),
    }


def make(name, seed, class_name, config, published, stored, tokenizer):
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    model_class = getattr(transformers, class_name)
    # A class changes what it is given.
    given = json.loads(json.dumps(config))
    model = model_class._from_config(model_class.config_class(**given), attn_implementation="eager")
    randomize(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():  # the reference sees the weights as stored, but frequencies in fp32
            parameter.copy_(parameter.to(stored))
    model.eval()

    model.save_pretrained(folder / "saved")  # the names in a file differ from those in memory
    tensors = {k: v.to(stored).contiguous() for k, v in load_file(folder / "saved" / "model.safetensors").items()}
    shutil.rmtree(folder / "saved")
    save_file(published(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    dtype = str(stored).removeprefix("torch.")
    new_style = "rope_parameters" in config
    written = {"architectures": [class_name], "model_type": model.config.model_type} | config
    written |= {"dtype" if new_style else "torch_dtype": dtype}
    written |= {"transformers_version": "5.23.0" if new_style else "4.44.0"}
    (folder / "config.json").write_text(json.dumps(dict(sorted(written.items())), indent=2) + "\n")
    ids = {field: config[field] for field in ("bos_token_id", "eos_token_id")}
    (folder / "generation_config.json").write_text(json.dumps({"_from_model_config": True} | ids, indent=2) + "\n")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(FIXTURES / tokenizer / file, folder / file)

    prompt = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(PROMPT).ids[:TOKENS]
    assert len(prompt) == TOKENS
    ids, rows = torch.tensor([prompt]), []
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0]
        for _ in range(NEW):
            rows.append(model(input_ids=ids, use_cache=False).logits[0, -1])
            ids = torch.cat([ids, rows[-1].argmax().reshape(1, 1)], dim=1)
    greedy = ids[0, TOKENS:]
    gaps = [(row.topk(2).values[0] - row.topk(2).values[1]).item() for row in rows]
    save_file(
        {
            "input_ids": ids[:, :TOKENS].contiguous(),
            "logits": logits.contiguous(),
            "greedy_ids": greedy.contiguous(),
            "greedy_logits": torch.stack(rows),
        },
        folder / "reference.safetensors",
    )
    reference = {
        "class": class_name,
        "seed": seed,
        "stored": dtype,
        "parameters": sum(p.numel() for p in model.parameters()),
        "prompt": PROMPT,
        "input_ids": prompt,
        "greedy_ids": greedy.tolist(),
        "min_gap": round(min(gaps), 5),
        "logits_absmax": round(logits.abs().max().item(), 4),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, tokenizers, safetensors)},
    }
    (folder / "reference.json").write_text(json.dumps(reference, indent=1, ensure_ascii=False) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: {size // 1024} KB, {len(set(greedy.tolist()))} distinct new tokens, {reference}")
    assert size < 1_000_000 and min(gaps) > 0.02, name


def main():
    torch.set_num_threads(1)
    chosen = sys.argv[1:]
    for seed, (name, arguments) in enumerate(fixtures().items(), start=8001):
        if not chosen or name in chosen:
            make(name, seed, *arguments)


if __name__ == "__main__":
    main()
