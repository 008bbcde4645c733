//! What a plan holds: buffers, kernels, and programs made of steps.

use serde::{Deserialize, Serialize};

use crate::{CacheRows, Cost, DType, Dim, Provenance, Quantization, Sizes, Tuning};

/// A compiled model: everything that a runtime needs, and nothing that it has to decide.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What the model is.
    pub model: Model,
    /// Packed weights, in the order of their bytes in the file.
    pub tensors: Vec<Tensor>,
    /// Everything that a step can bind.
    pub buffers: Vec<Buffer>,
    /// All shaders of all programs, each once.
    pub kernels: Vec<Kernel>,
    /// One program for each target, range of rows and output.
    pub programs: Vec<Program>,
    /// Where the programs come from. In a file it stands apart from the rest of the JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
    /// Which weights were rounded. In a file it stands apart as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
}

/// What the model is and what its users may ask of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The checkpoint's name, for people.
    pub name: String,
    /// `model_type` of its config.json.
    pub family: String,
    /// Number of layers.
    pub layers: u32,
    /// Ids are below this.
    pub vocab_size: u32,
    /// Rows that one sequence may have at the most.
    pub max_positions: u32,
    /// Rows that a text is cut to (sentence-transformers' `max_seq_length`), at most `max_positions`.
    pub max_text_tokens: u32,
    /// Ids that end a text; none for models that write no text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eos_ids: Vec<u32>,
}

/// A packed weight in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// Unique name: the checkpoint's, or an expression over its names when the compiler merged or folded several.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Physical shape, padding included, row-major.
    pub shape: Vec<u64>,
    /// The quantized format whose codes and scales the words of a row are, for people and reports; nothing else looks into
    /// them. `None` where the elements are what the type says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

impl Tensor {
    /// Size in bytes; `None` on overflow.
    pub fn bytes(&self) -> Option<u64> {
        self.shape.iter().try_fold(self.dtype.bytes(), |a, &n| a.checked_mul(n))
    }

    /// What its elements are, for people: its format if it is quantized, else its type.
    pub fn kind(&self) -> &str {
        self.format.as_deref().unwrap_or(self.dtype.name())
    }
}

/// Something that a step binds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buffer {
    /// For people.
    pub name: String,
    /// Where its content comes from.
    pub role: Role,
    /// Size in bytes. Evaluated with `tokens` rounded up to a multiple of [`ROW_BLOCK`].
    pub bytes: Dim,
}

/// Buffers that grow with `tokens` have room for a multiple of this many rows,
/// so that a kernel may read (never write) past the last row of a tile.
pub const ROW_BLOCK: u64 = 64;

/// Rows of activations and weights are padded to a multiple of this many elements.
pub const PAD: u64 = 8;

/// Rows of one page of a cache.
pub const PAGE_ROWS: u64 = 32;

/// Bytes of a texel of an image: four words of 32 bits.
pub const TEXEL: u64 = 16;

/// Texels of a row of an image: texel i of a weight or a matrix stands in row `i / IMAGE_WIDTH`. With WebGPU's 8,192 rows an
/// image holds what its largest storage binding does.
pub const IMAGE_WIDTH: u64 = 1024;

/// Where the content of a [`Buffer`] comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Role {
    /// Bytes `offset ..` of a packed tensor.
    Weight {
        /// Index into [`Plan::tensors`].
        tensor: usize,
        /// First byte, a multiple of 4.
        offset: u64,
    },
    /// Written by a step before it is read, shared by several values whose lives don't overlap.
    Scratch,
    /// Written by the runtime before the first step.
    Input(Input),
    /// Written by the last steps, read by the runtime.
    Output,
    /// Rows that outlive the step: keys or values of all sessions, in pages of [`PAGE_ROWS`] rows. Its size is a multiple
    /// of `context`, which stands for the rows of the whole pool.
    Cache {
        /// Rows before a row's own that it sees, at the most: those before them may be forgotten, so pages are those of
        /// [`Input::WindowPages`]. If `None`, a row sees all rows before it, and pages are those of [`Input::Pages`].
        window: Option<u32>,
        /// What a row is.
        rows: CacheRows,
    },
}

/// Tables that describe the rows of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// `u32` per row: its token id.
    Ids,
    /// `vec4<u32>` per row: position in its sequence, first row of its sequence, rows of its sequence in this step, index of its sequence.
    Rows,
    /// `vec4<u32>` per sequence: first row, rows, rows that its cache held before this step, and where its pages begin in
    /// [`Input::Pages`] and [`Input::WindowPages`].
    Sequences,
    /// `u32` per page of each sequence, in order: the page's index in the pool of the caches without a window.
    Pages,
    /// The same for the pool of the caches with a window. Pages that were forgotten are 0; a kernel does not read them.
    WindowPages,
    /// One uniform `vec4<u32>`: rows in this step, sequences in this step, 0, 0.
    Step,
}

impl Input {
    /// The table of the pages of caches with or without a window.
    pub fn pages_of(window: Option<u32>) -> Input {
        if window.is_some() { Input::WindowPages } else { Input::Pages }
    }

    /// Size in bytes.
    pub fn bytes(self) -> Dim {
        match self {
            Input::Ids => Dim::TOKENS * 4,
            Input::Rows => Dim::TOKENS * 16,
            Input::Sequences => Dim::SEQUENCES * 16,
            // Pages that several sequences share are listed for each, so there is room for more than the pool has.
            Input::Pages | Input::WindowPages => Dim::CONTEXT * 4,
            Input::Step => Dim::constant(16),
        }
    }
}

/// A shader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Unique: the operation, the algorithm and what distinguishes it from its siblings.
    pub name: String,
    /// Complete WGSL with the entry point `main`, all bindings in group 0. In a file it stands apart from the JSON.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub wgsl: String,
    /// Invocations in a workgroup.
    pub workgroup: [u32; 3],
    /// Binding `i` is `@binding(i)`.
    pub bindings: Vec<Binding>,
    /// The most loop iterations that one invocation makes, over all its loops.
    pub loop_trips: u64,
    /// What one invocation does: what its time is predicted from.
    #[serde(default)]
    pub cost: Cost,
    /// What it computes, as the text form of a graph whose inputs and output are named as the bindings are.
    pub meaning: String,
}

/// One binding of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// The variable in the shader.
    pub name: String,
    /// How the shader sees it.
    pub access: Access,
}

/// How a shader sees a buffer, or a weight or a matrix that is an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    ReadWrite,
    /// `var<uniform>`
    Uniform,
    /// `texture_storage_2d<rgba32uint, read>`, [`IMAGE_WIDTH`] texels wide: the bytes of a weight or a matrix in their order,
    /// [`TEXEL`] of them a texel.
    Image,
    /// `texture_storage_2d<rgba32uint, write>`: a matrix that is an image for all who read it.
    ImageWrite,
}

impl Access {
    /// Whether the shader writes there.
    pub fn writes(self) -> bool {
        match self {
            Access::ReadWrite | Access::ImageWrite => true,
            Access::Read | Access::Uniform | Access::Image => false,
        }
    }

    /// Whether it is an image that is bound.
    pub fn is_image(self) -> bool {
        match self {
            Access::Image | Access::ImageWrite => true,
            Access::Read | Access::ReadWrite | Access::Uniform => false,
        }
    }
}

/// One dispatch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Index into [`Plan::kernels`].
    pub kernel: usize,
    /// Indices into [`Plan::buffers`], in binding order.
    pub buffers: Vec<usize>,
    /// Workgroups in x, y, z.
    pub grid: [Groups; 3],
    /// The layer it belongs to; `None` before the first and after the last.
    pub layer: Option<u32>,
    /// Bytes that it must move at the least: each operand read once, the result written once.
    pub bytes: Dim,
    /// Floating-point operations, for a context as long as the step.
    pub flops: Dim,
    /// Bytes of the values in scratch buffers that this step, or one that may run beside it, reads or writes, or that a
    /// later one reads. The greatest of a program is what its scratch buffers need at the least.
    pub live: Dim,
}

/// `ceil(dim / per)` workgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// What is divided among workgroups.
    pub dim: Dim,
    /// How much of it one workgroup does; not 0.
    pub per: u32,
}

impl Groups {
    /// One workgroup.
    pub const ONE: Groups = Groups { dim: Dim::constant(1), per: 1 };

    /// Number of workgroups; `None` if `per` is 0 or the size is negative or too large.
    pub fn count(self, sizes: Sizes) -> Option<u64> {
        let size = self.dim.eval(sizes)?;
        (self.per > 0).then(|| size.div_ceil(u64::from(self.per)))
    }
}

/// The steps that compute one output for one range of rows on one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The target's name.
    pub target: String,
    /// What an adapter must have.
    pub tier: Tier,
    /// Least number of rows in a step for which this program was made.
    pub min_rows: u32,
    /// Greatest number of rows; `None` is any number.
    pub max_rows: Option<u32>,
    /// What it computes.
    pub output: Output,
    /// Values on the way that are kept for whoever wants to see them: what weights are calibrated by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taps: Vec<Tap>,
    /// Its dispatches, in order; each sees the writes of those before it.
    pub steps: Vec<Step>,
    /// Kernels that take the place of some of these on families of adapters where they are faster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tunings: Vec<Tuning>,
}

/// What an adapter must have to run a program. The defaults are those of WebGPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Subgroups of exactly this size.
    pub subgroup_size: Option<u32>,
    /// 64-bit integers in shaders.
    pub int64: bool,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Invocations in one workgroup.
    pub workgroup_invocations: u32,
    /// Bytes of one storage binding.
    pub binding_bytes: u64,
    /// Storage buffers in one kernel.
    pub storage_buffers: u32,
    /// Storage images in one kernel.
    pub images: u32,
}

/// A result that the runtime reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Which one.
    pub kind: OutputKind,
    /// Index into [`Plan::buffers`].
    pub buffer: usize,
    /// Rows: `tokens` or `sequences`.
    pub rows: Dim,
    /// Columns that mean something.
    pub width: u32,
    /// Elements (f32) from one row to the next.
    pub stride: u32,
}

/// A value on the way to a program's output, a row per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tap {
    /// Index into [`Plan::buffers`].
    pub buffer: usize,
    /// Columns that mean something.
    pub width: u32,
    /// Elements (f32) from one row to the next.
    pub stride: u32,
}

/// The outputs that a model can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// The last hidden state, a row per token.
    Hidden,
    /// The pooled vector, a row per sequence.
    Embedding,
    /// Scores over the vocabulary, a row per token.
    Logits,
    /// Scores over the vocabulary for the token after each sequence, a row per sequence.
    Next,
    /// A row per sequence: the logarithm of the sum of exponentials of its [`OutputKind::Next`] row, then its greatest
    /// scores in descending order, then their ids as floats.
    Candidates,
}

impl OutputKind {
    /// All kinds.
    pub const ALL: [OutputKind; 5] =
        [OutputKind::Hidden, OutputKind::Embedding, OutputKind::Logits, OutputKind::Next, OutputKind::Candidates];

    /// The name in text forms and reports.
    pub fn name(self) -> &'static str {
        match self {
            OutputKind::Hidden => "hidden",
            OutputKind::Embedding => "embedding",
            OutputKind::Logits => "logits",
            OutputKind::Next => "next",
            OutputKind::Candidates => "candidates",
        }
    }
}
