//! DistilBERT: BERT's layers under names of its own, without token types.

use super::Parts;
use super::blocks::{Heads, MaskedHead, activation, masked_head};
use super::post_norm::{self, Names, Sizes};
use crate::config::{Config, MAX_LAYERS, MAX_ROWS, MAX_WIDTH};
use crate::error::CheckpointError;
use crate::net::{Activation, Bias, Net};

/// Tensors of published checkpoints that no output needs.
pub(super) const UNUSED: &[&str] =
    &["embeddings.position_ids", "vocab_projector.weight", "pre_classifier.", "classifier.", "qa_outputs."];

/// DistilBERT.
pub(super) fn build(config: &Config, net: &mut Net<'_>) -> Result<Parts, CheckpointError> {
    net.find_base(&["", "distilbert."], "embeddings.word_embeddings.weight");
    let width = config.size("dim", MAX_WIDTH)?;
    let sizes = Sizes {
        width,
        heads: Heads::read(config, "n_heads", width)?,
        inner: config.size("hidden_dim", MAX_WIDTH)?,
        // transformers has it in the code, not in config.json.
        eps: 1e-12,
        activation: activation(config, "activation", Activation::Gelu)?,
    };
    let layers = config.size("n_layers", MAX_LAYERS)?;
    let vocab_size = config.size("vocab_size", MAX_ROWS)?;
    let max_positions = config.size("max_position_embeddings", MAX_ROWS)?;

    let table = net.weight(&[&net.base("embeddings.word_embeddings.weight")], &[vocab_size, width])?;
    let words = net.embed(table)?;
    let positions = net.weight(&[&net.base("embeddings.position_embeddings.weight")], &[max_positions, width])?;
    let positions = net.embed_positions(positions)?;
    let sum = net.graph.plus(words, positions)?;
    let mut x = net.layer_norm(sum, &net.base("embeddings.LayerNorm"), width, sizes.eps, Bias::Yes)?;
    for i in 0..layers {
        net.graph.set_layer(Some(i));
        x = post_norm::layer(net, &names(net, i), &sizes, x)?;
    }
    net.graph.set_layer(None);
    let head = MaskedHead {
        dense: "vocab_transform",
        norm: "vocab_layer_norm",
        decoder: "vocab_projector.weight",
        bias: &["vocab_projector.bias"],
    };
    let shape = (vocab_size, width, sizes.eps);
    let logits = masked_head(net, &head, config, x, table, shape, sizes.activation)?;
    Ok(Parts { hidden: x, logits, next: None, width, layers, vocab_size, max_positions })
}

fn names(net: &Net<'_>, layer: u32) -> Names {
    let name = |part: &str| net.base(&format!("transformer.layer.{layer}.{part}"));
    Names {
        query: name("attention.q_lin"),
        key: name("attention.k_lin"),
        value: name("attention.v_lin"),
        attention_output: name("attention.out_lin"),
        attention_norm: name("sa_layer_norm"),
        up: name("ffn.lin1"),
        down: name("ffn.lin2"),
        output_norm: name("output_layer_norm"),
    }
}
