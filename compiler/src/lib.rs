//! compiler
pub mod formats;
pub mod kernels;
