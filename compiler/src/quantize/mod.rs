//! Choosing formats for weights, and rounding weights well.
//!
//! - [`Moments`]: second moments of what goes into a contraction, collected over a text;
//! - [`round`]: codes that change a contraction's results least, by those moments;
//! - [`knapsack`]: which weight gets which format.

mod declare;
pub mod knapsack;
mod moments;
mod product;
mod rounding;
mod sensitivity;
mod weights;

pub use declare::declare_rounded;
pub use moments::{Factors, Moments, MomentsError};
pub use rounding::{Feedback, Rounded, round};
pub use sensitivity::{Probe, sensitivities};
pub use weights::{Candidate, LEAST_SIDE, candidates};
