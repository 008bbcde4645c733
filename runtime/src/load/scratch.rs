//! Scratch buffers of different programs in the same memory: only one program runs at a time.

use std::collections::BTreeSet;

use warpweft_plan::{Access, Plan, Program, Role};

use super::job::Job;
use super::memory::{Extent, size};
use crate::device::{IMAGE_ROW, image_rows};

/// A program's scratch buffers, from the largest to the smallest in steps of some extent: those that kernels have as buffers,
/// or those that they have as images.
pub(crate) fn ranked(plan: &Plan, program: &Program, extent: Extent, images: bool) -> Vec<usize> {
    let bound = program.steps.iter().flat_map(|step| step.buffers.iter().zip(&plan.kernels[step.kernel].bindings));
    let such = bound.filter(|(_, binding)| binding.access.is_image() == images);
    let bound: BTreeSet<usize> = such.map(|(&buffer, _)| buffer).collect();
    let mut scratch: Vec<usize> = bound.into_iter().filter(|&b| plan.buffers[b].role == Role::Scratch).collect();
    scratch.sort_by_key(|&b| std::cmp::Reverse(size(plan, b, extent)));
    scratch
}

/// What stands for the scratch buffers of all programs of a job, with its bytes: the k-th buffer has room for the k-th largest
/// of each, and so has the k-th image.
pub(crate) fn places(plan: &Plan, job: &Job, extent: Extent) -> Vec<(Access, u64)> {
    let mut places = Vec::new();
    for (images, access) in [(false, Access::ReadWrite), (true, Access::ImageWrite)] {
        let before = places.len();
        for &program in &job.programs {
            for (rank, buffer) in ranked(plan, &plan.programs[program], extent, images).into_iter().enumerate() {
                let bytes = match (images, size(plan, buffer, extent)) {
                    (true, bytes) => image_rows(bytes).saturating_mul(IMAGE_ROW),
                    (false, bytes) => bytes,
                };
                match places.get_mut(before + rank) {
                    Some((_, known)) => *known = bytes.max(*known),
                    None => places.push((access, bytes)),
                }
            }
        }
    }
    places
}
