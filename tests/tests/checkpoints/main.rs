//! From checkpoint folders to graphs: what is accepted, what is refused, and what a graph means by the reference evaluator.
#![allow(clippy::unwrap_used, clippy::panic)]

mod decoders;
mod decoders_evaluated;
mod encoders;
mod encoders_evaluated;
mod files;
mod quantized;
