//! Texts that go on: tokens are chosen, fed back, and turned into text.

mod generation;
mod writer;

pub use generation::Generation;
pub use writer::{Event, Finish, Writer};
