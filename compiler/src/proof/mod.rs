//! Where a plan's programs come from, as the plan tells it: formulas, saturation, extracted graphs, and for each kernel
//! call a proof that it computes what the formula says.
//!
//! A proof is local: its terms are over what the kernel reads, and the formula is cut where it has these values. A value
//! that the formula does not have (a product of joined weights) is stated as the columns of it that the formula has; one
//! that it has no part of is an intermediate value of the kernels that read it and so a part of their proofs. Weights and
//! activations that are rounded are no part of this: each rounding is a lossy step before a proof's first term.

pub mod algebra;
mod calls;
mod chain;
mod check;
mod formula;
mod goal;
mod lossy;
mod lowering;
mod prove;
mod random;
mod record;

pub use chain::{Chain, ProofFault, formula};
pub use check::{CallCheck, StepCheck, check_call, check_proof, tolerance};
pub use lossy::{Rounding, RoundingCheck, body_weight, check_roundings, random_error, roundings, told, unrounded};
pub use lowering::{LOWERING, LoweringStep};
pub use record::{Part, Parts, ProofError, Record, provenance};
