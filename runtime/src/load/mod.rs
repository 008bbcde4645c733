//! From a plan file to a device that is ready: what a job needs, whether it fits, weights up, kernels compiled.

pub(crate) mod job;
pub(crate) mod memory;
pub(crate) mod need;
pub(crate) mod pipelines;
pub(crate) mod scratch;
pub(crate) mod upload;
