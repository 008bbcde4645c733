//! The part of a plan that one output on one target needs.

use std::collections::BTreeSet;

use warpweft_plan::{Access, OutputKind, Plan, Program, Role};

use crate::device::{IMAGE_ROW, image_rows};

/// Bytes of a packed tensor that a kernel binds: tensor, offset, size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Window {
    pub(crate) tensor: usize,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// It is bound as an image.
    pub(crate) image: bool,
}

impl Window {
    /// Bytes that it takes on the device.
    pub(crate) fn held(&self) -> u64 {
        if self.image { image_rows(self.bytes) * IMAGE_ROW } else { self.bytes }
    }

    /// How kernels see it.
    pub(crate) fn access(&self) -> Access {
        if self.image { Access::Image } else { Access::Read }
    }
}

/// The programs for one output on one target, and what they use.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) target: String,
    /// Indices of programs, by rising number of rows; together they cover every number.
    pub(crate) programs: Vec<usize>,
    /// Indices of all buffers that their steps bind.
    pub(crate) buffers: BTreeSet<usize>,
}

impl Job {
    pub(crate) fn new(plan: &Plan, kind: OutputKind, target: &str) -> Job {
        let fits = |program: &Program| program.output.kind == kind && program.target == target;
        let mut programs: Vec<usize> = (0..plan.programs.len()).filter(|&i| fits(&plan.programs[i])).collect();
        programs.sort_by_key(|&i| plan.programs[i].min_rows);
        let steps = programs.iter().flat_map(|&i| &plan.programs[i].steps);
        let buffers = steps.flat_map(|step| step.buffers.iter().copied()).collect();
        Job { target: target.into(), programs, buffers }
    }

    /// Position in [`Job::programs`] of the one for a step of `rows` rows.
    pub(crate) fn position(&self, plan: &Plan, rows: u64) -> usize {
        let covers = |&i: &usize| plan.programs[i].max_rows.is_none_or(|max| rows <= u64::from(max));
        self.programs.iter().position(covers).unwrap_or(0)
    }

    /// The program for a step of `rows` rows.
    pub(crate) fn program<'p>(&self, plan: &'p Plan, rows: u64) -> &'p Program {
        &plan.programs[self.programs[self.position(plan, rows)]]
    }

    /// The kernels of the program for a step of `rows` rows.
    pub(crate) fn kernels_for(&self, plan: &Plan, rows: u64) -> BTreeSet<usize> {
        self.program(plan, rows).steps.iter().map(|step| step.kernel).collect()
    }

    /// The weights, each once.
    pub(crate) fn windows(&self, plan: &Plan) -> BTreeSet<Window> {
        let steps = self.programs.iter().flat_map(|&i| &plan.programs[i].steps);
        let bound = steps.flat_map(|step| step.buffers.iter().zip(&plan.kernels[step.kernel].bindings));
        bound.filter_map(|(&i, binding)| window(plan, i, binding.access)).collect()
    }
}

/// The window of a weight as a kernel sees it.
pub(crate) fn window(plan: &Plan, buffer: usize, access: Access) -> Option<Window> {
    let buffer = &plan.buffers[buffer];
    match buffer.role {
        Role::Weight { tensor, offset } => Some(Window {
            tensor,
            offset,
            bytes: u64::try_from(buffer.bytes.constant).unwrap_or(0),
            image: access == Access::Image,
        }),
        Role::Scratch | Role::Input(_) | Role::Output | Role::Cache { .. } => None,
    }
}
