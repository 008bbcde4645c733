//! Scratch buffers of different programs in the same memory: only one program runs at a time.

use std::collections::BTreeSet;

use warpweft_plan::{Plan, Program, Role};

use super::job::Job;
use super::memory::{Extent, size};

/// A program's scratch buffers, from the largest to the smallest in steps of some extent.
pub(crate) fn ranked(plan: &Plan, program: &Program, extent: Extent) -> Vec<usize> {
    let bound: BTreeSet<usize> = program.steps.iter().flat_map(|step| step.buffers.iter().copied()).collect();
    let mut scratch: Vec<usize> = bound.into_iter().filter(|&b| plan.buffers[b].role == Role::Scratch).collect();
    scratch.sort_by_key(|&b| std::cmp::Reverse(size(plan, b, extent)));
    scratch
}

/// Bytes of the buffers that stand for those of all programs of a job: the k-th has room for the k-th largest of each.
pub(crate) fn sizes(plan: &Plan, job: &Job, extent: Extent) -> Vec<u64> {
    let mut sizes = Vec::new();
    for &program in &job.programs {
        for (rank, buffer) in ranked(plan, &plan.programs[program], extent).into_iter().enumerate() {
            let bytes = size(plan, buffer, extent);
            match sizes.get_mut(rank) {
                Some(known) => *known = bytes.max(*known),
                None => sizes.push(bytes),
            }
        }
    }
    sizes
}
