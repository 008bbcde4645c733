//! From a transformer's graph to a plan: rewriting by equality saturation, kernels in WGSL, scheduling.

pub mod extract;
pub mod formats;
pub mod graph;
pub mod kernels;
pub mod lower;
pub mod pack;
pub mod phases;
pub mod roll;
pub mod rules;
pub mod target;
pub mod weights;
