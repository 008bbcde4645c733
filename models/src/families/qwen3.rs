//! Qwen 3: Llama's layer with norms of each head of queries and keys.

use super::Parts;
use super::decoder::{Silent, Sizes};
use super::llama::{self, Traits};
use super::qwen2::windows;
use crate::config::Config;
use crate::error::CheckpointError;
use crate::net::{Bias, Net};

/// Qwen 3.
pub(super) fn build(config: &Config, net: &mut Net<'_>) -> Result<Parts, CheckpointError> {
    let silent = Silent { kv_heads: Some(32), head_width: Some(128), max_positions: 32_768 };
    let sizes = Sizes::read(config, silent)?;
    let attention_bias = config.flag_or("attention_bias", false)?.into();
    let traits = Traits {
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        mlp_bias: Bias::No,
        head_norms: true,
        windows: windows(config, sizes.layers)?,
    };
    llama::stack(config, net, sizes, &traits)
}
