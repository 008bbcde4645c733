//! What users hold: a model that turns ids or texts into numbers.

#[cfg(not(target_arch = "wasm32"))]
mod blocking;
mod engine;
mod held;
mod options;
mod results;
mod taps;

#[cfg(not(target_arch = "wasm32"))]
pub use blocking::Model;
pub use engine::Engine;
pub use options::{OnProgress, Options, Progress};
#[cfg(feature = "text")]
pub use results::Embeddings;
pub use results::{Matrix, TimedStep};
