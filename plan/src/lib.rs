//! The plan: what a compile makes and a runtime runs.
//!
//! A plan is a list of kernels (WGSL), buffers and programs; a program is a list of steps, one dispatch each.
//! Sizes are symbolic ([`Dim`]), so one program serves every number of rows in its range.

mod dim;
mod dtype;
mod types;

pub use dim::{Dim, ParseDimError, Sizes, Symbol};
pub use dtype::{DType, ParseDTypeError};
pub use types::*;
