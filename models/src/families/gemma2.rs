//! Gemma 2, and the layer that Gemma 3 shares with it: norms before and after each half, gains of one plus the weight,
//! and a scaled embedding.

use warpweft_compiler::graph::Id;

use super::Parts;
use super::blocks::{Reach, activation, layer_types};
use super::decoder::{Attention, Gated, Head, Rotary, Silent, Sizes, soft_cap};
use super::llama::HeadNorm;
use super::rope::{self, Defaults, KINDS};
use crate::config::{Config, MAX_ROWS, MAX_WIDTH};
use crate::error::CheckpointError;
use crate::net::{Activation, Bias, Gain, Net};

/// Gemma 2.
pub(super) fn build(config: &Config, net: &mut Net<'_>) -> Result<Parts, CheckpointError> {
    let mut sizes = Sizes::read(config, Silent { kv_heads: Some(4), head_width: Some(256), max_positions: 8192 })?;
    let rope = rope::read(
        config,
        rope::parameters(config)?.as_ref(),
        &Defaults {
            kinds: KINDS,
            theta: config.positive_or("rope_theta", 10_000.0)?,
            head_width: sizes.head_width,
            part: 1.0,
            max_positions: sizes.max_positions,
            original: sizes.max_positions,
        },
    )?;
    sizes.max_positions = rope.max_positions;
    let rotary = Rotary::new(net, "rotary frequencies", rope)?;
    // Every other layer has a window, from the first on.
    let reaches = layer_types(config, sizes.layers)?.unwrap_or_else(|| {
        (0..sizes.layers).map(|i| if i.is_multiple_of(2) { Reach::Local } else { Reach::Global }).collect()
    });
    let traits = Traits {
        head_norms: false,
        score_cap: soft_cap(config, "attn_logit_softcapping", 50.0)?,
        head_cap: soft_cap(config, "final_logit_softcapping", 30.0)?,
        local: rotary,
        global: rotary,
        reaches,
    };
    stack(config, net, sizes, &traits)
}

/// What distinguishes Gemma 2 and 3.
pub(super) struct Traits {
    /// Whether each head of queries and keys is normalized before it turns.
    pub(super) head_norms: bool,
    /// Soft cap of the attention's scores.
    pub(super) score_cap: Option<f64>,
    /// Soft cap of the scores over the vocabulary.
    pub(super) head_cap: Option<f64>,
    /// Positions of layers with a window.
    pub(super) local: Rotary,
    /// Positions of layers without one.
    pub(super) global: Rotary,
    /// What each layer sees.
    pub(super) reaches: Vec<Reach>,
}

struct Layers<'a> {
    sizes: Sizes,
    traits: &'a Traits,
    bias: Bias,
    inner: u32,
    eps: f64,
    activation: Activation,
    score_scale: f64,
    window: u32,
}

/// Embedding, layers, norm and head.
pub(super) fn stack(
    config: &Config,
    net: &mut Net<'_>,
    sizes: Sizes,
    traits: &Traits,
) -> Result<Parts, CheckpointError> {
    net.find_base(&["model.", ""], "embed_tokens.weight");
    config.only_flag("use_bidirectional_attention", false)?;
    let layers = Layers {
        sizes,
        traits,
        bias: config.flag_or("attention_bias", false)?.into(),
        inner: config.size("intermediate_size", MAX_WIDTH)?,
        eps: config.positive_or("rms_norm_eps", 1e-6)?,
        // Published files have another `hidden_act`, which no version of transformers follows.
        activation: activation(config, "hidden_activation", Activation::GeluTanh)?,
        score_scale: config.positive_or("query_pre_attn_scalar", 256.0)?.powf(-0.5),
        window: config.size_or("sliding_window", MAX_ROWS, 4096)?,
    };
    let table = net.weight(&[&net.base("embed_tokens.weight")], &[sizes.vocab_size, sizes.width])?;
    let rows = net.embed(table)?;
    let mut x = net.graph.scale(rows, f64::from(sizes.width).sqrt() as f32)?;
    for (i, &reach) in (0..).zip(&traits.reaches) {
        net.graph.set_layer(Some(i));
        x = layers.layer(net, i, reach, x)?;
    }
    let head = Head { table, names: &["lm_head.weight"], tied: true, cap: traits.head_cap };
    let norm = net.base("norm");
    head.finish(config, net, &sizes, x, |net, x| layers.norm(net, x, &norm))
}

impl Layers<'_> {
    /// One layer: `x = x + norm(attention(norm(x))); x = x + norm(down(act(gate(norm(x))) · up(norm(x))))`.
    fn layer(&self, net: &mut Net<'_>, index: u32, reach: Reach, x: Id) -> Result<Id, CheckpointError> {
        let prefix = net.base(&format!("layers.{index}."));
        let name = |part: &str| format!("{prefix}{part}");
        let normed = self.norm(net, x, &name("input_layernorm"))?;
        let mixed = self.attention(net, &name("self_attn."), reach, normed)?;
        let mixed = self.norm(net, mixed, &name("post_attention_layernorm"))?;
        let x = net.graph.plus(x, mixed)?;
        let normed = self.norm(net, x, &name("pre_feedforward_layernorm"))?;
        let feed_forward = Gated {
            gate: &name("mlp.gate_proj"),
            up: &name("mlp.up_proj"),
            down: &name("mlp.down_proj"),
            inner: self.inner,
            activation: self.activation,
            bias: Bias::No,
        };
        let down = feed_forward.apply(net, normed, self.sizes.width)?;
        let down = self.norm(net, down, &name("post_feedforward_layernorm"))?;
        Ok(net.graph.plus(x, down)?)
    }

    fn attention(&self, net: &mut Net<'_>, prefix: &str, reach: Reach, x: Id) -> Result<Id, CheckpointError> {
        let Layers { sizes, traits, bias, .. } = *self;
        let name = |part: &str| format!("{prefix}{part}");
        let mut q = net.linear(x, &name("q_proj"), sizes.width, sizes.queries(), bias)?;
        let mut k = net.linear(x, &name("k_proj"), sizes.width, sizes.keys(), bias)?;
        let v = net.linear(x, &name("v_proj"), sizes.width, sizes.keys(), bias)?;
        if traits.head_norms {
            let norm = HeadNorm { width: sizes.head_width, eps: self.eps, gain: Gain::OnePlusWeight };
            q = norm.apply(net, q, &name("q_norm"), sizes.heads)?;
            k = norm.apply(net, k, &name("k_norm"), sizes.kv_heads)?;
        }
        let (rotary, window) = match reach {
            Reach::Local => (traits.local, Some(self.window)),
            Reach::Global => (traits.global, None),
        };
        let q = rotary.turn(&mut net.graph, q, sizes.heads)?;
        let k = rotary.turn(&mut net.graph, k, sizes.kv_heads)?;
        let attention = Attention { scale: self.score_scale, cap: traits.score_cap, ..Attention::of(&sizes, window) };
        let mixed = attention.mix(&mut net.graph, [q, k, v])?;
        net.linear(mixed, &name("o_proj"), sizes.queries(), sizes.width, bias)
    }

    fn norm(&self, net: &mut Net<'_>, x: Id, name: &str) -> Result<Id, CheckpointError> {
        net.rms_norm(x, name, self.sizes.width, self.eps, Gain::OnePlusWeight)
    }
}
