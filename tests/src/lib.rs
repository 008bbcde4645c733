//! tests
pub mod gpu;
