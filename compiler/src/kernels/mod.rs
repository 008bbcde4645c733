//! Kernels: from an [`Operation`](spec::Operation) and a [`Target`](crate::target::Target) to WGSL.
//!
//! A kernel file (`linear/broadcast_tile.wgsl`) is a complete f32 kernel with slots; [`lower`] picks an algorithm and its
//! tile by the target's rates, fills the slots, unrolls and validates. `docs/kernels.md` has the layout contract.

mod attention;
mod batch;
pub mod cached;
pub mod candidates;
pub(crate) mod codes;
pub(crate) mod columns;
mod compose;
mod constant;
pub(crate) mod cost;
mod fresh;
pub mod heads;
mod image;
mod integer;
mod interface;
mod linear;
pub(crate) mod moments;
mod per_head;
mod prologue;
mod rowwise;
pub mod spec;
mod stored;
mod table;
mod template;
mod term;
mod unroll;
mod validate;
mod weights;
mod weights_tile;

pub use attention::AttentionTile;
pub use batch::{Job, lower_all};
pub use cached::{CachedTile, CachedWorkgroup};
pub use compose::{Algorithm, Choice, Composed, RowRange, Slot, candidates, compose, lower};
pub use integer::{IntegerTile, IntegerWorkgroup};
pub use linear::{BroadcastTile, SplitDot, WorkgroupTile};
pub use prologue::{NormCost, matrices};
pub use rowwise::NormalizeBy;
pub use unroll::UnrollError;
pub use validate::validate;

/// Why there is no kernel for an operation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum KernelError {
    /// The operation binds more storage buffers than the target has.
    #[error("it needs {need} storage buffers, the target has {limit}")]
    StorageBuffers {
        /// What it needs.
        need: u32,
        /// What there is.
        limit: u32,
    },
    /// The operation reads more weights as images than the target has.
    #[error("it needs {need} storage images, the target has {limit}")]
    Images {
        /// What it needs.
        need: u32,
        /// What there is.
        limit: u32,
    },
    /// The operation asks for more workgroup memory than the target has.
    #[error("it needs {need} bytes of workgroup memory, the target has {limit}")]
    WorkgroupBytes {
        /// What it needs.
        need: u32,
        /// What there is.
        limit: u32,
    },
    /// One invocation would loop too often.
    #[error("an invocation makes {trips} loop iterations, drivers stop silently after {limit}")]
    LoopTrips {
        /// What it makes.
        trips: u64,
        /// What is safe.
        limit: u64,
    },
    /// Sizes that don't fit together.
    #[error("impossible sizes: {0}")]
    Shape(String),
    /// A term that cannot be written.
    #[error("cannot write the term: {0}")]
    Term(String),
    /// The algorithm does not exist on the target or for the operation.
    #[error("no algorithm {0}")]
    Algorithm(String),
    /// A kernel file does not have the slot.
    #[error("the kernel file has no slot {0:?} with an end")]
    Slot(String),
    /// A kernel file cannot be unrolled.
    #[error(transparent)]
    Unroll(#[from] UnrollError),
    /// The composed text is no valid WGSL, or a back end cannot write it.
    #[error("{kernel} is invalid: {reason}")]
    Invalid {
        /// The kernel.
        kernel: String,
        /// What naga says.
        reason: String,
    },
}
