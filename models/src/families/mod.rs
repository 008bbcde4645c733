//! One file per model family: from config.json and tensor names to a graph.

mod bert;
mod blocks;
mod decoder;
mod distilbert;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod llama;
mod mistral;
mod modernbert;
mod phi3;
mod post_norm;
mod qwen2;
mod qwen3;
mod roberta;
mod rope;
mod xlm_roberta;

use warpweft_compiler::graph::Id;

use crate::config::Config;
use crate::error::CheckpointError;
use crate::net::Net;

/// A family of models.
pub(crate) struct Family {
    /// The `model_type` of its config.json.
    pub(crate) model_type: &'static str,
    /// Writes the model into the net.
    pub(crate) build: fn(&Config, &mut Net<'_>) -> Result<Parts, CheckpointError>,
    /// Tensors that may be in a file although they are not needed: names, beginnings of names that end in a dot, and ends
    /// of names behind a `*`. Those inside the base model are given without its prefix.
    pub(crate) unused: &'static [&'static str],
}

/// What a family has built.
pub(crate) struct Parts {
    /// The last hidden state, `[tokens, width]`.
    pub(crate) hidden: Id,
    /// Scores over the vocabulary, `[tokens, vocab_size]`, where the checkpoint has a head for them.
    pub(crate) logits: Option<Id>,
    /// Scores for the token after each sequence, `[sequences, vocab_size]`; decoders have them.
    pub(crate) next: Option<Id>,
    /// Columns of the hidden state.
    pub(crate) width: u32,
    /// Number of layers.
    pub(crate) layers: u32,
    /// Ids are below this.
    pub(crate) vocab_size: u32,
    /// Rows that one sequence may have at the most.
    pub(crate) max_positions: u32,
}

/// All families.
pub(crate) const FAMILIES: &[Family] = &[
    Family { model_type: "bert", build: bert::build, unused: bert::UNUSED },
    Family { model_type: "distilbert", build: distilbert::build, unused: distilbert::UNUSED },
    Family { model_type: "gemma2", build: gemma2::build, unused: llama::UNUSED },
    Family { model_type: "gemma3_text", build: gemma3::build, unused: llama::UNUSED },
    Family { model_type: "gpt2", build: gpt2::build, unused: gpt2::UNUSED },
    Family { model_type: "gpt_neox", build: gpt_neox::build, unused: gpt_neox::UNUSED },
    Family { model_type: "llama", build: llama::build, unused: llama::UNUSED },
    Family { model_type: "mistral", build: mistral::build, unused: llama::UNUSED },
    Family { model_type: "modernbert", build: modernbert::build, unused: modernbert::UNUSED },
    Family { model_type: "phi3", build: phi3::build, unused: llama::UNUSED },
    Family { model_type: "qwen2", build: qwen2::build, unused: llama::UNUSED },
    Family { model_type: "qwen3", build: qwen3::build, unused: llama::UNUSED },
    Family { model_type: "roberta", build: roberta::build, unused: roberta::UNUSED },
    Family { model_type: "xlm-roberta", build: xlm_roberta::build, unused: roberta::UNUSED },
];

/// The family that `config` names.
pub(crate) fn family(config: &Config) -> Result<&'static Family, CheckpointError> {
    let known = || FAMILIES.iter().map(|f| f.model_type).collect::<Vec<_>>();
    let Some(found) = config.text("model_type")? else {
        return Err(config.wrong("model_type", format!("one of {}", known().join(", "))));
    };
    FAMILIES.iter().find(|f| f.model_type == found).ok_or_else(|| CheckpointError::UnknownFamily {
        file: config.file().to_owned(),
        found: crate::error::clip(found),
        known: known(),
    })
}
