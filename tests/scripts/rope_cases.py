"""Writes tests/fixtures/rope.json: rotary frequencies that transformers computes for configurations of a Llama.

    python tests/scripts/rope_cases.py

Needs what make_decoder_fixtures.py needs. Heads have 16 columns, and a sequence at most 2048 rows, as in the llama fixture.
"""

import json
from pathlib import Path

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

SIZES = dict(
    vocab_size=512, hidden_size=64, intermediate_size=176, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=2048,
)
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256}
LONG = {
    "long_factor": [1.0 + 0.9 * i for i in range(8)], "short_factor": [1.0 + 0.07 * i for i in range(8)],
}

CASES = [
    {"rope_theta": 500000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1000000.0}},
    {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    {
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
    },
    {"rope_scaling": {"rope_type": "llama3", "factor": 3.0, "low_freq_factor": 2.0, "high_freq_factor": 9.0}},
    {"rope_scaling": YARN},
    {"rope_scaling": YARN | {"truncate": False, "beta_fast": 20.0, "beta_slow": 2.0}},
    {"rope_scaling": YARN | {"attention_factor": 0.75}},
    {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 0.7}, "rope_theta": 50000},
    {"rope_scaling": YARN | {"factor": None}},
    {"rope_scaling": YARN, "original_max_position_embeddings": 64},
    {"rope_scaling": {"rope_type": "longrope", "original_max_position_embeddings": 256} | LONG},
    {"rope_scaling": {"type": "longrope", "factor": 16.0} | LONG, "original_max_position_embeddings": 512},
    {"rope_scaling": {"type": "longrope", "attention_factor": 1.25} | LONG},
]


def main():
    out = []
    for fields in CASES:
        config = LlamaConfig(**SIZES, **json.loads(json.dumps(fields)))
        kind = config.rope_parameters["rope_type"]
        frequencies, scale = ROPE_INIT_FUNCTIONS[kind](config)
        out.append({"config": fields, "frequencies": frequencies.tolist(), "scale": scale})
    path = Path(__file__).resolve().parent.parent / "fixtures" / "rope.json"
    path.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
