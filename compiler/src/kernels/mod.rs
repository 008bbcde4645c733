//! Kernels.

pub mod spec;
