//! What a kernel has to compute, in the terms that shaders are composed from.

use warpweft_plan::{CacheFormat, CacheRows, Dim, PAD, Sizes};

use super::RowRange;
use crate::formats::{Format, Group};

/// Kernels whose rows are sequences are chosen for so many at the most, and work for any number.
const MOST_SEQUENCES: u32 = 4;

/// A column window of a row-major f32 matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Columns that mean something.
    pub width: u32,
    /// Elements from one row to the next, a multiple of [`PAD`].
    pub stride: u32,
    /// First column.
    pub offset: u32,
    /// The matrix is an image.
    pub image: bool,
}

impl View {
    /// A whole matrix of `width` columns, padded as all activations are.
    pub fn whole(width: u32) -> View {
        View { width, stride: width.next_multiple_of(PAD as u32), offset: 0, image: false }
    }

    /// A whole matrix that is an image if `image` says so.
    pub fn whole_in(width: u32, image: bool) -> View {
        View { image, ..View::whole(width) }
    }

    /// The matrix of 32-bit words that rows of codes of `width` columns are: stored rows of int8-row, padded as all
    /// activations are.
    pub fn of_codes(width: u32) -> View {
        View::whole((Format::Int8(Group::Row).row_bytes(width as usize) / 4) as u32)
    }
}

/// What the rows of a kernel's result stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One per token of the step.
    Tokens,
    /// One per sequence of the step.
    Sequences,
}

impl Rows {
    /// The number of rows.
    pub fn dim(self) -> Dim {
        match self {
            Rows::Tokens => Dim::TOKENS,
            Rows::Sequences => Dim::SEQUENCES,
        }
    }

    /// How many there are in a step of so many tokens.
    pub fn range(self, tokens: RowRange) -> RowRange {
        match self {
            Rows::Tokens => tokens,
            // Mostly one long sequence, or as many as there are rows.
            Rows::Sequences => RowRange { min: 1, max: Some(tokens.max.unwrap_or(u32::MAX).min(MOST_SEQUENCES)) },
        }
    }
}

/// What selects a row of a gathered table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Index {
    /// The token's id.
    Ids,
    /// The token's position in its sequence.
    Positions,
}

/// A tensor that a [`Term`] reads at the element being computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// One f32 per column, the same for all rows.
    Vector,
    /// One f32 per row and column.
    Matrix(View),
    /// What stands where the result goes, which is written over it: a matrix as a whole. It has no binding of its own.
    Result,
    /// A matrix over which the second result is written, of what has two.
    Next,
    /// The table's row that the index selects. Where the index is outside `first .. first + rows`, the kernel
    /// leaves the result's row alone: a table above the binding limit is split into windows, a dispatch each.
    Gather {
        /// How the table is stored.
        format: Format,
        /// First row of the window that is bound.
        first: u32,
        /// Rows in the window.
        rows: u32,
        /// What selects the row.
        index: Index,
    },
}

/// A pointwise function of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unary {
    /// x·Φ(x), with the error function.
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// x·σ(x)
    Silu,
    /// max(x, 0)
    Relu,
    /// tanh(x)
    Tanh,
    /// 1 / (1 + exp(-x))
    Sigmoid,
}

/// A pointwise function of two arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// a + b
    Add,
    /// a - b
    Sub,
    /// a · b
    Mul,
    /// a / b
    Div,
}

/// A pointwise expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// What the kernel's algorithm computed for this element (a dot product, a normalised value, a score).
    Acc,
    /// What the second contraction computed: the `up` half of a gated pair.
    Acc2,
    /// The operand of that index.
    Operand(usize),
    /// A number.
    Constant(f32),
    /// A function of one term.
    Unary(Unary, Box<Term>),
    /// A function of two terms.
    Binary(Binary, Box<Term>, Box<Term>),
    /// Attention only: 0 where key j and query i (positions in one sequence) have
    /// `-before <= j - i <= after`, else minus infinity. `None` is no bound.
    BandMask {
        /// Keys before the query that are seen.
        before: Option<u32>,
        /// Keys after the query that are seen.
        after: Option<u32>,
    },
}

/// Which statistics a normalisation divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Norm {
    /// (x - mean) / sqrt(variance + eps)
    Layer,
    /// x / sqrt(mean(x²) + eps)
    Rms,
    /// x / max(‖x‖₂, eps)
    L2,
}

/// A norm of the rows that a kernel reads.
#[derive(Clone, Debug, PartialEq)]
pub struct RowNorm {
    /// Which statistics.
    pub norm: Norm,
    /// Epsilon.
    pub eps: f32,
    /// What is made of the normalised value, over [`Term::Acc`] and the prologue's operands.
    pub term: Term,
}

/// What a linear does to each row of x before it contracts it.
#[derive(Clone, Debug, PartialEq)]
pub struct Prologue {
    /// One norm, or a second one of what the first makes.
    pub norms: Vec<RowNorm>,
    /// The tensors of the terms; their columns are those of x.
    pub operands: Vec<Operand>,
    /// The rows after the first norm are a result too, as a whole matrix.
    pub carried: bool,
}

/// How rows of one sequence become one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pool {
    /// The mean over the sequence's rows.
    Mean,
    /// The first row.
    First,
    /// The greatest value in each column.
    Max,
    /// The last row.
    Last,
}

/// How heads are turned by the position of their row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation {
    /// Columns of each head that turn; an even number. The frequencies are a vector of half as many.
    pub rotary: u32,
    /// Pairs are (2i, 2i+1) rather than (i, i + rotary/2).
    pub interleaved: bool,
    /// Factor on sine and cosine.
    pub scale: f32,
    /// Where in the operation's vector the frequencies begin.
    pub frequencies: u32,
}

/// x / sqrt(mean(x²) + eps) of each head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadNorm {
    /// Epsilon.
    pub eps: f32,
    /// Where in the operation's vector that begins what the result is multiplied by, as wide as a head.
    pub gain: Option<u32>,
}

/// Where the rows of a [`HeadPart`] go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// To the same rows of a matrix of its own.
    Rows,
    /// To the rows of a cache of that format that the step's pages give their positions. The heads of a row are those of
    /// the part.
    Cache(CacheFormat),
}

/// Heads that are made ready for attention: normalised, then turned, then put where attention reads them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadPart {
    /// Their columns of the matrix.
    pub x: View,
    /// How many heads these are.
    pub heads: u32,
    /// Normalised by head.
    pub norm: Option<HeadNorm>,
    /// Turned.
    pub rotation: Option<Rotation>,
    /// Where they go, as a whole matrix or cache.
    pub to: Destination,
}

/// Which heads attend to which.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Queries, `[tokens, heads · head_dim]`.
    pub q: View,
    /// Keys, `[tokens, kv_heads · head_dim]`.
    pub k: View,
    /// Values, `[tokens, kv_heads · value_dim]`.
    pub v: View,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads, a divisor of `heads`.
    pub kv_heads: u32,
    /// From raw score to logit: scale, soft cap, mask. No tensor operands.
    pub term: Term,
    /// The longest sequence, for the bound on loop trips.
    pub max_context: u32,
    /// The result is an image.
    pub image: bool,
}

/// Columns of one matrix that attention makes ready itself: what [`Operation::Heads`] does, for one row at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fresh {
    /// Queries.
    pub q: HeadPart,
    /// Keys, which go to a cache too.
    pub k: HeadPart,
    /// Values, which go to another cache.
    pub v: HeadPart,
    /// Elements of the vector in which all frequencies and gains stand one behind the other.
    pub vector: u32,
}

/// The context of a row in chunks, each attended to by workgroups of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Split {
    /// Keys of a chunk.
    pub keys: u32,
    /// The most chunks that a row sees.
    pub count: u32,
}

impl Split {
    /// vec4s that one row, one head and one chunk leave behind: the columns, then greatest score and sum.
    pub fn part4(value_dim: u32) -> u32 {
        value_dim.div_ceil(4) + 1
    }
}

/// What a kernel computes. Sizes are logical; physical padding follows from the contract in `docs/kernels.md`.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// `out[m, n] = epilogue(Σ_k x[m, k] · w[n, k])`; operands' columns are `n`.
    Linear {
        /// The activations, `[rows, K]`.
        x: View,
        /// Rows of the weight that is bound, before padding.
        n: u32,
        /// How the weight is stored.
        format: Format,
        /// A second weight of the same shape and format, whose dot product is [`Term::Acc2`].
        paired: bool,
        /// The epilogue.
        term: Term,
        /// The epilogue's tensors.
        operands: Vec<Operand>,
        /// Where the result goes: columns `offset .. offset + n` of a matrix.
        out: View,
        /// What a row is.
        rows: Rows,
    },
    /// [`Operation::Linear`] of rows that every workgroup which reads them normalises first.
    NormedLinear {
        /// What is done to the rows.
        prologue: Prologue,
        /// The linear.
        linear: Box<Operation>,
    },
    /// [`Operation::Linear`] that leaves its rows times a gain beside its result, with moments: [`crate::graph::moments`].
    GainedLinear {
        /// Which operand the gain is: a vector.
        gain: usize,
        /// The linear, of a whole result.
        linear: Box<Operation>,
    },
    /// [`Operation::Linear`] of rows that have their moments behind them: what is contracted is scaled as if the rows had been
    /// normalised.
    ScaledLinear {
        /// Epsilon.
        eps: f32,
        /// The linear.
        linear: Box<Operation>,
    },
    /// [`Operation::Linear`] over integers: x is rows of codes ([`Operation::Quantize`]) whose view is that of a whole
    /// matrix of as many columns, the weights are [`Format::Int8`].
    IntegerLinear(Box<Operation>),
    /// Rows as codes: `round(x / scale)` as signed bytes, with `scale = max|x| / 127` of each row.
    Quantize {
        /// The activations.
        x: View,
        /// What a row is.
        rows: Rows,
    },
    /// Rows of codes as floats.
    Dequantize {
        /// Columns.
        width: u32,
        /// What a row is.
        rows: Rows,
    },
    /// For each head h, `out[m, h·n + i] = Σ_k x[m, h·K + k] · w[h·n + i, k]`.
    PerHead {
        /// The activations, `[rows, heads · K]`.
        x: View,
        /// Heads.
        heads: u32,
        /// Columns of a head of the result.
        n: u32,
        /// How the weight is stored.
        format: Format,
        /// What a row is.
        rows: Rows,
    },
    /// For each head, `softmax_j(term(q_i · k_j)) v_j` over the keys of the row's own sequence.
    Attention(Attention),
    /// `out = epilogue(norm(input))` over each row, and, if there is a second norm, beside that what it makes of `out`.
    Normalize {
        /// Which statistics.
        norm: Norm,
        /// Epsilon.
        eps: f32,
        /// Columns.
        width: u32,
        /// What is normalised, over the operands.
        input: Term,
        /// The epilogue, over [`Term::Acc`] and the operands.
        term: Term,
        /// The second norm.
        then: Option<RowNorm>,
        /// The tensors of all terms.
        operands: Vec<Operand>,
        /// What a row is.
        rows: Rows,
        /// The result is an image: without a second norm.
        image: bool,
    },
    /// `out = term(operands)`, pointwise.
    Map {
        /// Columns.
        width: u32,
        /// The expression.
        term: Term,
        /// Its tensors.
        operands: Vec<Operand>,
        /// What a row is.
        rows: Rows,
    },
    /// `out[m, n] = x[m, index[n]]`; indices are floats, clamped to the columns that there are.
    Columns {
        /// The activations.
        x: View,
        /// Columns of the result.
        width: u32,
        /// What a row is.
        rows: Rows,
    },
    /// Rows of each sequence to one row.
    Pool {
        /// How.
        pool: Pool,
        /// The rows, `[tokens, width]`.
        x: View,
        /// The longest sequence, for the bound on loop trips.
        max_context: u32,
    },
    /// Parts of the columns of a matrix, read once.
    Heads {
        /// The parts, each with a result of its own.
        parts: Vec<HeadPart>,
        /// Elements of the vector in which all frequencies and gains stand one behind the other.
        vector: u32,
    },
    /// [`Operation::Attention`] whose keys and values lie in caches, in pages of the sequence.
    CachedAttention {
        /// What is attended to: k and v are columns of a cache's rows, `max_context` is the longest context.
        attention: Attention,
        /// The caches of k and v.
        caches: [CacheRows; 2],
        /// The kernel makes the step's rows ready itself and appends them to the caches. The attention's q is only as
        /// wide as what it makes; its k and v are whole caches.
        fresh: Option<Fresh>,
        /// The result is the parts of each chunk, for [`Operation::CombineAttention`]: for each row, chunk and head
        /// [`Split::part4`] vec4s.
        split: Option<Split>,
    },
    /// The parts of each chunk become the attention's result.
    CombineAttention {
        /// Query heads.
        heads: u32,
        /// Columns of a head of v.
        value_dim: u32,
        /// The attention's term: its mask says which chunks there are.
        term: Term,
        /// The chunks.
        split: Split,
        /// The result is an image.
        image: bool,
    },
    /// Of each row, in chunks of columns: greatest value, sum of exponentials, and the greatest value of each group of columns.
    CandidateChunks {
        /// Scores.
        x: View,
        /// What a row is.
        rows: Rows,
    },
    /// Of each row, logarithm of the sum of exponentials, greatest values and their columns. The only operand is what the chunks
    /// hold, of rows that are searched so (`candidates::is_chunked`).
    Candidates {
        /// Scores.
        x: View,
        /// How many greatest values.
        n: u32,
        /// What a row is.
        rows: Rows,
    },
}

impl Operation {
    /// The linear of one that does more or is one over integers, else the operation itself.
    pub fn inner(&self) -> &Operation {
        match self {
            Operation::NormedLinear { linear, .. }
            | Operation::GainedLinear { linear, .. }
            | Operation::ScaledLinear { linear, .. }
            | Operation::IntegerLinear(linear) => linear,
            other => other,
        }
    }

    /// The same, to change it.
    pub fn inner_mut(&mut self) -> &mut Operation {
        match self {
            Operation::NormedLinear { linear, .. }
            | Operation::GainedLinear { linear, .. }
            | Operation::ScaledLinear { linear, .. }
            | Operation::IntegerLinear(linear) => linear,
            other => other,
        }
    }

    /// Of what is pointwise at its end, the operands and where the result goes.
    pub fn pointwise(&self) -> Option<(&[Operand], View)> {
        match self.inner() {
            Operation::Linear { operands, out, .. } => Some((operands, *out)),
            Operation::Normalize { operands, width, image, .. } => Some((operands, View::whole_in(*width, *image))),
            Operation::Map { operands, width, .. } => Some((operands, View::whole(*width))),
            Operation::NormedLinear { .. }
            | Operation::GainedLinear { .. }
            | Operation::ScaledLinear { .. }
            | Operation::IntegerLinear(_)
            | Operation::Quantize { .. }
            | Operation::Dequantize { .. }
            | Operation::PerHead { .. }
            | Operation::Attention(_)
            | Operation::Columns { .. }
            | Operation::Pool { .. }
            | Operation::Heads { .. }
            | Operation::CachedAttention { .. }
            | Operation::CombineAttention { .. }
            | Operation::CandidateChunks { .. }
            | Operation::Candidates { .. } => None,
        }
    }

    /// The numbers of rows of the result in a step of so many tokens.
    pub fn row_range(&self, tokens: RowRange) -> RowRange {
        self.rows().range(tokens)
    }

    /// The step for which its time is predicted, in a program for so many tokens.
    pub fn sizes(&self, tokens: RowRange) -> Sizes {
        match self {
            Operation::CachedAttention { .. } | Operation::CombineAttention { .. } => tokens.cached_sizes(),
            _ => self.row_range(tokens).sizes(self.rows()),
        }
    }

    /// What the rows of the result are.
    fn rows(&self) -> Rows {
        match self {
            Operation::Linear { rows, .. }
            | Operation::PerHead { rows, .. }
            | Operation::Quantize { rows, .. }
            | Operation::Dequantize { rows, .. }
            | Operation::Normalize { rows, .. }
            | Operation::Map { rows, .. }
            | Operation::Columns { rows, .. }
            | Operation::CandidateChunks { rows, .. }
            | Operation::Candidates { rows, .. } => *rows,
            Operation::NormedLinear { linear, .. }
            | Operation::GainedLinear { linear, .. }
            | Operation::ScaledLinear { linear, .. }
            | Operation::IntegerLinear(linear) => linear.rows(),
            Operation::Pool { .. } => Rows::Sequences,
            Operation::Attention(_)
            | Operation::Heads { .. }
            | Operation::CachedAttention { .. }
            | Operation::CombineAttention { .. } => Rows::Tokens,
        }
    }
}
