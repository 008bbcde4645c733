//! From a transformer's graph to a plan: rewriting by equality saturation, kernels in WGSL, scheduling.

mod compile;
pub mod extract;
pub mod formats;
pub mod graph;
mod images;
pub mod kernels;
pub mod lossy;
pub mod lower;
pub mod pack;
pub mod phases;
pub mod proof;
pub mod quantize;
pub mod roll;
pub mod rules;
pub mod schedule;
pub mod target;
mod variants;
pub mod weights;

pub use compile::{CompileError, Compiled, Options, ROW_RANGES, compile};
pub use pack::{PackError, Packing, WeightChoice};
pub use phases::{Phase, PhaseReport, UnknownName};
