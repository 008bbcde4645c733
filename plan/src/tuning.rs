//! Kernels that are faster than others on some adapters: found by measuring, carried by the plan.

use serde::{Deserialize, Serialize};

use crate::{Groups, Plan, Program, Step};

/// What a program runs in place of some of its kernels on a family of adapters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// The family, as the runtime calls it: driver and vendor.
    pub family: String,
    /// At most one for each kernel.
    pub swaps: Vec<Swap>,
}

/// A kernel in place of another with the same bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swap {
    /// Index of the kernel that steps have.
    pub kernel: usize,
    /// Index of the one that takes its place.
    pub with: usize,
    /// Its workgroups.
    pub grid: [Groups; 3],
}

impl Tuning {
    /// The steps of a program with these kernels.
    pub fn apply(&self, steps: &[Step]) -> Vec<Step> {
        let swapped = |step: &Step| match self.swaps.iter().find(|swap| swap.kernel == step.kernel) {
            Some(swap) => Step { kernel: swap.with, grid: swap.grid, ..step.clone() },
            None => step.clone(),
        };
        steps.iter().map(swapped).collect()
    }
}

impl Program {
    /// What it runs otherwise on a family of adapters.
    pub fn tuning(&self, family: &str) -> Option<&Tuning> {
        self.tunings.iter().find(|tuning| tuning.family == family)
    }
}

impl Plan {
    /// Gives all programs the kernels that were found fastest on a family of adapters; tells how many programs that changes.
    pub fn tune(&mut self, family: &str) -> usize {
        let mut changed = 0;
        for (at, program) in self.programs.iter_mut().enumerate() {
            let Some(tuning) = program.tuning(family) else { continue };
            program.steps = tuning.apply(&program.steps);
            if let Some(provenance) = &mut self.provenance {
                provenance.follow(at, program);
            }
            changed += 1;
        }
        changed
    }
}
