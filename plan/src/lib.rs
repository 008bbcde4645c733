//! The plan: what a compile makes and a runtime runs.
//!
//! A plan is a list of kernels (WGSL), buffers and programs; a program is a list of steps, one dispatch each.
//! Sizes are symbolic ([`Dim`]), so one program serves every number of rows in its range.

mod cache;
mod check;
mod cost;
mod dim;
mod dtype;
mod error;
mod file;
pub mod provenance;
mod quantization;
mod tuning;
mod types;

pub use cache::{CacheFormat, CacheRows, ParseCacheFormatError};
pub use check::{MAX_GROUPS, MAX_LOOP_TRIPS, MAX_STEP_ROWS};
pub use cost::{Cost, Keys, Work};
pub use dim::{Dim, ParseDimError, Sizes, Symbol};
pub use dtype::{DType, ParseDTypeError};
pub use error::PlanError;
#[cfg(target_os = "linux")]
pub use file::Mapping;
#[cfg(not(target_arch = "wasm32"))]
pub use file::Staged;
pub use file::{Assets, FORMAT_VERSION, PlanFile, PlanWriter, Source};
pub use provenance::{Class, Provenance};
pub use quantization::{Calibration, Quantization, RoundedActivations, RoundedWeight};
pub use tuning::{Swap, Tuning};
pub use types::*;
