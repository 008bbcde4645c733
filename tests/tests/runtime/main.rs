//! The runtime: plans written by hand or made for a purpose, on whatever adapter there is.
#![allow(clippy::unwrap_used, clippy::panic)]

mod caches;
mod chat;
mod hostile;
mod plans;
mod sessions;
mod text;
mod tiny;
mod windows;
