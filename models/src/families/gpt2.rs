//! GPT-2: learned positions, layer norms before each half, weights stored `[in, out]`.

use warpweft_compiler::graph::Id;

use super::Parts;
use super::blocks::{activation, columns};
use super::decoder::{Attention, Head, Sizes, head_width};
use crate::config::{Config, MAX_LAYERS, MAX_ROWS, MAX_WIDTH};
use crate::error::CheckpointError;
use crate::net::{Activation, Bias, Net};

/// Tensors of published checkpoints that no output needs.
pub(super) const UNUSED: &[&str] = &["*.attn.bias", "*.attn.masked_bias", "lm_head.weight"];

struct Layers {
    sizes: Sizes,
    inner: u32,
    eps: f64,
    activation: Activation,
    /// Whether scores are divided by the root of the head's width.
    scaled: bool,
    /// Whether they are divided by the number of the layer too.
    scaled_by_layer: bool,
}

/// GPT-2.
pub(super) fn build(config: &Config, net: &mut Net<'_>) -> Result<Parts, CheckpointError> {
    net.find_base(&["", "transformer."], "wte.weight");
    config.only_flag("add_cross_attention", false)?;
    let width = config.size("n_embd", MAX_WIDTH)?;
    let heads = config.size("n_head", MAX_WIDTH)?;
    let sizes = Sizes {
        width,
        heads,
        kv_heads: heads,
        head_width: head_width(config, "n_head", width, heads)?,
        layers: config.size("n_layer", MAX_LAYERS)?,
        vocab_size: config.size("vocab_size", MAX_ROWS)?,
        max_positions: config.size_or("n_positions", MAX_ROWS, 1024)?,
    };
    let layers = Layers {
        sizes,
        inner: config.size_or("n_inner", 4 * MAX_WIDTH, 4 * width)?,
        eps: config.positive_or("layer_norm_epsilon", 1e-5)?,
        activation: activation(config, "activation_function", Activation::GeluTanh)?,
        scaled: config.flag_or("scale_attn_weights", true)?,
        scaled_by_layer: config.flag_or("scale_attn_by_inverse_layer_idx", false)?,
    };
    let table = net.weight(&[&net.base("wte.weight")], &[sizes.vocab_size, width])?;
    let words = net.embed(table)?;
    let positions = net.weight(&[&net.base("wpe.weight")], &[sizes.max_positions, width])?;
    let positions = net.embed_positions(positions)?;
    let mut x = net.graph.plus(words, positions)?;
    for i in 0..sizes.layers {
        net.graph.set_layer(Some(i));
        x = layers.layer(net, i, x)?;
    }
    let head = Head { table, names: &["lm_head.weight"], tied: true, cap: None };
    let norm = net.base("ln_f");
    head.finish(config, net, &sizes, x, |net, x| layers.norm(net, x, &norm))
}

impl Layers {
    /// One layer: `x = x + attention(norm(x)); x = x + down(act(up(norm(x))))`.
    fn layer(&self, net: &mut Net<'_>, index: u32, x: Id) -> Result<Id, CheckpointError> {
        let prefix = net.base(&format!("h.{index}."));
        let name = |part: &str| format!("{prefix}{part}");
        let width = self.sizes.width;
        let normed = self.norm(net, x, &name("ln_1"))?;
        let qkv = net.linear_by_inputs(normed, &name("attn.c_attn"), width, 3 * width)?;
        let graph = &mut net.graph;
        let q = columns(graph, qkv, 0, width)?;
        let k = columns(graph, qkv, width, width)?;
        let v = columns(graph, qkv, 2 * width, width)?;
        let mixed = self.attention(index).mix(graph, [q, k, v])?;
        let mixed = net.linear_by_inputs(mixed, &name("attn.c_proj"), width, width)?;
        let x = net.graph.plus(mixed, x)?;
        let normed = self.norm(net, x, &name("ln_2"))?;
        let up = net.linear_by_inputs(normed, &name("mlp.c_fc"), width, self.inner)?;
        let up = self.activation.apply(&mut net.graph, up)?;
        let down = net.linear_by_inputs(up, &name("mlp.c_proj"), self.inner, width)?;
        Ok(net.graph.plus(down, x)?)
    }

    fn attention(&self, layer: u32) -> Attention {
        let mut attention = Attention::of(&self.sizes, None);
        if !self.scaled {
            attention.scale = 1.0;
        }
        if self.scaled_by_layer {
            attention.scale /= f64::from(layer + 1);
        }
        attention
    }

    fn norm(&self, net: &mut Net<'_>, x: Id, name: &str) -> Result<Id, CheckpointError> {
        net.layer_norm(x, name, self.sizes.width, self.eps, Bias::Yes)
    }
}
