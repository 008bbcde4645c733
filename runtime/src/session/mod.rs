//! Sequences that grow: pools of pages on the device, sessions that hold some of them, steps that add rows.

mod handle;
mod ledger;
pub(crate) mod pool;
pub(crate) mod room;
mod scheduler;
mod step;
mod table;

pub use handle::Session;
pub(crate) use ledger::Ledger;
pub(crate) use pool::Pool;
pub use scheduler::{Done, Refused, Scheduler, Ticket};
pub use step::Part;
