//! Phi 3: queries, keys and values in one projection, gate and up in another.

use warpweft_compiler::graph::Id;

use super::Parts;
use super::blocks::{activation, columns};
use super::decoder::{Attention, Head, Rotary, Silent, Sizes, or_silent};
use super::rope::{self, Defaults, Kind};
use crate::config::{Config, MAX_ROWS, MAX_WIDTH};
use crate::error::CheckpointError;
use crate::net::{Activation, Bias, Gain, Net};

/// Early files call the same kind of positions `su` or `yarn`.
const KINDS: &[(&str, Kind)] =
    &[("default", Kind::Default), ("longrope", Kind::LongRope), ("su", Kind::LongRope), ("yarn", Kind::LongRope)];

struct Layers {
    sizes: Sizes,
    rotary: Rotary,
    inner: u32,
    eps: f64,
    activation: Activation,
    window: Option<u32>,
}

/// Phi 3, 3.5 and 4.
pub(super) fn build(config: &Config, net: &mut Net<'_>) -> Result<Parts, CheckpointError> {
    net.find_base(&["model.", ""], "embed_tokens.weight");
    let mut sizes = Sizes::read(config, Silent { max_positions: 4096, ..Silent::default() })?;
    let rope = rope::read(
        config,
        rope::parameters(config)?.as_ref(),
        &Defaults {
            kinds: KINDS,
            theta: config.positive_or("rope_theta", 10_000.0)?,
            head_width: sizes.head_width,
            part: config.positive_or("partial_rotary_factor", 1.0)?,
            max_positions: sizes.max_positions,
            original: config.size_or("original_max_position_embeddings", MAX_ROWS, 4096)?,
        },
    )?;
    sizes.max_positions = rope.max_positions;
    let layers = Layers {
        sizes,
        rotary: Rotary::new(net, "rotary frequencies", rope)?,
        inner: config.size("intermediate_size", MAX_WIDTH)?,
        eps: config.positive_or("rms_norm_eps", 1e-5)?,
        activation: activation(config, "hidden_act", Activation::Silu)?,
        window: or_silent(config, "sliding_window", None)?,
    };
    let table = net.weight(&[&net.base("embed_tokens.weight")], &[sizes.vocab_size, sizes.width])?;
    let mut x = net.embed(table)?;
    for i in 0..sizes.layers {
        net.graph.set_layer(Some(i));
        x = layers.layer(net, i, x)?;
    }
    let head = Head { table, names: &["lm_head.weight"], tied: false, cap: None };
    let norm = net.base("norm");
    head.finish(config, net, &sizes, x, |net, x| layers.norm(net, x, &norm))
}

impl Layers {
    /// One layer: `x = x + attention(norm(x)); x = x + down(act(gate) · up)` with `gate, up = gate_up(norm(x))`.
    fn layer(&self, net: &mut Net<'_>, index: u32, x: Id) -> Result<Id, CheckpointError> {
        let prefix = net.base(&format!("layers.{index}."));
        let name = |part: &str| format!("{prefix}{part}");
        let (width, inner) = (self.sizes.width, self.inner);
        let normed = self.norm(net, x, &name("input_layernorm"))?;
        let mixed = self.attention(net, &name("self_attn."), normed)?;
        let x = net.graph.plus(mixed, x)?;
        let normed = self.norm(net, x, &name("post_attention_layernorm"))?;
        let both = net.linear(normed, &name("mlp.gate_up_proj"), width, 2 * inner, Bias::No)?;
        let gate = columns(&mut net.graph, both, 0, inner)?;
        let gate = self.activation.apply(&mut net.graph, gate)?;
        let up = columns(&mut net.graph, both, inner, inner)?;
        let gated = net.graph.times(gate, up)?;
        let down = net.linear(gated, &name("mlp.down_proj"), inner, width, Bias::No)?;
        Ok(net.graph.plus(down, x)?)
    }

    fn attention(&self, net: &mut Net<'_>, prefix: &str, x: Id) -> Result<Id, CheckpointError> {
        let Layers { sizes, rotary, .. } = self;
        let (queries, keys) = (sizes.queries(), sizes.keys());
        let qkv = net.linear(x, &format!("{prefix}qkv_proj"), sizes.width, queries + 2 * keys, Bias::No)?;
        let graph = &mut net.graph;
        let q = columns(graph, qkv, 0, queries)?;
        let k = columns(graph, qkv, queries, keys)?;
        let v = columns(graph, qkv, queries + keys, keys)?;
        let q = rotary.turn(graph, q, sizes.heads)?;
        let k = rotary.turn(graph, k, sizes.kv_heads)?;
        let mixed = Attention::of(sizes, self.window).mix(graph, [q, k, v])?;
        net.linear(mixed, &format!("{prefix}o_proj"), queries, sizes.width, Bias::No)
    }

    fn norm(&self, net: &mut Net<'_>, x: Id, name: &str) -> Result<Id, CheckpointError> {
        net.rms_norm(x, name, self.sizes.width, self.eps, Gain::Weight)
    }
}
