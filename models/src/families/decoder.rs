//! What decoders share: sizes, attention over a cache, rotary positions, and the head.

use warpweft_compiler::graph::{FactError, Graph, Id};
use warpweft_plan::Dim;

use super::Parts;
use super::rope::Rope;
use crate::config::{Config, MAX_LAYERS, MAX_ROWS, MAX_WIDTH};
use crate::error::CheckpointError;
use crate::net::{Activation, Bias, Net};

/// Sizes of a decoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Columns of the hidden state.
    pub(super) width: u32,
    /// Query heads.
    pub(super) heads: u32,
    /// Key and value heads, which divide the query heads among them.
    pub(super) kv_heads: u32,
    /// Columns of one head.
    pub(super) head_width: u32,
    /// Number of layers.
    pub(super) layers: u32,
    /// Rows of the token embedding.
    pub(super) vocab_size: u32,
    /// Rows that one sequence may have.
    pub(super) max_positions: u32,
}

/// What a family has where config.json is silent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Silent {
    /// `num_key_value_heads`; `None` is the number of query heads.
    pub(super) kv_heads: Option<u32>,
    /// `head_dim`; `None` is the width over the heads.
    pub(super) head_width: Option<u32>,
    /// `max_position_embeddings`.
    pub(super) max_positions: u32,
}

impl Sizes {
    /// Reads the names that most families have.
    pub(super) fn read(config: &Config, silent: Silent) -> Result<Sizes, CheckpointError> {
        let width = config.size("hidden_size", MAX_WIDTH)?;
        let heads = config.size("num_attention_heads", MAX_WIDTH)?;
        let kv_heads = match or_silent(config, "num_key_value_heads", silent.kv_heads)? {
            Some(kv_heads) if !heads.is_multiple_of(kv_heads) => {
                return Err(config.wrong("num_key_value_heads", format!("a divisor of the {heads} query heads")));
            }
            Some(kv_heads) => kv_heads,
            None => heads,
        };
        let head_width = match or_silent(config, "head_dim", silent.head_width)? {
            Some(head_width) => head_width,
            None => head_width(config, "num_attention_heads", width, heads)?,
        };
        if heads.checked_mul(head_width).is_none_or(|columns| columns > MAX_WIDTH) {
            return Err(config.wrong("head_dim", format!("at most {MAX_WIDTH} columns in {heads} heads together")));
        }
        Ok(Sizes {
            width,
            heads,
            kv_heads,
            head_width,
            layers: config.size("num_hidden_layers", MAX_LAYERS)?,
            vocab_size: config.size("vocab_size", MAX_ROWS)?,
            max_positions: config.size_or("max_position_embeddings", MAX_ROWS, silent.max_positions)?,
        })
    }

    /// Columns of all query heads.
    pub(super) fn queries(&self) -> u32 {
        self.heads * self.head_width
    }

    /// Columns of all key heads.
    pub(super) fn keys(&self) -> u32 {
        self.kv_heads * self.head_width
    }
}

/// The columns of one of `heads` heads, which divide `width` among them.
pub(super) fn head_width(config: &Config, field: &str, width: u32, heads: u32) -> Result<u32, CheckpointError> {
    if width.is_multiple_of(heads) {
        Ok(width / heads)
    } else {
        Err(config.wrong(field, format!("a divisor of the hidden size {width}")))
    }
}

/// `field`, or what the family has where config.json is silent; an explicit null is `None`.
pub(super) fn or_silent(config: &Config, field: &str, silent: Option<u32>) -> Result<Option<u32>, CheckpointError> {
    match config.get(field) {
        Some(_) => config.size(field, MAX_ROWS).map(Some),
        None if config.is_null(field) => Ok(None),
        None => Ok(silent),
    }
}

/// A soft cap: `field`, or what the family has where config.json is silent; an explicit null is `None`.
pub(super) fn soft_cap(config: &Config, field: &str, silent: f64) -> Result<Option<f64>, CheckpointError> {
    if config.is_null(field) { Ok(None) } else { config.positive_or(field, silent).map(Some) }
}

/// `cap · tanh(x / cap)`
fn capped(graph: &mut Graph, x: Id, cap: Option<f64>) -> Result<Id, FactError> {
    let Some(cap) = cap else { return Ok(x) };
    let size = graph.real(cap as f32)?;
    let small = graph.over(x, size)?;
    let bent = graph.tanh(small)?;
    graph.times(bent, size)
}

/// Rotary positions of a graph.
#[derive(Clone, Copy)]
pub(super) struct Rotary {
    frequencies: Id,
    scale: f32,
}

impl Rotary {
    /// Keeps the frequencies under `name`.
    pub(super) fn new(net: &mut Net<'_>, name: &str, rope: Rope) -> Result<Rotary, CheckpointError> {
        Ok(Rotary { frequencies: net.generated(name, rope.frequencies)?, scale: rope.scale })
    }

    /// Turns each of the heads of `x` according to its row's position.
    pub(super) fn turn(&self, graph: &mut Graph, x: Id, heads: u32) -> Result<Id, FactError> {
        graph.rope(x, self.frequencies, heads, false, self.scale)
    }
}

/// Attention of the new rows to all rows of the sequence that are not later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention {
    /// Query heads.
    pub(super) heads: u32,
    /// Key and value heads.
    pub(super) kv_heads: u32,
    /// Scores are multiplied by this.
    pub(super) scale: f64,
    /// Soft cap of the scores.
    pub(super) cap: Option<f64>,
    /// Rows that a query sees, itself included; `None` is all.
    pub(super) window: Option<u32>,
}

impl Attention {
    /// What most families have: scores over the root of the head's width, no cap.
    pub(super) fn of(sizes: &Sizes, window: Option<u32>) -> Attention {
        // A window as long as the longest sequence hides nothing.
        let window = window.filter(|&rows| rows < sizes.max_positions);
        let scale = f64::from(sizes.head_width).powf(-0.5);
        Attention { heads: sizes.heads, kv_heads: sizes.kv_heads, scale, cap: None, window }
    }

    /// `softmax(cap(q kᵀ · scale) + mask) v` for each head. `q` is `[tokens, heads · head width]`; `k` and `v`,
    /// `[tokens, kv heads · head width]`, become rows of the caches.
    pub(super) fn mix(&self, graph: &mut Graph, [q, k, v]: [Id; 3]) -> Result<Id, FactError> {
        let (k, v) = (graph.append(k)?, graph.append(v)?);
        let q = graph.split_heads(q, self.heads)?;
        let [k, v] = [self.each_head(graph, k)?, self.each_head(graph, v)?];
        let k = graph.transpose(k)?;
        let scores = graph.matmul(q, k)?;
        let scores = graph.scale(scores, self.scale as f32)?;
        let scores = capped(graph, scores, self.cap)?;
        let mask = graph.band_mask(self.window.map(|rows| rows - 1), Some(0), Dim::CONTEXT)?;
        let scores = graph.plus(scores, mask)?;
        let shares = graph.softmax(scores)?;
        let mixed = graph.matmul(shares, v)?;
        graph.merge_heads(mixed)
    }

    /// Keys or values as each query head sees them.
    fn each_head(&self, graph: &mut Graph, x: Id) -> Result<Id, FactError> {
        let x = graph.split_heads(x, self.kv_heads)?;
        match self.heads / self.kv_heads {
            1 => Ok(x),
            times => graph.repeat_heads(x, times),
        }
    }
}

/// Tensor names of a gated feed-forward block, each without `.weight` and `.bias`.
pub(super) struct Gated<'a> {
    /// Projection that the activation follows.
    pub(super) gate: &'a str,
    /// Projection that its result is multiplied with.
    pub(super) up: &'a str,
    /// Projection back.
    pub(super) down: &'a str,
    /// Columns in between.
    pub(super) inner: u32,
    /// The activation.
    pub(super) activation: Activation,
    /// Whether the projections have biases.
    pub(super) bias: Bias,
}

impl Gated<'_> {
    /// `down(act(gate(x)) · up(x))` over `width` columns.
    pub(super) fn apply(&self, net: &mut Net<'_>, x: Id, width: u32) -> Result<Id, CheckpointError> {
        let gate = net.linear(x, self.gate, width, self.inner, self.bias)?;
        let up = net.linear(x, self.up, width, self.inner, self.bias)?;
        let gate = self.activation.apply(&mut net.graph, gate)?;
        let gated = net.graph.times(gate, up)?;
        net.linear(gated, self.down, self.inner, width, self.bias)
    }
}

/// Scores over the vocabulary.
pub(super) struct Head<'a> {
    /// The token embedding, which a tied head shares.
    pub(super) table: Id,
    /// Names that the head's own weight may have.
    pub(super) names: &'a [&'a str],
    /// Whether it is tied where config.json is silent.
    pub(super) tied: bool,
    /// Soft cap of the scores.
    pub(super) cap: Option<f64>,
}

impl Head<'_> {
    /// What a decoder gives: hidden states and scores of all rows, and the scores after the last row. `x` is the result
    /// of the last layer, `norm` what follows it.
    pub(super) fn finish(
        &self,
        config: &Config,
        net: &mut Net<'_>,
        sizes: &Sizes,
        x: Id,
        norm: impl Fn(&mut Net<'_>, Id) -> Result<Id, CheckpointError>,
    ) -> Result<Parts, CheckpointError> {
        net.graph.set_layer(None);
        let own = match config.flag_or("tie_word_embeddings", self.tied)? {
            true => None,
            false => Some(net.projection(self.names, &[sizes.vocab_size, sizes.width])?),
        };
        let score = |net: &mut Net<'_>, hidden: Id| -> Result<Id, CheckpointError> {
            let scores = match &own {
                Some(own) => {
                    let hidden = net.facing(hidden, own)?;
                    net.graph.linear(hidden, own.weight, None)?
                }
                None => net.graph.linear(hidden, self.table, None)?,
            };
            Ok(capped(&mut net.graph, scores, self.cap)?)
        };
        let hidden = norm(net, x)?;
        let logits = score(net, hidden)?;
        let last = net.graph.last_row(x)?;
        let last = norm(net, last)?;
        let next = score(net, last)?;
        let Sizes { width, layers, vocab_size, max_positions, .. } = *sizes;
        Ok(Parts { hidden, logits: Some(logits), next: Some(next), width, layers, vocab_size, max_positions })
    }
}
