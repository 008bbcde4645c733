//! Mistral: Llama's layer, in which a query sees the last keys only.

use super::Parts;
use super::decoder::{Silent, Sizes, or_silent};
use super::llama::{self, Traits};
use crate::config::Config;
use crate::error::CheckpointError;
use crate::net::{Bias, Net};

/// Mistral.
pub(super) fn build(config: &Config, net: &mut Net<'_>) -> Result<Parts, CheckpointError> {
    let silent = Silent { kv_heads: Some(8), head_width: None, max_positions: 131_072 };
    let sizes = Sizes::read(config, silent)?;
    let window = or_silent(config, "sliding_window", Some(4096))?;
    let traits = Traits {
        qkv_bias: Bias::No,
        output_bias: Bias::No,
        mlp_bias: Bias::No,
        head_norms: false,
        windows: vec![window; sizes.layers as usize],
    };
    llama::stack(config, net, sizes, &traits)
}
