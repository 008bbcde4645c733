//! BERT, and the body that RoBERTa and XLM-R share with it.

use warpweft_compiler::graph::Id;

use super::Parts;
use super::blocks::{Heads, MaskedHead, activation, masked_head};
use super::post_norm::{self, Names, Sizes};
use crate::config::{Config, MAX_LAYERS, MAX_ROWS, MAX_WIDTH};
use crate::error::CheckpointError;
use crate::net::{Activation, Bias, Net};

/// Tensors of published checkpoints that no output needs.
pub(super) const UNUSED: &[&str] = &[
    "embeddings.position_ids",
    "embeddings.token_type_ids",
    "pooler.",
    "cls.predictions.decoder.",
    "cls.seq_relationship.",
    "classifier.",
    "qa_outputs.",
];

/// BERT.
pub(super) fn build(config: &Config, net: &mut Net<'_>) -> Result<Parts, CheckpointError> {
    net.find_base(&["", "bert."], "embeddings.word_embeddings.weight");
    let body = body(config, net, 0)?;
    let head = MaskedHead {
        dense: "cls.predictions.transform.dense",
        norm: "cls.predictions.transform.LayerNorm",
        decoder: "cls.predictions.decoder.weight",
        bias: &["cls.predictions.bias", "cls.predictions.decoder.bias"],
    };
    finish(config, net, &head, body)
}

/// What [`body`] has built, for the head.
pub(super) struct Body {
    table: Id,
    sizes: Sizes,
    parts: Parts,
}

impl Body {
    /// With the activation of the head, where it is not that of the layers.
    pub(super) fn with_head_activation(mut self, activation: Activation) -> Body {
        self.sizes.activation = activation;
        self
    }
}

/// Embeddings and layers, under the names of BERT. Row i of a sequence has row `first_position + i` of the position
/// table.
pub(super) fn body(config: &Config, net: &mut Net<'_>, first_position: u32) -> Result<Body, CheckpointError> {
    config.only_text("position_embedding_type", "absolute")?;
    config.only_flag("is_decoder", false)?;
    config.only_flag("add_cross_attention", false)?;
    let width = config.size("hidden_size", MAX_WIDTH)?;
    let sizes = Sizes {
        width,
        heads: Heads::read(config, "num_attention_heads", width)?,
        inner: config.size("intermediate_size", MAX_WIDTH)?,
        eps: config.positive_or("layer_norm_eps", 1e-12)?,
        activation: activation(config, "hidden_act", Activation::Gelu)?,
    };
    let layers = config.size("num_hidden_layers", MAX_LAYERS)?;
    let vocab_size = config.size("vocab_size", MAX_ROWS)?;
    let table_rows = config.size("max_position_embeddings", MAX_ROWS)?;
    let types = config.size_or("type_vocab_size", MAX_ROWS, 2)?;
    if table_rows <= first_position {
        return Err(config.wrong("max_position_embeddings", format!("more than {first_position}, the padding's rows")));
    }
    let max_positions = table_rows - first_position;

    let table = net.weight(&[&net.base("embeddings.word_embeddings.weight")], &[vocab_size, width])?;
    let words = net.embed(table)?;
    let positions = net.weight(&[&net.base("embeddings.position_embeddings.weight")], &[table_rows, width])?;
    let positions = match first_position {
        0 => positions,
        first => net.graph.slice(positions, 0, first.into(), max_positions.into())?,
    };
    let positions = net.embed_positions(positions)?;
    let kinds = net.weight(&[&net.base("embeddings.token_type_embeddings.weight")], &[types, width])?;
    // A text alone is of the first kind.
    let kind = net.graph.slice(kinds, 0, 0, 1)?;
    let sum = net.graph.plus(words, kind)?;
    let sum = net.graph.plus(sum, positions)?;
    let mut x = net.layer_norm(sum, &net.base("embeddings.LayerNorm"), width, sizes.eps, Bias::Yes)?;
    for i in 0..layers {
        net.graph.set_layer(Some(i));
        x = post_norm::layer(net, &names(net, i), &sizes, x)?;
    }
    net.graph.set_layer(None);
    let parts = Parts { hidden: x, logits: None, next: None, width, layers, vocab_size, max_positions };
    Ok(Body { table, sizes, parts })
}

fn names(net: &Net<'_>, layer: u32) -> Names {
    let name = |part: &str| net.base(&format!("encoder.layer.{layer}.{part}"));
    Names {
        query: name("attention.self.query"),
        key: name("attention.self.key"),
        value: name("attention.self.value"),
        attention_output: name("attention.output.dense"),
        attention_norm: name("attention.output.LayerNorm"),
        up: name("intermediate.dense"),
        down: name("output.dense"),
        output_norm: name("output.LayerNorm"),
    }
}

/// Adds the head, where the file has one.
pub(super) fn finish(
    config: &Config,
    net: &mut Net<'_>,
    head: &MaskedHead<'_>,
    Body { table, sizes, mut parts }: Body,
) -> Result<Parts, CheckpointError> {
    let shape = (parts.vocab_size, sizes.width, sizes.eps);
    parts.logits = masked_head(net, head, config, parts.hidden, table, shape, sizes.activation)?;
    Ok(parts)
}
