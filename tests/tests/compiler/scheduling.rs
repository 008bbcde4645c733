//! What a program needs beside its weights, and where a device has to wait, counted in the plans of all fixtures.

use std::collections::{BTreeMap, BTreeSet};

use warpweft_plan::{Plan, Program, Role, Sizes, Step};

use crate::made::{Made, fixtures};

fn scratch<'p>(plan: &'p Plan, program: &Program) -> impl Iterator<Item = usize> + use<'p> {
    let used: BTreeSet<usize> = program.steps.iter().flat_map(|s| s.buffers.iter().copied()).collect();
    used.into_iter().filter(|&b| plan.buffers[b].role == Role::Scratch)
}

/// Bytes of a program's scratch buffers, and the most that must be alive at once.
fn arena(plan: &Plan, program: &Program, sizes: Sizes) -> (u64, u64) {
    let arena = scratch(plan, program).map(|b| plan.buffers[b].bytes.eval(sizes).unwrap()).sum();
    (arena, program.steps.iter().map(|s| s.live.eval(sizes).unwrap()).max().unwrap())
}

/// The most that a program's scratch buffers take, as a multiple of what must be alive.
pub(crate) fn waste(plan: &Plan, program: &Program) -> f64 {
    let waste = |sizes| {
        let (arena, alive) = arena(plan, program, sizes);
        arena as f64 / alive as f64
    };
    sizes(program).map(waste).fold(0.0, f64::max)
}

/// Buffers have room for a multiple of 64 rows.
fn sizes(program: &Program) -> impl Iterator<Item = Sizes> + use<> {
    let rows = program.max_rows.map_or(vec![256, 1024], |_| vec![64]);
    rows.into_iter().map(|tokens| Sizes { tokens, context: tokens, sequences: 1 })
}

#[test]
fn scratch_buffers_are_at_most_a_quarter_above_what_must_be_alive_at_once() {
    let mut wasteful = Vec::new();
    for (name, Made { plan, .. }) in fixtures() {
        for program in &plan.programs {
            for sizes in sizes(program) {
                let (arena, alive) = arena(plan, program, sizes);
                assert!(alive > 0 && alive <= arena, "{name}: {alive} of {arena} bytes alive");
                if arena * 4 > alive * 5 {
                    wasteful.push(format!("{name}, {}: {arena} bytes for {alive}", label(program)));
                }
            }
        }
    }
    assert!(wasteful.is_empty(), "{wasteful:#?}");
}

/// The scratch buffers that a program's kernels bind as images, and of them those that contractions read.
fn images<'p>(plan: &'p Plan, program: &'p Program) -> [BTreeSet<usize>; 2] {
    let bindings = program.steps.iter().flat_map(|step| {
        let kernel = &plan.kernels[step.kernel];
        step.buffers.iter().zip(&kernel.bindings).map(move |(&buffer, binding)| (kernel, buffer, binding))
    });
    let images: Vec<_> = bindings
        .filter(|(_, buffer, binding)| plan.buffers[*buffer].role == Role::Scratch && binding.access.is_image())
        .collect();
    let contracted = images.iter().filter(|(kernel, _, binding)| kernel.name.contains("linear") && binding.name == "x");
    [images.iter().map(|(_, buffer, _)| *buffer).collect(), contracted.map(|(_, buffer, _)| *buffer).collect()]
}

#[test]
fn what_is_contracted_is_an_image_where_weights_are() {
    let mut with: BTreeSet<&str> = BTreeSet::new();
    for (name, Made { plan, .. }) in fixtures() {
        for program in &plan.programs {
            let [images, contracted] = images(plan, program);
            // Every image is one for the sake of a contraction.
            assert_eq!(images, contracted, "{name}, {}", label(program));
            assert!(images.is_empty() || program.tier.images > 0, "{name}, {}", label(program));
            if !images.is_empty() {
                with.insert(name);
            }
        }
    }
    // Not where scratch memory has no room for them.
    assert!(["bert", "llama", "qwen3", "gemma2", "gpt2"].iter().all(|name| with.contains(name)), "{with:?}");
}

fn label(program: &Program) -> String {
    format!("{} {:?} {}", program.target, program.max_rows, program.output.kind.name())
}

/// The buffers that a step reads and those that it writes.
fn bound(plan: &Plan, step: &Step) -> (Vec<usize>, Vec<usize>) {
    let bindings = step.buffers.iter().copied().zip(&plan.kernels[step.kernel].bindings);
    let (writes, reads): (Vec<_>, Vec<_>) = bindings.partition(|(_, binding)| binding.access.writes());
    let buffers = |bound: Vec<(usize, _)>| bound.into_iter().map(|(buffer, _)| buffer).collect();
    (buffers(reads), buffers(writes))
}

/// The barriers that a driver needs: one before a step that touches what another since the last one wrote, or writes
/// what one read.
fn barriers(plan: &Plan, program: &Program) -> usize {
    let (mut read, mut written, mut barriers) = (BTreeSet::new(), BTreeSet::new(), 0);
    for step in &program.steps {
        let (reads, writes) = bound(plan, step);
        if reads.iter().any(|b| written.contains(b)) || writes.iter().any(|b| read.contains(b) || written.contains(b)) {
            read.clear();
            written.clear();
            barriers += 1;
        }
        read.extend(reads);
        written.extend(writes);
    }
    barriers
}

/// The longest chain of steps of which each needs what the one before wrote. A buffer that is written after it was read
/// holds a new value, for which nobody has to wait.
fn chain(plan: &Plan, program: &Program) -> usize {
    let mut ready: BTreeMap<usize, (usize, bool)> = BTreeMap::new();
    let mut longest = 0;
    for step in &program.steps {
        let (reads, writes) = bound(plan, step);
        let mut length = reads.iter().filter_map(|b| ready.get(b)).map(|(n, _)| *n).max().unwrap_or(0);
        for buffer in &writes {
            if let Some((written, false)) = ready.get(buffer) {
                length = length.max(*written);
            }
        }
        for buffer in reads {
            ready.entry(buffer).and_modify(|(_, was_read)| *was_read = true);
        }
        ready.extend(writes.into_iter().map(|buffer| (buffer, (length + 1, false))));
        longest = longest.max(length + 1);
    }
    longest
}

#[test]
fn a_device_waits_as_often_as_the_longest_chain_of_steps_demands() {
    for (name, Made { plan, .. }) in fixtures() {
        for program in &plan.programs {
            assert_eq!(barriers(plan, program), chain(plan, program) - 1, "{name}, {}", label(program));
        }
    }
}
