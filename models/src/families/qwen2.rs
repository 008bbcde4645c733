//! Qwen 2: Llama's layer with biases of queries, keys and values, which config.json does not mention.

use super::Parts;
use super::blocks::{Reach, layer_types};
use super::decoder::{Silent, Sizes};
use super::llama::{self, Traits};
use crate::config::{Config, MAX_LAYERS, MAX_ROWS};
use crate::error::CheckpointError;
use crate::net::{Bias, Net};

/// Qwen 2 and 2.5.
pub(super) fn build(config: &Config, net: &mut Net<'_>) -> Result<Parts, CheckpointError> {
    let silent = Silent { kv_heads: Some(32), head_width: None, max_positions: 32_768 };
    let sizes = Sizes::read(config, silent)?;
    let traits = Traits {
        qkv_bias: Bias::Yes,
        output_bias: Bias::No,
        mlp_bias: Bias::No,
        head_norms: false,
        windows: windows(config, sizes.layers)?,
    };
    llama::stack(config, net, sizes, &traits)
}

/// What the queries of each layer see: `layer_types` of transformers 5, or from the layer `max_window_layers` on a window,
/// if `use_sliding_window` says so.
pub(super) fn windows(config: &Config, layers: u32) -> Result<Vec<Option<u32>>, CheckpointError> {
    let all = vec![None; layers as usize];
    let window = match config.flag_or("use_sliding_window", false)? {
        true => Some(config.size_or("sliding_window", MAX_ROWS, 4096)?),
        false => None,
    };
    let Some(reaches) = layer_types(config, layers)? else {
        let Some(window) = window else { return Ok(all) };
        let first = config.index_or("max_window_layers", MAX_LAYERS, 28)?;
        return Ok((0..layers).map(|i| (i >= first).then_some(window)).collect());
    };
    if window.is_none() && reaches.contains(&Reach::Local) {
        return Err(config.wrong("use_sliding_window", "true, as layer_types has layers with a window"));
    }
    Ok(reaches.into_iter().map(|reach| window.filter(|_| reach == Reach::Local)).collect())
}
