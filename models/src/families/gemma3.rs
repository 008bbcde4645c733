//! The text model of Gemma 3: most layers have a window and rotary positions of a base of their own; heads of queries and
//! keys are normalized.

use super::Parts;
use super::blocks::{Reach, layer_types};
use super::decoder::{Rotary, Silent, Sizes};
use super::gemma2::{self, Traits};
use super::rope::{self, Defaults, KINDS, Rope};
use crate::config::{Config, MAX_LAYERS};
use crate::error::CheckpointError;
use crate::net::Net;

/// Gemma 3, text only.
pub(super) fn build(config: &Config, net: &mut Net<'_>) -> Result<Parts, CheckpointError> {
    let mut sizes = Sizes::read(config, Silent { kv_heads: Some(4), head_width: Some(256), max_positions: 131_072 })?;
    if config.get("attn_logit_softcapping").is_some() {
        return Err(config.wrong("attn_logit_softcapping", "null: transformers ignores it in this family"));
    }
    let [global, local] = [rope(config, &sizes, Reach::Global)?, rope(config, &sizes, Reach::Local)?];
    sizes.max_positions = global.max_positions.min(local.max_positions);
    let reaches = match layer_types(config, sizes.layers)? {
        Some(reaches) => reaches,
        None => {
            let every = config.size_or("sliding_window_pattern", MAX_LAYERS, 6)?;
            let reach = |i: u32| if (i + 1).is_multiple_of(every) { Reach::Global } else { Reach::Local };
            (0..sizes.layers).map(reach).collect()
        }
    };
    let head_cap = config.get("final_logit_softcapping").map(|_| config.positive_or("final_logit_softcapping", 1.0));
    let traits = Traits {
        head_norms: true,
        score_cap: None,
        head_cap: head_cap.transpose()?,
        local: Rotary::new(net, "rotary frequencies of sliding_attention", local)?,
        global: Rotary::new(net, "rotary frequencies of full_attention", global)?,
        reaches,
    };
    gemma2::stack(config, net, sizes, &traits)
}

/// The positions of the layers of that reach: an object of `rope_parameters` in transformers 5. In 4, `rope_theta` and
/// `rope_scaling` are those of the layers without a window.
fn rope(config: &Config, sizes: &Sizes, reach: Reach) -> Result<Rope, CheckpointError> {
    let nested = match config.object("rope_parameters")? {
        Some(parameters) => parameters.object(reach.name())?,
        None => None,
    };
    let (field, theta) = match reach {
        Reach::Global => ("rope_theta", 1_000_000.0),
        Reach::Local => ("rope_local_base_freq", 10_000.0),
    };
    let scaling = match reach {
        Reach::Global => config.object("rope_scaling")?,
        Reach::Local => None,
    };
    let defaults = Defaults {
        kinds: KINDS,
        theta: config.positive_or(field, theta)?,
        head_width: sizes.head_width,
        part: 1.0,
        max_positions: sizes.max_positions,
        original: sizes.max_positions,
    };
    rope::read(config, scaling.or(nested).as_ref(), &defaults)
}
