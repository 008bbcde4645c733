//! What kernels cost: for each algorithm and tile, how it is dispatched and what one invocation does.
//!
//! Only sizes are asked for, so that extraction can ask before there is an operation. [`Rates`](crate::target::Rates)
//! turns the counts into seconds.

pub(crate) mod attention;
pub(crate) mod integer;
pub(crate) mod linear;
pub(crate) mod rowwise;

use warpweft_plan::{Cost, Dim, Groups, Sizes};

use super::compose::{Algorithm, Choice};
use crate::target::{Dispatch, Rates, groups};

/// How a kernel is dispatched, and what that costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Launch {
    /// Of a workgroup.
    pub(crate) invocations: u32,
    pub(crate) grid: [Groups; 3],
    pub(crate) cost: Cost,
}

impl Launch {
    /// Predicted seconds.
    pub(crate) fn seconds(&self, rates: &Rates, bytes: Dim, sizes: Sizes) -> f64 {
        let dispatch = Dispatch {
            invocations: self.invocations,
            groups: groups(self.grid, sizes),
            bytes: bytes.eval(sizes).unwrap_or(0),
        };
        rates.seconds(&self.cost, dispatch, sizes)
    }

    pub(crate) fn choice(&self, algorithm: Algorithm, rates: &Rates, bytes: Dim, sizes: Sizes) -> Choice {
        Choice { algorithm, seconds: self.seconds(rates, bytes, sizes) }
    }
}

/// The cheapest of several, in seconds.
pub(crate) fn cheapest(choices: &[Choice]) -> Option<f64> {
    choices.iter().map(|choice| choice.seconds).min_by(f64::total_cmp)
}

/// A dimension of a grid that does not depend on the step.
pub(crate) fn constant(n: u32) -> Groups {
    Groups { dim: Dim::constant(n.into()), per: 1 }
}

/// What padding to a multiple of `to` makes of a size, relative to it.
fn padded(size: u32, to: u32) -> f64 {
    f64::from(size.next_multiple_of(to)) / f64::from(size.max(1))
}
