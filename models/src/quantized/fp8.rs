//! FP8 as DeepSeek publishes it: `X.weight` F8_E4M3 `[out, in]` and a scale for each block of 128 × 128 in
//! `X.weight_scale_inv`, which, for all its name, is multiplied with. Blocks at the ends are smaller. Without
//! `weight_block_size`, the scale is that of the tensor or of a row, and may be called `X.weight_scale`.
//!
//! Weights only: scales of activations are left alone.

use serde_json::Value;

use super::bytes::{self, Shared};
use super::{Found, Method, Site};
use crate::config::Config;
use crate::error::CheckpointError;

/// Names of scales.
const SCALES: [&str; 2] = ["weight_scale_inv", "weight_scale"];
/// What belongs to a weight without being needed.
const IDLE: &[&str] = &["input_scale", "activation_scale", "input_scale_ub"];

#[derive(Debug)]
struct Fp8 {
    shared: Vec<Shared>,
}

/// Reads `weight_block_size`.
pub(super) fn read(config: &Config) -> Result<Box<dyn Method>, CheckpointError> {
    config.word_or("fmt", &[("e4m3", ()), ("float8_e4m3fn", ())], ())?;
    let shared = match config.get("weight_block_size") {
        None => vec![Shared::Tensor, Shared::Row],
        Some(found) => {
            let block = sizes(found).ok_or_else(|| config.wrong("weight_block_size", "a list of two sizes"))?;
            vec![Shared::Block(block)]
        }
    };
    Ok(Box::new(Fp8 { shared }))
}

/// Rows and columns of a block.
pub(super) fn sizes(found: &Value) -> Option<[usize; 2]> {
    let list = found.as_array()?;
    let size = |n: &Value| usize::try_from(n.as_u64()?).ok().filter(|n| *n > 0);
    match list.as_slice() {
        [rows, columns] => Some([size(rows)?, size(columns)?]),
        _ => None,
    }
}

impl Method for Fp8 {
    fn keys(&self, name: &str) -> Vec<String> {
        vec![name.to_owned()]
    }

    fn find(&self, site: &Site<'_>) -> Result<Found, CheckpointError> {
        let names = SCALES.map(|name| site.beside(name));
        let there = names.iter().find(|name| site.checkpoint.tensor(name).is_some());
        let [usual, _] = &names;
        bytes::find(site, there.unwrap_or(usual).clone(), &self.shared, IDLE)
    }

    fn unused(&self) -> &'static [&'static str] {
        CACHE_SCALES
    }
}

/// Scales of caches, which are not stored in this precision here.
pub(super) const CACHE_SCALES: &[&str] =
    &["*.k_scale", "*.v_scale", "*.kv_scale", "*k_proj.output_scale", "*v_proj.output_scale"];
