//! From graphs to plans: graphs, rules, extraction, schedules, proofs, and what the phases leave as text.
#![allow(clippy::unwrap_used, clippy::panic)]

mod extraction;
mod graph;
mod latent;
mod made;
mod merge;
mod phases;
mod proofs;
mod published;
mod rules;
mod scheduling;
mod snapshots;
mod without;
