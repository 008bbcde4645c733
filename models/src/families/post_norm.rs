//! The layer of the original encoders: each half is followed by its residual sum and a layer norm.

use warpweft_compiler::graph::Id;

use super::blocks::{Heads, Mask, attention};
use crate::error::CheckpointError;
use crate::net::{Activation, Bias, Net};

/// Tensor names of one layer, each without `.weight` and `.bias`.
pub(super) struct Names {
    /// Projection to queries.
    pub(super) query: String,
    /// Projection to keys.
    pub(super) key: String,
    /// Projection to values.
    pub(super) value: String,
    /// Projection of the heads' results.
    pub(super) attention_output: String,
    /// Norm after attention.
    pub(super) attention_norm: String,
    /// First half of the feed-forward block.
    pub(super) up: String,
    /// Its second half.
    pub(super) down: String,
    /// Norm after the feed-forward block.
    pub(super) output_norm: String,
}

/// Sizes that all layers share.
pub(super) struct Sizes {
    /// Columns of the hidden state.
    pub(super) width: u32,
    /// Heads.
    pub(super) heads: Heads,
    /// Columns between the two halves of the feed-forward block.
    pub(super) inner: u32,
    /// Epsilon of the norms.
    pub(super) eps: f64,
    /// Between the two halves of the feed-forward block.
    pub(super) activation: Activation,
}

/// One layer: `x = norm(x + attention(x)); x = norm(x + down(act(up(x))))`.
pub(super) fn layer(net: &mut Net<'_>, names: &Names, sizes: &Sizes, x: Id) -> Result<Id, CheckpointError> {
    let Sizes { width, heads, inner, eps, activation } = *sizes;
    let q = net.linear(x, &names.query, width, width, Bias::Yes)?;
    let k = net.linear(x, &names.key, width, width, Bias::Yes)?;
    let v = net.linear(x, &names.value, width, width, Bias::Yes)?;
    let mixed = attention(&mut net.graph, heads, [q, k, v], Mask::Full)?;
    let mixed = net.linear(mixed, &names.attention_output, width, width, Bias::Yes)?;
    let sum = net.graph.plus(mixed, x)?;
    let x = net.layer_norm(sum, &names.attention_norm, width, eps, Bias::Yes)?;
    let up = net.linear(x, &names.up, width, inner, Bias::Yes)?;
    let up = activation.apply(&mut net.graph, up)?;
    let down = net.linear(up, &names.down, inner, width, Bias::Yes)?;
    let sum = net.graph.plus(down, x)?;
    net.layer_norm(sum, &names.output_norm, width, eps, Bias::Yes)
}
