//! From a transformer's graph to a plan: rewriting by equality saturation, kernels in WGSL, scheduling.
pub mod formats;
pub mod graph;
pub mod kernels;
pub mod target;
pub mod weights;
