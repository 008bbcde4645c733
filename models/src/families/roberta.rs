//! RoBERTa: BERT's body with positions that start behind the padding's row, and another head.

use super::Parts;
use super::bert::{body, finish};
use super::blocks::MaskedHead;
use crate::config::{Config, MAX_ROWS};
use crate::error::CheckpointError;
use crate::net::{Activation, Net};

/// Tensors of published checkpoints that no output needs.
pub(super) const UNUSED: &[&str] = &[
    "embeddings.position_ids",
    "embeddings.token_type_ids",
    "pooler.",
    "lm_head.decoder.",
    "classifier.",
    "qa_outputs.",
];

/// RoBERTa.
pub(super) fn build(config: &Config, net: &mut Net<'_>) -> Result<Parts, CheckpointError> {
    net.find_base(&["", "roberta."], "embeddings.word_embeddings.weight");
    // transformers numbers the rows of a text from pad_token_id + 1.
    let padding = config.index_or("pad_token_id", MAX_ROWS, 1)?;
    let body = body(config, net, padding + 1)?;
    let head = MaskedHead {
        dense: "lm_head.dense",
        norm: "lm_head.layer_norm",
        decoder: "lm_head.decoder.weight",
        bias: &["lm_head.bias", "lm_head.decoder.bias"],
    };
    // Its activation is GELU whatever config.json says of the layers.
    finish(config, net, &head, body.with_head_activation(Activation::Gelu))
}
