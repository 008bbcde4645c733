"""Writes the encoder checkpoints under tests/fixtures with reference outputs of Hugging Face transformers.

    python -m venv VENV && . VENV/bin/activate
    pip install torch==2.15.0 transformers==5.23.0 tokenizers safetensors numpy
    python tests/scripts/make_encoder_fixtures.py [NAME ...]

The files were made with Python 3.11, torch 2.15.0 (on the CPU), transformers 5.23.0, and the versions of
tokenizers and safetensors that reference.json names. Weights are random numbers of a fixed seed; nothing was
trained except the small tokenizers, on TEXT below. Each folder has the layout in which its family is published.
See tests/fixtures/README.md for what each holds. Tests read the files only; they never need Python.
"""

import json
import math
import shutil
import sys
from collections import Counter
from pathlib import Path

import safetensors
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"

TEXT = """\
A loom holds the warp under tension while the weft is drawn through it, over one thread and under the next.
The pattern of a cloth is decided before the first thread is thrown: which shafts rise, in which order, how often.
Weavers in many countries used punched cards long before anybody thought of computing with them.
A good compiler works in the same way. It reads the whole pattern first, looks for what repeats, and only then
decides how the threads are carried. What runs afterwards is simple, quick, and always the same.
Numbers such as 3.14159, 2,048 or -17 appear in the text, and so do names like `Vec<T>` and functions such as main().
The café on the corner serves naïve questions with über-strong coffee; the señor at the next table reads in silence.
Threads can be wool, linen, cotton or silk. Wool is warm, linen is strong, cotton is cheap and silk shines.
When a thread breaks, the weaver ties a knot behind the cloth, where nobody looks, and goes on with the next row.
Errors should be found early, named clearly, and repaired where they were made rather than where they show.
"""

BATCH = [
    "When a thread breaks, the weaver ties a knot behind the cloth and goes on.",
    "A short one.",
    "The `Vec<T>` type keeps its values next to each other in memory; café naïve über.",
]

TOKENS = 37


def byte_level(vocab, special, template):
    """A byte-level BPE tokenizer as GPT-2, RoBERTa and ModernBERT have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    first, last = template
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(first, tokenizer.token_to_id(first)), (last, tokenizer.token_to_id(last))],
    )
    return tokenizer


def unigram(vocab):
    """A Unigram tokenizer with the special tokens of XLM-R in their places.

    The library's trainer does not give the same pieces twice, so they are chosen here: all characters, and the
    substrings that save most when the text is written with them.
    """
    counts = Counter()
    for word in TEXT.split():
        word = "\u2581" + word
        for begin in range(len(word)):
            counts.update(word[begin:end] for end in range(begin + 1, min(begin + 6, len(word)) + 1))
    pieces = sorted(counts, key=lambda piece: (len(piece) > 1, -counts[piece] * (len(piece) - 1), piece))
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    total = sum(counts.values())
    scores = [(piece, math.log(counts[piece] / total)) for piece in pieces[: vocab - 1 - len(special)]]
    tokenizer = Tokenizer(models.Unigram([(token, 0.0) for token in special] + scores, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(special)
    tokenizer.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def wordpiece(vocab):
    """The tokenizer of the bert fixture, cut to `vocab` entries, without truncation and padding."""
    data = json.loads((FIXTURES / "bert" / "tokenizer.json").read_text())
    data["truncation"] = data["padding"] = None
    data["model"]["vocab"] = {token: i for token, i in data["model"]["vocab"].items() if i < vocab}
    return Tokenizer.from_str(json.dumps(data))


def randomize(model, generator):
    """Weights so random that any mistake shows: no bias zero, no gain one, attention far from uniform."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if ("embeddings" in name or name.endswith("decoder.weight")) and parameter.dim() == 2:
                parameter.copy_(0.5 * noise)
            elif parameter.dim() == 1:
                gain = name.endswith("weight")
                parameter.copy_(0.15 * noise + (1.0 if gain else 0.0))
            else:
                sharp = any(part in name for part in ("query", "key", "q_lin", "k_lin", "Wqkv"))
                parameter.copy_((1.3 if sharp else 1.0) * parameter.shape[1] ** -0.5 * noise)


def bert_names(tensors):
    """BERT as Google's checkpoint was converted: gamma and beta, with pooler and next-sentence head."""
    hidden = tensors["bert.embeddings.LayerNorm.weight"].shape[0]
    renamed = {}
    for name, tensor in tensors.items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        renamed[name] = tensor
    renamed["bert.pooler.dense.weight"] = torch.full((hidden, hidden), 0.5)
    renamed["bert.pooler.dense.bias"] = torch.zeros(hidden)
    renamed["cls.seq_relationship.weight"] = torch.full((2, hidden), 0.5)
    renamed["cls.seq_relationship.bias"] = torch.zeros(2)
    return renamed


def roberta_names(tensors):
    """RoBERTa as published: the head's decoder is not stored, the position ids are."""
    positions = tensors["roberta.embeddings.position_embeddings.weight"].shape[0]
    return tensors | {"roberta.embeddings.position_ids": torch.arange(positions)[None]}


def xlm_roberta_names(tensors):
    """XLM-R with a pooler, and with the head's tied weight and bias stored a second time."""
    hidden = tensors["roberta.embeddings.LayerNorm.weight"].shape[0]
    return tensors | {
        "lm_head.decoder.weight": tensors["roberta.embeddings.word_embeddings.weight"].clone(),
        "lm_head.decoder.bias": tensors["lm_head.bias"].clone(),
        "roberta.pooler.dense.weight": torch.full((hidden, hidden), 0.5, dtype=tensors["lm_head.bias"].dtype),
        "roberta.pooler.dense.bias": torch.zeros(hidden, dtype=tensors["lm_head.bias"].dtype),
    }


ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
MODERN_SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


def fixtures():
    """name -> (class, config of the class, config.json of the folder, names, stored type, shards, tokenizer)."""
    common = dict(bos_token_id=0, eos_token_id=2, pad_token_id=1)
    bert = dict(
        hidden_size=60, num_attention_heads=3, num_hidden_layers=2, intermediate_size=124, vocab_size=509,
        max_position_embeddings=64, type_vocab_size=2, layer_norm_eps=1e-12, hidden_act="gelu", pad_token_id=0,
    )
    roberta = dict(
        hidden_size=72, num_attention_heads=4, num_hidden_layers=2, intermediate_size=150, vocab_size=485,
        max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5, hidden_act="gelu", **common,
    )
    xlm_roberta = dict(
        hidden_size=64, num_attention_heads=2, num_hidden_layers=2, intermediate_size=136, vocab_size=301,
        max_position_embeddings=130, type_vocab_size=1, layer_norm_eps=1e-5, hidden_act="gelu", **common,
    )
    distilbert = dict(
        dim=60, n_heads=5, n_layers=3, hidden_dim=124, vocab_size=509, max_position_embeddings=64,
        activation="gelu", sinusoidal_pos_embds=False, tie_weights_=True, pad_token_id=0,
    )
    modernbert = dict(
        hidden_size=64, num_attention_heads=4, num_hidden_layers=5, intermediate_size=90, vocab_size=485,
        max_position_embeddings=128, norm_eps=1e-5, local_attention=16, hidden_activation="gelu",
        classifier_activation="gelu", pad_token_id=3, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2,
    )
    # The published config has the spelling of transformers 4; the class gets it as keyword arguments and reads it too.
    modernbert_v4 = modernbert | dict(
        global_attn_every_n_layers=3, global_rope_theta=160000.0, local_rope_theta=10000.0, attention_bias=False,
        mlp_bias=False, norm_bias=False, decoder_bias=True, classifier_bias=False,
    )
    return {
        "bert-mlm": ("BertForMaskedLM", bert, bert_names, torch.float32, 1, wordpiece(509)),
        "roberta": (
            "RobertaForMaskedLM", roberta, roberta_names, torch.float32, 1,
            byte_level(480, ROBERTA_SPECIAL, ("<s>", "</s>")),
        ),
        "xlm-roberta": ("XLMRobertaForMaskedLM", xlm_roberta, xlm_roberta_names, torch.bfloat16, 2, unigram(300)),
        "distilbert": ("DistilBertForMaskedLM", distilbert, dict, torch.float16, 1, wordpiece(509)),
        "modernbert": (
            "ModernBertForMaskedLM", modernbert_v4, dict, torch.float32, 1,
            byte_level(480, MODERN_SPECIAL, ("[CLS]", "[SEP]")),
        ),
    }


def write_weights(folder, tensors, shards):
    """One model.safetensors, or several with an index."""
    tensors = {name: tensor.contiguous() for name, tensor in sorted(tensors.items())}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= {name: file for name in part}
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def outputs(model, ids, mask=None):
    """Last hidden state and logits in fp32 with eager attention."""
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        base = getattr(model, model.base_model_prefix)
        hidden = base(input_ids=ids, attention_mask=mask).last_hidden_state
    return out, hidden


def make(name, seed, class_name, config, published, stored, shards, tokenizer):
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    model_class = getattr(transformers, class_name)
    model = model_class._from_config(model_class.config_class(**config), attn_implementation="eager")
    randomize(model, torch.Generator().manual_seed(seed))
    model = model.to(stored).to(torch.float32).eval()  # the reference sees the weights as stored

    model.save_pretrained(folder / "saved")  # the names in a file differ from those in memory
    tensors = {k: v.to(stored) for k, v in load_file(folder / "saved" / "model.safetensors").items()}
    shutil.rmtree(folder / "saved")
    write_weights(folder, published(tensors), shards)
    dtype = str(stored).removeprefix("torch.")
    written = {"architectures": [class_name], "model_type": model.config.model_type} | config
    written |= {"torch_dtype": dtype, "transformers_version": "4.48.0"}
    (folder / "config.json").write_text(json.dumps(dict(sorted(written.items())), indent=2) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))

    ids = tokenizer.encode(TEXT.splitlines()[0] + " " + TEXT.splitlines()[1]).ids
    ids = torch.tensor([ids[: TOKENS - 1] + ids[-1:]])
    assert ids.shape == (1, TOKENS) and ids.max() < config["vocab_size"]
    pad = config["pad_token_id"]
    rows = [tokenizer.encode(text).ids for text in BATCH]
    longest = max(map(len, rows))
    batch = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])

    out, hidden = outputs(model, ids)
    batch_out, batch_hidden = outputs(model, batch, mask)
    batch_hidden = batch_hidden * mask[..., None]
    pooled = batch_hidden.sum(1) / mask.sum(1, keepdim=True)
    for row, length in enumerate(map(len, rows)):  # padding changes nothing
        _, alone = outputs(model, batch[row : row + 1, :length])
        assert (alone[0] - batch_hidden[row, :length]).abs().max() < 1e-4, name
    save_file(
        {
            "input_ids": ids,
            "last_hidden_state": hidden[0].contiguous(),
            "logits": out.logits[0].contiguous(),
            "batch_input_ids": batch,
            "batch_attention_mask": mask,
            "batch_last_hidden_state": batch_hidden.contiguous(),
            "batch_logits": (batch_out.logits * mask[..., None])[..., :32].contiguous(),
            "batch_pooled": pooled.contiguous(),
        },
        folder / "reference.safetensors",
    )

    reference = {
        "class": class_name,
        "seed": seed,
        "stored": dtype,
        "parameters": sum(p.numel() for p in model.parameters()),
        "batch_texts": BATCH,
        "hidden_absmax": round(hidden.abs().max().item(), 4),
        "logits_absmax": round(out.logits.abs().max().item(), 4),
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, tokenizers, safetensors)},
    }
    (folder / "reference.json").write_text(json.dumps(reference, indent=1, ensure_ascii=False) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: {size // 1024} KB, {longest} tokens in the longest text, {reference}")
    assert size < 1_000_000, name


def main():
    torch.set_num_threads(1)
    chosen = sys.argv[1:]
    for seed, (name, arguments) in enumerate(fixtures().items(), start=7001):
        if not chosen or name in chosen:
            make(name, seed, *arguments)


if __name__ == "__main__":
    main()
