//! Llama, and the layer that Mistral and Qwen share with it.

use warpweft_compiler::graph::Id;

use super::Parts;
use super::blocks::activation;
use super::decoder::{Attention, Gated, Head, Rotary, Silent, Sizes};
use super::rope::{self, Defaults, KINDS};
use crate::config::{Config, MAX_WIDTH};
use crate::error::CheckpointError;
use crate::net::{Activation, Bias, Gain, Net};

/// Tensors of published checkpoints that no output needs.
pub(super) const UNUSED: &[&str] = &["*rotary_emb.inv_freq", "lm_head.weight"];

/// Llama.
pub(super) fn build(config: &Config, net: &mut Net<'_>) -> Result<Parts, CheckpointError> {
    let sizes = Sizes::read(config, Silent { max_positions: 2048, ..Silent::default() })?;
    let attention_bias = config.flag_or("attention_bias", false)?.into();
    let traits = Traits {
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        mlp_bias: config.flag_or("mlp_bias", false)?.into(),
        head_norms: false,
        windows: vec![None; sizes.layers as usize],
    };
    stack(config, net, sizes, &traits)
}

/// What distinguishes the families that have Llama's layer.
pub(super) struct Traits {
    /// Whether the projections to queries, keys and values have biases.
    pub(super) qkv_bias: Bias,
    /// Whether the projection of the heads' results has one.
    pub(super) output_bias: Bias,
    /// Whether the projections of the feed-forward block have biases.
    pub(super) mlp_bias: Bias,
    /// Whether each head of queries and keys is normalized before it turns.
    pub(super) head_norms: bool,
    /// For each layer, the rows that a query sees; `None` is all.
    pub(super) windows: Vec<Option<u32>>,
}

struct Layers<'a> {
    sizes: Sizes,
    traits: &'a Traits,
    rotary: Rotary,
    inner: u32,
    eps: f64,
    activation: Activation,
}

/// Embedding, layers, norm and head.
pub(super) fn stack(
    config: &Config,
    net: &mut Net<'_>,
    mut sizes: Sizes,
    traits: &Traits,
) -> Result<Parts, CheckpointError> {
    net.find_base(&["model.", ""], "embed_tokens.weight");
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
    let layers = Layers {
        sizes,
        traits,
        rotary: Rotary::new(net, "rotary frequencies", rope)?,
        inner: config.size("intermediate_size", MAX_WIDTH)?,
        eps: config.positive_or("rms_norm_eps", 1e-6)?,
        activation: activation(config, "hidden_act", Activation::Silu)?,
    };
    let table = net.weight(&[&net.base("embed_tokens.weight")], &[sizes.vocab_size, sizes.width])?;
    let mut x = net.embed(table)?;
    for (i, &window) in (0..).zip(&traits.windows) {
        net.graph.set_layer(Some(i));
        x = layers.layer(net, i, window, x)?;
    }
    let head = Head { table, names: &["lm_head.weight"], tied: false, cap: None };
    let norm = net.base("norm");
    head.finish(config, net, &sizes, x, |net, x| net.rms_norm(x, &norm, sizes.width, layers.eps, Gain::Weight))
}

impl Layers<'_> {
    /// One layer: `x = x + attention(norm(x)); x = x + down(act(gate(norm(x))) · up(norm(x)))`.
    fn layer(&self, net: &mut Net<'_>, index: u32, window: Option<u32>, x: Id) -> Result<Id, CheckpointError> {
        let prefix = net.base(&format!("layers.{index}."));
        let name = |part: &str| format!("{prefix}{part}");
        let width = self.sizes.width;
        let normed = net.rms_norm(x, &name("input_layernorm"), width, self.eps, Gain::Weight)?;
        let mixed = self.attention(net, &name("self_attn."), window, normed)?;
        let x = net.graph.plus(mixed, x)?;
        let normed = net.rms_norm(x, &name("post_attention_layernorm"), width, self.eps, Gain::Weight)?;
        let feed_forward = Gated {
            gate: &name("mlp.gate_proj"),
            up: &name("mlp.up_proj"),
            down: &name("mlp.down_proj"),
            inner: self.inner,
            activation: self.activation,
            bias: self.traits.mlp_bias,
        };
        let down = feed_forward.apply(net, normed, width)?;
        Ok(net.graph.plus(down, x)?)
    }

    fn attention(&self, net: &mut Net<'_>, prefix: &str, window: Option<u32>, x: Id) -> Result<Id, CheckpointError> {
        let Layers { sizes, traits, .. } = self;
        let name = |part: &str| format!("{prefix}{part}");
        let mut q = net.linear(x, &name("q_proj"), sizes.width, sizes.queries(), traits.qkv_bias)?;
        let mut k = net.linear(x, &name("k_proj"), sizes.width, sizes.keys(), traits.qkv_bias)?;
        let v = net.linear(x, &name("v_proj"), sizes.width, sizes.keys(), traits.qkv_bias)?;
        if traits.head_norms {
            let norm = HeadNorm { width: sizes.head_width, eps: self.eps, gain: Gain::Weight };
            q = norm.apply(net, q, &name("q_norm"), sizes.heads)?;
            k = norm.apply(net, k, &name("k_norm"), sizes.kv_heads)?;
        }
        let q = self.rotary.turn(&mut net.graph, q, sizes.heads)?;
        let k = self.rotary.turn(&mut net.graph, k, sizes.kv_heads)?;
        let mixed = Attention::of(sizes, window).mix(&mut net.graph, [q, k, v])?;
        net.linear(mixed, &name("o_proj"), sizes.queries(), sizes.width, traits.output_bias)
    }
}

/// A norm of each head on its own, with one gain for all heads.
pub(super) struct HeadNorm {
    /// Columns of one head.
    pub(super) width: u32,
    /// Its epsilon.
    pub(super) eps: f64,
    /// What it multiplies by.
    pub(super) gain: Gain,
}

impl HeadNorm {
    /// Normalizes the heads of `x` with the tensor `name.weight`.
    pub(super) fn apply(&self, net: &mut Net<'_>, x: Id, name: &str, heads: u32) -> Result<Id, CheckpointError> {
        let x = net.graph.split_heads(x, heads)?;
        let x = net.rms_norm(x, name, self.width, self.eps, self.gain)?;
        Ok(net.graph.merge_heads(x)?)
    }
}
