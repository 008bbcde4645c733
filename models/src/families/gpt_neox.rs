//! GPT-NeoX: attention and feed-forward block side by side, rotary positions in part of each head, one projection whose
//! rows are, head after head, those of its queries, keys and values.

use warpweft_compiler::graph::{FactError, Graph, Id};

use super::Parts;
use super::blocks::activation;
use super::decoder::{Attention, Head, Rotary, Sizes, head_width};
use super::rope::{self, Defaults, KINDS};
use crate::config::{Config, MAX_LAYERS, MAX_ROWS, MAX_WIDTH};
use crate::error::CheckpointError;
use crate::net::{Activation, Bias, Net};

/// Tensors of published checkpoints that no output needs.
pub(super) const UNUSED: &[&str] =
    &["*.attention.bias", "*.attention.masked_bias", "*rotary_emb.inv_freq", "embed_out.weight", "lm_head.weight"];

struct Layers {
    sizes: Sizes,
    rotary: Rotary,
    inner: u32,
    eps: f64,
    activation: Activation,
    bias: Bias,
    parallel: bool,
}

/// GPT-NeoX and Pythia.
pub(super) fn build(config: &Config, net: &mut Net<'_>) -> Result<Parts, CheckpointError> {
    net.find_base(&["gpt_neox.", ""], "embed_in.weight");
    let width = config.size("hidden_size", MAX_WIDTH)?;
    let heads = config.size("num_attention_heads", MAX_WIDTH)?;
    let mut sizes = Sizes {
        width,
        heads,
        kv_heads: heads,
        head_width: head_width(config, "num_attention_heads", width, heads)?,
        layers: config.size("num_hidden_layers", MAX_LAYERS)?,
        vocab_size: config.size("vocab_size", MAX_ROWS)?,
        max_positions: config.size_or("max_position_embeddings", MAX_ROWS, 2048)?,
    };
    let rope = rope::read(
        config,
        rope::parameters(config)?.as_ref(),
        &Defaults {
            kinds: KINDS,
            theta: config.positive_or("rotary_emb_base", 10_000.0)?,
            head_width: sizes.head_width,
            part: config.positive_or("rotary_pct", 0.25)?,
            max_positions: sizes.max_positions,
            original: sizes.max_positions,
        },
    )?;
    sizes.max_positions = rope.max_positions;
    let layers = Layers {
        sizes,
        rotary: Rotary::new(net, "rotary frequencies", rope)?,
        inner: config.size("intermediate_size", MAX_WIDTH)?,
        eps: config.positive_or("layer_norm_eps", 1e-5)?,
        activation: activation(config, "hidden_act", Activation::Gelu)?,
        bias: config.flag_or("attention_bias", true)?.into(),
        parallel: config.flag_or("use_parallel_residual", true)?,
    };
    let table = net.weight(&[&net.base("embed_in.weight")], &[sizes.vocab_size, width])?;
    let mut x = net.embed(table)?;
    for i in 0..sizes.layers {
        net.graph.set_layer(Some(i));
        x = layers.layer(net, i, x)?;
    }
    let head = Head { table, names: &["embed_out.weight", "lm_head.weight"], tied: false, cap: None };
    let norm = net.base("final_layer_norm");
    head.finish(config, net, &sizes, x, |net, x| layers.norm(net, x, &norm))
}

impl Layers {
    /// One layer: `x + attention(norm(x)) + feed_forward(norm(x))`, or one after the other.
    fn layer(&self, net: &mut Net<'_>, index: u32, x: Id) -> Result<Id, CheckpointError> {
        let prefix = net.base(&format!("layers.{index}."));
        let name = |part: &str| format!("{prefix}{part}");
        let (width, inner) = (self.sizes.width, self.inner);
        let normed = self.norm(net, x, &name("input_layernorm"))?;
        let mixed = self.attention(net, &name("attention."), normed)?;
        let sum = net.graph.plus(mixed, x)?;
        let second = if self.parallel { x } else { sum };
        let normed = self.norm(net, second, &name("post_attention_layernorm"))?;
        let up = net.linear(normed, &name("mlp.dense_h_to_4h"), width, inner, Bias::Yes)?;
        let up = self.activation.apply(&mut net.graph, up)?;
        let down = net.linear(up, &name("mlp.dense_4h_to_h"), inner, width, Bias::Yes)?;
        Ok(net.graph.plus(down, sum)?)
    }

    fn attention(&self, net: &mut Net<'_>, prefix: &str, x: Id) -> Result<Id, CheckpointError> {
        let Layers { sizes, rotary, bias, .. } = *self;
        let name = format!("{prefix}query_key_value");
        let projection = net.projection(&[&format!("{name}.weight")], &[3 * sizes.width, sizes.width])?;
        let x = net.facing(x, &projection)?;
        let biases = match bias {
            Bias::Yes => Some(net.weight(&[&format!("{name}.bias")], &[3 * sizes.width])?),
            Bias::No => None,
        };
        let graph = &mut net.graph;
        let project = |graph: &mut Graph, part: u32| {
            let weight = part_of_heads(graph, projection.weight, &sizes, part)?;
            let bias = biases.map(|bias| part_of_heads(graph, bias, &sizes, part)).transpose()?;
            graph.linear(x, weight, bias)
        };
        let (q, k, v) = (project(graph, 0)?, project(graph, 1)?, project(graph, 2)?);
        let q = rotary.turn(graph, q, sizes.heads)?;
        let k = rotary.turn(graph, k, sizes.heads)?;
        let mixed = Attention::of(&sizes, None).mix(graph, [q, k, v])?;
        net.linear(mixed, &format!("{prefix}dense"), sizes.width, sizes.width, bias)
    }

    fn norm(&self, net: &mut Net<'_>, x: Id, name: &str) -> Result<Id, CheckpointError> {
        net.layer_norm(x, name, self.sizes.width, self.eps, Bias::Yes)
    }
}

/// The rows of `stacked` that belong to one of the three parts of each head, one head below the other.
fn part_of_heads(graph: &mut Graph, stacked: Id, sizes: &Sizes, part: u32) -> Result<Id, FactError> {
    let rows = u64::from(sizes.head_width);
    let parts = (0..u64::from(sizes.heads)).map(|head| {
        let first = (3 * head + u64::from(part)) * rows;
        graph.slice(stacked, 0, first, rows)
    });
    let mut parts = parts.collect::<Result<Vec<Id>, FactError>>()?;
    // Pairs of pairs, so that the expression is as deep as the logarithm of the heads.
    while parts.len() > 1 {
        let joined = parts.chunks(2).map(|pair| match *pair {
            [a, b] => graph.concat(0, a, b),
            _ => Ok(pair[0]),
        });
        parts = joined.collect::<Result<_, _>>()?;
    }
    Ok(parts[0])
}
