//! One method per operator, for those who write a model down.

use egg::Id;
use warpweft_plan::Dim;

use super::{CacheDecl, Element, FactError, Graph, Op, Real, SizeLeaf, WeightDecl};
use crate::formats::Format;

type Built = Result<Id, FactError>;

macro_rules! operators {
    ($($(#[$doc:meta])* $method:ident($($arg:ident),+) => $variant:ident;)+) => {
        impl Graph {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// When the operands do not fit.
                pub fn $method(&mut self, $($arg: Id),+) -> Built {
                    self.add(Op::$variant([$($arg),+]))
                }
            )+
        }
    };
}

operators! {
    /// a + b, broadcast from the last axis.
    plus(a, b) => Add;
    /// a - b
    minus(a, b) => Sub;
    /// a · b
    times(a, b) => Mul;
    /// a / b
    over(a, b) => Div;
    /// x·Φ(x) with the error function.
    gelu(x) => Gelu;
    /// The tanh approximation of GELU.
    gelu_tanh(x) => GeluTanh;
    /// x·σ(x)
    silu(x) => Silu;
    /// max(x, 0)
    relu(x) => Relu;
    /// Hyperbolic tangent.
    tanh(x) => Tanh;
    /// 1 / (1 + exp(-x))
    sigmoid(x) => Sigmoid;
    /// `[…, m, k] × […, k, n] → […, m, n]`
    matmul(a, b) => MatMul;
    /// Swaps the last two axes.
    transpose(x) => Transpose;
    /// Rows of `table` `[n, width]` chosen by u32 `index` `[rows]`.
    gather(table, index) => Gather;
    /// The values of a quantized weight or of quantized activations, as f32.
    dequantize(w) => Dequantize;
    /// Column j of the result is column `index[j]` of `x`: `[rows, width] → [rows, n]`. `index` is a constant vector
    /// `[n]`; its numbers are rounded down and clamped to the columns that there are.
    gather_columns(x, index) => GatherColumns;
    /// `[heads, rows, width] → [rows, heads · width]`
    merge_heads(x) => MergeHeads;
    /// exp(x - max) / Σ over the last axis.
    softmax(x) => Softmax;
    /// The mean of the sequence's rows: `[tokens, width] → [sequences, width]`.
    mean_pool(x) => MeanPool;
    /// The sequence's first row.
    first_row(x) => FirstRow;
    /// The greatest value of each column over the sequence's rows.
    max_pool(x) => MaxPool;
    /// The sequence's last row.
    last_row(x) => LastRow;
}

impl Graph {
    /// An integer attribute.
    ///
    /// # Errors
    /// None in practice: leaves always fit.
    pub fn int(&mut self, value: i64) -> Built {
        self.add(Op::Int(value))
    }

    /// A scalar.
    ///
    /// # Errors
    /// When it is not finite.
    pub fn real(&mut self, value: f32) -> Built {
        if !value.is_finite() {
            return Err(FactError { op: "real".into(), problem: format!("{value} is not finite") });
        }
        self.add(Op::Real(Real::new(value)))
    }

    /// A weight of the checkpoint.
    ///
    /// # Errors
    /// None in practice: a weight that was just declared is known.
    pub fn weight(&mut self, name: impl Into<String>, dtype: impl Into<Element>, shape: &[u64]) -> Built {
        let id = self.declare_weight(WeightDecl { name: name.into(), dtype: dtype.into(), shape: shape.to_vec() });
        self.add(Op::Weight(id))
    }

    /// A constant vector of `n` elements that are all `value`.
    ///
    /// # Errors
    /// When `value` is not finite or `n` is 0.
    pub fn fill(&mut self, value: f32, n: u64) -> Built {
        let (value, n) = (self.real(value)?, self.int(n as i64)?);
        self.add(Op::Fill([value, n]))
    }

    /// The token ids, u32 `[tokens]`.
    ///
    /// # Errors
    /// None in practice.
    pub fn token_ids(&mut self) -> Built {
        self.add(Op::Ids)
    }

    /// The position of each token in its sequence, u32 `[tokens]`.
    ///
    /// # Errors
    /// None in practice.
    pub fn positions(&mut self) -> Built {
        self.add(Op::Positions)
    }

    /// `x · wᵀ (+ bias)`: `x` `[tokens, k]`, `w` `[n, k]` as checkpoints store it, `bias` `[n]`.
    ///
    /// # Errors
    /// When the operands do not fit.
    pub fn linear(&mut self, x: Id, w: Id, bias: Option<Id>) -> Built {
        let wt = self.transpose(w)?;
        let y = self.matmul(x, wt)?;
        match bias {
            Some(b) => self.plus(y, b),
            None => Ok(y),
        }
    }

    /// (x - mean) / sqrt(variance + eps) · gain (+ bias)
    ///
    /// # Errors
    /// When the operands do not fit.
    pub fn layer_norm(&mut self, x: Id, eps: f32, gain: Id, bias: Option<Id>) -> Built {
        let (eps, acc) = (self.real(eps)?, self.add(Op::Acc)?);
        let normed = self.add(Op::LayerNorm([x, eps, acc]))?;
        let scaled = self.times(normed, gain)?;
        match bias {
            Some(b) => self.plus(scaled, b),
            None => Ok(scaled),
        }
    }

    /// x / sqrt(mean(x²) + eps)
    ///
    /// # Errors
    /// When the operands do not fit.
    pub fn rms_norm(&mut self, x: Id, eps: f32) -> Built {
        let (eps, acc) = (self.real(eps)?, self.add(Op::Acc)?);
        self.add(Op::RmsNorm([x, eps, acc]))
    }

    /// x / max(‖x‖₂, eps)
    ///
    /// # Errors
    /// When the operands do not fit.
    pub fn l2_norm(&mut self, x: Id, eps: f32) -> Built {
        let (eps, acc) = (self.real(eps)?, self.add(Op::Acc)?);
        self.add(Op::L2Norm([x, eps, acc]))
    }

    /// `x · value`
    ///
    /// # Errors
    /// When `value` is not finite.
    pub fn scale(&mut self, x: Id, value: f32) -> Built {
        let value = self.real(value)?;
        self.times(x, value)
    }

    /// A matrix of weights `[n, k]`, rounded row by row to a quantized format; or one of activations `[rows, k]`, rounded to
    /// int8: code = round(x / scale), with the scale max|x| / 127 of each row.
    ///
    /// # Errors
    /// When it is no matrix of floats, the format is one of floats, or activations are to be rounded to another one.
    pub fn quantize(&mut self, w: Id, format: Format) -> Built {
        let format = self.add(Op::Format(format))?;
        self.add(Op::Quantize([format, w]))
    }

    /// Part of one axis: `start .. start + len`.
    ///
    /// # Errors
    /// When it is outside.
    pub fn slice(&mut self, x: Id, axis: u32, start: u64, len: u64) -> Built {
        let (axis, start, len) = (self.int(axis.into())?, self.int(start as i64)?, self.int(len as i64)?);
        self.add(Op::Slice([x, axis, start, len]))
    }

    /// `a` then `b` along one axis.
    ///
    /// # Errors
    /// When they differ in another axis or in element type.
    pub fn concat(&mut self, axis: u32, a: Id, b: Id) -> Built {
        let axis = self.int(axis.into())?;
        self.add(Op::Concat([axis, a, b]))
    }

    /// `[rows, heads · width] → [heads, rows, width]`
    ///
    /// # Errors
    /// When the heads do not divide the columns.
    pub fn split_heads(&mut self, x: Id, heads: u32) -> Built {
        let heads = self.int(heads.into())?;
        self.add(Op::SplitHeads([x, heads]))
    }

    /// Each head `times` times in a row: `[heads, rows, width] → [heads · times, rows, width]`.
    ///
    /// # Errors
    /// When `x` has not three axes.
    pub fn repeat_heads(&mut self, x: Id, times: u32) -> Built {
        let times = self.int(times.into())?;
        self.add(Op::RepeatHeads([x, times]))
    }

    /// 0 where `-before <= j - i <= after`, else minus infinity: `[tokens, keys]`; `None` is no bound.
    ///
    /// # Errors
    /// None in practice.
    pub fn band_mask(&mut self, before: Option<u32>, after: Option<u32>, keys: Dim) -> Built {
        let bound = |n: Option<u32>| n.map_or(-1, i64::from);
        let (before, after) = (self.int(bound(before))?, self.int(bound(after))?);
        let keys = self.add(Op::Size(SizeLeaf(keys)))?;
        self.add(Op::BandMask([before, after, keys]))
    }

    /// Appends the new rows to a new cache of the sequence and gives all its rows: `[tokens, width] → [context, width]`.
    /// Whoever reads the result reads what was just written, so no order but the data's has to be kept.
    ///
    /// # Errors
    /// When `x` is no matrix of tokens.
    pub fn append(&mut self, x: Id) -> Built {
        let t = self.tensor(x)?;
        let width = t.shape.last().and_then(|d| d.as_constant()).and_then(|w| u32::try_from(w).ok()).unwrap_or(0);
        let cache = self.declare_cache(CacheDecl { width });
        let cache = self.add(Op::Cache(cache))?;
        self.add(Op::Append([cache, x]))
    }

    /// For each row: the logarithm of the sum of its exponentials, its `n` greatest values in descending order (of equal
    /// ones the first comes first), and their columns: `[rows, width] → [rows, 1 + 2n]`.
    ///
    /// # Errors
    /// When there are fewer than `n` columns.
    pub fn candidates(&mut self, x: Id, n: u32) -> Built {
        let n = self.int(n.into())?;
        self.add(Op::Candidates([x, n]))
    }

    /// Rotary position embedding of `[tokens, heads · width]`: in each head, the first `2 · frequencies` columns are
    /// rotated by position × frequency, in pairs (i, i + half) or, interleaved, (2i, 2i + 1); sine and cosine are
    /// multiplied by `scale`.
    ///
    /// # Errors
    /// When the frequencies do not fit the head width.
    pub fn rope(&mut self, x: Id, frequencies: Id, heads: u32, interleaved: bool, scale: f32) -> Built {
        let positions = self.positions()?;
        let (heads, interleaved) = (self.int(heads.into())?, self.int(interleaved.into())?);
        let scale = self.real(scale)?;
        self.add(Op::Rope([x, positions, frequencies, heads, interleaved, scale]))
    }
}
