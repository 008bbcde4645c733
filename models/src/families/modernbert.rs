//! ModernBERT: norms before each half of a layer, rotary positions, and most layers seeing only near keys.

use warpweft_compiler::graph::Id;

use super::blocks::{Heads, Mask, Reach, activation, attention, columns, layer_types};
use super::{Parts, rope};
use crate::config::{Config, MAX_LAYERS, MAX_ROWS, MAX_WIDTH};
use crate::error::CheckpointError;
use crate::net::{Activation, Bias, Net};

/// Tensors of published checkpoints that no output needs.
pub(super) const UNUSED: &[&str] = &["head.", "decoder.", "classifier.", "qa_outputs."];

/// What config.json says of the layers.
struct Layers {
    width: u32,
    heads: Heads,
    inner: u32,
    eps: f64,
    activation: Activation,
    /// A local query sees keys at most this far away.
    distance: u32,
    norm_bias: Bias,
    attention_bias: Bias,
    mlp_bias: Bias,
}

/// ModernBERT.
pub(super) fn build(config: &Config, net: &mut Net<'_>) -> Result<Parts, CheckpointError> {
    net.find_base(&["", "model."], "embeddings.tok_embeddings.weight");
    let width = config.size("hidden_size", MAX_WIDTH)?;
    let layers = Layers {
        width,
        heads: Heads::read(config, "num_attention_heads", width)?,
        inner: config.size("intermediate_size", MAX_WIDTH)?,
        eps: config.positive_or("norm_eps", 1e-5)?,
        activation: activation(config, "hidden_activation", Activation::Gelu)?,
        distance: config.size_or("local_attention", MAX_ROWS, 128)? / 2,
        norm_bias: config.flag_or("norm_bias", false)?.into(),
        attention_bias: config.flag_or("attention_bias", false)?.into(),
        mlp_bias: config.flag_or("mlp_bias", false)?.into(),
    };
    if !layers.heads.width.is_multiple_of(2) {
        return Err(config.wrong("num_attention_heads", "heads of an even width, as rotary positions need"));
    }
    let reaches = reaches(config)?;
    let vocab_size = config.size("vocab_size", MAX_ROWS)?;
    let max_positions = config.size("max_position_embeddings", MAX_ROWS)?;
    let global = frequencies(config, net, Reach::Global, layers.heads)?;
    let local = frequencies(config, net, Reach::Local, layers.heads)?;

    let table = net.weight(&[&net.base("embeddings.tok_embeddings.weight")], &[vocab_size, width])?;
    let words = net.embed(table)?;
    let mut x = layers.norm(net, words, &net.base("embeddings.norm"))?;
    for (i, &reach) in (0..).zip(&reaches) {
        net.graph.set_layer(Some(i));
        let frequencies = if reach == Reach::Global { global } else { local };
        x = layers.layer(net, i, reach, frequencies, x)?;
    }
    net.graph.set_layer(None);
    let hidden = layers.norm(net, x, &net.base("final_norm"))?;
    let logits = head(config, net, &layers, hidden, table, vocab_size)?;
    Ok(Parts { hidden, logits, next: None, width, layers: reaches.len() as u32, vocab_size, max_positions })
}

impl Layers {
    /// One layer: `x = x + attention(norm(x)); x = x + down(act(a) · b)` with `a, b = up(norm(x))`.
    fn layer(
        &self,
        net: &mut Net<'_>,
        index: u32,
        reach: Reach,
        frequencies: Id,
        x: Id,
    ) -> Result<Id, CheckpointError> {
        let prefix = net.base(&format!("layers.{index}."));
        let name = |part: &str| format!("{prefix}{part}");
        // The first layer's input has just been normalized.
        let normed = if index == 0 { x } else { self.norm(net, x, &name("attn_norm"))? };
        let (width, inner) = (self.width, self.inner);
        let qkv = net.linear(normed, &name("attn.Wqkv"), width, 3 * width, self.attention_bias)?;
        let graph = &mut net.graph;
        let (q, k, v) = (
            columns(graph, qkv, 0, width)?,
            columns(graph, qkv, width, width)?,
            columns(graph, qkv, 2 * width, width)?,
        );
        let q = graph.rope(q, frequencies, self.heads.count, false, 1.0)?;
        let k = graph.rope(k, frequencies, self.heads.count, false, 1.0)?;
        let mixed = attention(graph, self.heads, [q, k, v], self.mask(reach))?;
        let mixed = net.linear(mixed, &name("attn.Wo"), width, width, self.attention_bias)?;
        let x = net.graph.plus(mixed, x)?;
        let normed = self.norm(net, x, &name("mlp_norm"))?;
        let both = net.linear(normed, &name("mlp.Wi"), width, 2 * inner, self.mlp_bias)?;
        let active = columns(&mut net.graph, both, 0, inner)?;
        let active = self.activation.apply(&mut net.graph, active)?;
        let gate = columns(&mut net.graph, both, inner, inner)?;
        let gated = net.graph.times(active, gate)?;
        let down = net.linear(gated, &name("mlp.Wo"), inner, width, self.mlp_bias)?;
        Ok(net.graph.plus(down, x)?)
    }

    fn norm(&self, net: &mut Net<'_>, x: Id, name: &str) -> Result<Id, CheckpointError> {
        net.layer_norm(x, name, self.width, self.eps, self.norm_bias)
    }

    fn mask(&self, reach: Reach) -> Mask {
        match reach {
            Reach::Global => Mask::Full,
            Reach::Local => Mask::Near(self.distance),
        }
    }
}

/// The masked-token head, where the file has one: `decoder(norm(act(dense(x))))`. A classifier has the same dense
/// layer, but no decoder.
fn head(
    config: &Config,
    net: &mut Net<'_>,
    layers: &Layers,
    x: Id,
    table: Id,
    vocab: u32,
) -> Result<Option<Id>, CheckpointError> {
    if !net.has("head.dense.weight") || !(net.has("decoder.bias") || net.has("decoder.weight")) {
        return Ok(None);
    }
    let width = layers.width;
    let bias = config.flag_or("classifier_bias", false)?.into();
    let x = net.linear(x, "head.dense", width, width, bias)?;
    let x = activation(config, "classifier_activation", Activation::Gelu)?.apply(&mut net.graph, x)?;
    let x = layers.norm(net, x, "head.norm")?;
    let tied = config.flag_or("tie_word_embeddings", true)?;
    let decoder = if tied { table } else { net.weight(&["decoder.weight"], &[vocab, width])? };
    let bias = match config.flag_or("decoder_bias", true)? {
        true => Some(net.weight(&["decoder.bias"], &[vocab])?),
        false => None,
    };
    Ok(Some(net.graph.linear(x, decoder, bias)?))
}

/// What each layer sees: `layer_types` of transformers 5, or every n-th layer everything.
fn reaches(config: &Config) -> Result<Vec<Reach>, CheckpointError> {
    let layers = config.size("num_hidden_layers", MAX_LAYERS)?;
    if let Some(reaches) = layer_types(config, layers)? {
        return Ok(reaches);
    }
    let every = config.size_or("global_attn_every_n_layers", MAX_LAYERS, 3)?;
    Ok((0..layers).map(|i| if i.is_multiple_of(every) { Reach::Global } else { Reach::Local }).collect())
}

/// The rotary frequencies of the layers of that reach.
fn frequencies(config: &Config, net: &mut Net<'_>, reach: Reach, heads: Heads) -> Result<Id, CheckpointError> {
    let values = rope::frequencies(rotary_base(config, reach)?, heads.width);
    net.generated(&format!("rotary frequencies of {}", reach.name()), values)
}

/// The base of the rotary frequencies: `rope_parameters.full_attention.rope_theta` in transformers 5,
/// `global_rope_theta` and `local_rope_theta` before.
fn rotary_base(config: &Config, reach: Reach) -> Result<f64, CheckpointError> {
    if config.get("rope_scaling").is_some() {
        return Err(config.wrong("rope_scaling", "null"));
    }
    let global = config.positive_or("global_rope_theta", 160_000.0)?;
    let default = match reach {
        Reach::Global => global,
        // An explicit null means the global base.
        Reach::Local if config.is_null("local_rope_theta") => global,
        Reach::Local => config.positive_or("local_rope_theta", 10_000.0)?,
    };
    let Some(parameters) = config.object("rope_parameters")? else { return Ok(default) };
    let Some(parameters) = parameters.object(reach.name())? else { return Ok(default) };
    parameters.only_text("rope_type", "default")?;
    parameters.positive_or("rope_theta", default)
}
