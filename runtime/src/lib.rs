//! Runs a plan on any GPU through wgpu.
//!
//! [`Model`] opens a plan file and turns ids or texts into vectors; [`Engine`] is the same with asynchronous calls.
//! Nothing here knows how plans are made: everything clever has happened in the compiler.

mod device;
mod error;
mod generate;
mod load;
mod model;
mod run;
mod sample;
mod session;
#[cfg(feature = "text")]
mod text;

#[cfg(not(target_arch = "wasm32"))]
pub use device::block_on;
pub use device::{Adapter, AdapterChoice, Buffers, Device, KernelRun, Trial, adapters, best_target, choose};
pub use error::{Fault, RuntimeError};
pub use generate::{Event, Finish, Generation, Writer};
pub use load::memory::Account;
pub use load::need::{Need, need};
#[cfg(feature = "text")]
pub use model::Embeddings;
#[cfg(not(target_arch = "wasm32"))]
pub use model::Model;
pub use model::{Engine, Matrix, OnProgress, Options, Progress, TimedStep};
pub use run::submit::Submission;
pub use run::timer::{StepClock, StepTime};
pub use sample::{Candidates, Sampler, Sampling, Token};
pub use session::{Done, Part, Refused, Scheduler, Session, Ticket};
#[cfg(feature = "text")]
pub use text::Message;
pub use warpweft_plan as plan;
