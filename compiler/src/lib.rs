//! compiler
pub mod formats;
pub mod kernels;
pub mod target;
