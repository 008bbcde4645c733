//! Running: sequences are cut into steps, each step is one submission of one compute pass.

pub(crate) mod arena;
pub(crate) mod batch;
mod clock;
pub(crate) mod pace;
pub(crate) mod submit;
pub(crate) mod timer;

pub(crate) use clock::Clock;
