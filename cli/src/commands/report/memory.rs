//! The memory of a program over its steps.

use std::collections::BTreeSet;

use warpweft_plan::{Access, Plan, Program, Role, Sizes};

/// For each step, the bytes of the scratch buffers that it reads or writes, or that hold what a later one reads.
pub(super) fn alive(plan: &Plan, program: &Program, sizes: Sizes) -> Vec<u64> {
    let scratch = |&i: &usize| plan.buffers.get(i).is_some_and(|b| b.role == Role::Scratch);
    let bytes = |i: usize| plan.buffers.get(i).and_then(|b| b.bytes.eval(sizes)).unwrap_or(0);
    let mut later: BTreeSet<usize> = BTreeSet::new();
    let mut found = Vec::new();
    for step in program.steps.iter().rev() {
        let used: BTreeSet<usize> = step.buffers.iter().copied().filter(scratch).collect();
        found.push(later.union(&used).map(|&i| bytes(i)).sum());
        let bindings = plan.kernels.get(step.kernel).map_or(&[][..], |kernel| &kernel.bindings);
        for (buffer, binding) in step.buffers.iter().zip(bindings).filter(|(b, _)| scratch(b)) {
            match binding.access {
                Access::Read | Access::Uniform => later.insert(*buffer),
                Access::ReadWrite => later.remove(buffer),
            };
        }
    }
    found.reverse();
    found
}
