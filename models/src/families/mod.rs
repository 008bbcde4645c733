//! One file per model family: from config.json and tensor names to a graph.

mod bert;
mod blocks;
mod distilbert;
mod modernbert;
mod post_norm;
mod roberta;
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
    /// Tensors that may be in a file although they are not needed: names, or beginnings of names that end in a dot.
    /// Those inside the base model are given without its prefix.
    pub(crate) unused: &'static [&'static str],
}

/// What a family has built.
pub(crate) struct Parts {
    /// The last hidden state, `[tokens, width]`.
    pub(crate) hidden: Id,
    /// Scores over the vocabulary, `[tokens, vocab_size]`, where the checkpoint has a head for them.
    pub(crate) logits: Option<Id>,
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
    Family { model_type: "modernbert", build: modernbert::build, unused: modernbert::UNUSED },
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
