//! What families share: reading common fields, attention of encoders, their heads.

use serde_json::Value;
use warpweft_compiler::graph::{FactError, Graph, Id};
use warpweft_plan::Dim;

use crate::config::{Config, MAX_WIDTH, describe};
use crate::error::CheckpointError;
use crate::net::{Activation, Bias, Net};

/// Heads and their width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// Number of query heads.
    pub(super) count: u32,
    /// Columns of one head.
    pub(super) width: u32,
}

impl Heads {
    /// Reads the number of heads from `field`; they divide `width` columns among them.
    pub(super) fn read(config: &Config, field: &str, width: u32) -> Result<Heads, CheckpointError> {
        let count = config.size(field, MAX_WIDTH)?;
        if !width.is_multiple_of(count) {
            return Err(config.wrong(field, format!("a divisor of the hidden size {width}")));
        }
        Ok(Heads { count, width: width / count })
    }
}

/// The activation that `field` names, or `default`.
pub(super) fn activation(config: &Config, field: &str, default: Activation) -> Result<Activation, CheckpointError> {
    const NAMES: [(&str, Activation); 8] = [
        ("gelu", Activation::Gelu),
        ("gelu_python", Activation::Gelu),
        ("gelu_new", Activation::GeluTanh),
        ("gelu_fast", Activation::GeluTanh),
        ("gelu_pytorch_tanh", Activation::GeluTanh),
        ("silu", Activation::Silu),
        ("swish", Activation::Silu),
        ("relu", Activation::Relu),
    ];
    config.word_or(field, &NAMES, default)
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mask {
    /// All keys of the sequence.
    Full,
    /// Keys at most this many rows before or after the query.
    Near(u32),
}

/// `softmax(q kᵀ / sqrt(head width) + mask) v` for each head. All of shape `[tokens, heads · head width]`.
pub(super) fn attention(graph: &mut Graph, heads: Heads, [q, k, v]: [Id; 3], mask: Mask) -> Result<Id, FactError> {
    let q = graph.split_heads(q, heads.count)?;
    let k = graph.split_heads(k, heads.count)?;
    let v = graph.split_heads(v, heads.count)?;
    let k = graph.transpose(k)?;
    let scores = graph.matmul(q, k)?;
    let mut scores = graph.scale(scores, f64::from(heads.width).powf(-0.5) as f32)?;
    if let Mask::Near(distance) = mask {
        let band = graph.band_mask(Some(distance), Some(distance), Dim::TOKENS)?;
        scores = graph.plus(scores, band)?;
    }
    let shares = graph.softmax(scores)?;
    let mixed = graph.matmul(shares, v)?;
    graph.merge_heads(mixed)
}

/// Whether the queries of a layer see all keys or near ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// All.
    Global,
    /// Near ones.
    Local,
}

impl Reach {
    const ALL: [Reach; 2] = [Reach::Global, Reach::Local];

    /// Its name in `layer_types` and `rope_parameters`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Reach::Global => "full_attention",
            Reach::Local => "sliding_attention",
        }
    }
}

/// `layer_types` of transformers 5; `None` where config.json has none.
pub(super) fn layer_types(config: &Config, layers: u32) -> Result<Option<Vec<Reach>>, CheckpointError> {
    const FIELD: &str = "layer_types";
    let Some(types) = config.get(FIELD) else { return Ok(None) };
    let types = types.as_array().filter(|types| types.len() == layers as usize);
    let types = types.ok_or_else(|| config.wrong(FIELD, format!("a list of {layers}, one for each layer")))?;
    let reach = |value: &Value| Reach::ALL.into_iter().find(|r| value.as_str() == Some(r.name()));
    let reaches = types.iter().map(|value| {
        reach(value).ok_or_else(|| {
            let names = Reach::ALL.map(Reach::name).join(" and ");
            config.wrong(FIELD, format!("only {names}, not {}", describe(value)))
        })
    });
    reaches.collect::<Result<_, _>>().map(Some)
}

/// The columns `first .. first + width` of `x`.
pub(super) fn columns(graph: &mut Graph, x: Id, first: u32, width: u32) -> Result<Id, FactError> {
    graph.slice(x, 1, first.into(), width.into())
}

/// The names of a head that scores the vocabulary.
pub(super) struct MaskedHead<'a> {
    /// The dense layer.
    pub(super) dense: &'a str,
    /// Its layer norm.
    pub(super) norm: &'a str,
    /// The decoder's weight, used where it is not tied to the embeddings.
    pub(super) decoder: &'a str,
    /// Names that the decoder's bias may have.
    pub(super) bias: &'a [&'a str],
}

/// `decoder(norm(act(dense(x))))`: what the BERT families score the vocabulary with.
///
/// `None` where the file has no such head. `table` is the token embedding, `[vocab, width]`, which a tied decoder
/// shares.
pub(super) fn masked_head(
    net: &mut Net<'_>,
    names: &MaskedHead<'_>,
    config: &Config,
    x: Id,
    table: Id,
    (vocab, width, eps): (u32, u32, f64),
    activation: Activation,
) -> Result<Option<Id>, CheckpointError> {
    if !net.has(&format!("{}.weight", names.dense)) {
        return Ok(None);
    }
    let x = net.linear(x, names.dense, width, width, Bias::Yes)?;
    let x = activation.apply(&mut net.graph, x)?;
    let x = net.layer_norm(x, names.norm, width, eps, Bias::Yes)?;
    let tied = config.flag_or("tie_word_embeddings", true)?;
    let decoder = if tied { table } else { net.weight(&[names.decoder], &[vocab, width])? };
    let bias = net.weight(names.bias, &[vocab])?;
    Ok(Some(net.graph.linear(x, decoder, Some(bias))?))
}
