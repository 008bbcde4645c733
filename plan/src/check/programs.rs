//! Checks of programs: steps, outputs and the cover of all numbers of rows.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{MAX_FAMILY, MAX_GROUPS, MAX_STEP_ROWS, check_size};
use crate::error::{PlanError, clipped, invalid};
use crate::{Access, Dim, Groups, Input, Kernel, OutputKind, Plan, Program, Role, Sizes, Step, TEXEL, Tap, Tier};

pub(super) fn check(plan: &Plan) -> Result<(), PlanError> {
    if plan.programs.is_empty() {
        return Err(invalid("programs", "none", "at least one"));
    }
    for (i, program) in plan.programs.iter().enumerate() {
        let at = format!("program {i} ({} for {})", program.output.kind.name(), clipped(&program.target));
        check_tier(&format!("{at}: tier"), &program.tier)?;
        check_output(&format!("{at}: output"), plan, program)?;
        for (i, tap) in program.taps.iter().enumerate() {
            check_tap(&format!("{at}: tap {i}"), plan, *tap)?;
        }
        check_steps(&at, plan, program)?;
        check_tunings(&at, plan, program)?;
    }
    check_ranges(plan)
}

/// A family's program has to be as sound as the one that it replaces.
fn check_tunings(at: &str, plan: &Plan, program: &Program) -> Result<(), PlanError> {
    let mut families = HashSet::new();
    for tuning in &program.tunings {
        let at = format!("{at}: tuning for {}", clipped(&tuning.family));
        if tuning.family.is_empty() || tuning.family.len() > MAX_FAMILY || !families.insert(tuning.family.as_str()) {
            let expected = format!("families of 1 to {MAX_FAMILY} bytes, each once");
            return Err(invalid(&at, "a family that is empty, too long or there twice", expected));
        }
        let mut kernels = HashSet::new();
        for swap in &tuning.swaps {
            let pair = plan.kernels.get(swap.kernel).zip(plan.kernels.get(swap.with));
            let found = format!("kernel {} in place of {}", swap.with, swap.kernel);
            let Some((kernel, with)) = pair else {
                return Err(invalid(&at, found, format!("indices below {}", plan.kernels.len())));
            };
            if !kernels.insert(swap.kernel) {
                return Err(invalid(&at, format!("{found}, which has another already"), "one for each kernel"));
            }
            if kernel.bindings != with.bindings {
                return Err(invalid(&at, format!("{found}, which has other bindings"), "equal bindings"));
            }
        }
        let steps = tuning.apply(&program.steps);
        check_steps(&at, plan, &Program { steps, tunings: Vec::new(), ..program.clone() })?;
    }
    Ok(())
}

fn check_tier(at: &str, tier: &Tier) -> Result<(), PlanError> {
    if let Some(size) = tier.subgroup_size.filter(|n| !n.is_power_of_two() || !(4..=128).contains(n)) {
        return Err(invalid(format!("{at}: subgroup_size"), size, "a power of two from 4 to 128"));
    }
    let numbers = [
        ("workgroup_bytes", u64::from(tier.workgroup_bytes)),
        ("workgroup_invocations", u64::from(tier.workgroup_invocations)),
        ("binding_bytes", tier.binding_bytes),
        ("storage_buffers", u64::from(tier.storage_buffers)),
    ];
    match numbers.iter().find(|(_, n)| *n == 0) {
        Some((name, _)) => Err(invalid(format!("{at}: {name}"), 0, "at least 1")),
        None => Ok(()),
    }
}

fn check_output(at: &str, plan: &Plan, program: &Program) -> Result<(), PlanError> {
    let output = &program.output;
    let rows = match output.kind {
        OutputKind::Hidden | OutputKind::Logits => Dim::TOKENS,
        OutputKind::Embedding | OutputKind::Next | OutputKind::Candidates => Dim::SEQUENCES,
    };
    if output.rows != rows {
        return Err(invalid(format!("{at}: rows"), output.rows, rows));
    }
    check_result(at, plan, output.buffer, rows, (output.width, output.stride))
}

fn check_tap(at: &str, plan: &Plan, tap: Tap) -> Result<(), PlanError> {
    check_result(at, plan, tap.buffer, Dim::TOKENS, (tap.width, tap.stride))
}

/// Checks a buffer that is read back.
fn check_result(at: &str, plan: &Plan, buffer: usize, rows: Dim, (width, stride): (u32, u32)) -> Result<(), PlanError> {
    let known = plan.buffers.get(buffer).ok_or_else(|| {
        invalid(format!("{at}: buffer"), buffer, format!("below {} (the buffers)", plan.buffers.len()))
    })?;
    if known.role != Role::Output {
        return Err(invalid(format!("{at}: buffer"), format!("{:?}", known.role), "the role Output"));
    }
    if width == 0 || stride < width {
        return Err(invalid(at, format!("width {width} and stride {stride}"), "1 <= width <= stride"));
    }
    let least = rows * i64::from(stride) * 4;
    if known.bytes.tokens < least.tokens || known.bytes.sequences < least.sequences {
        return Err(invalid(format!("{at}: bytes of the buffer"), known.bytes, format!("at least {least}")));
    }
    Ok(())
}

fn check_steps(at: &str, plan: &Plan, program: &Program) -> Result<(), PlanError> {
    // Those that a step before wrote, and whether as an image.
    let mut written = HashMap::new();
    for (i, step) in program.steps.iter().enumerate() {
        let kernel = plan.kernels.get(step.kernel).ok_or_else(|| {
            invalid(format!("{at}: step {i}: kernel"), step.kernel, format!("below {}", plan.kernels.len()))
        })?;
        let at = format!("{at}: step {i} ({})", clipped(&kernel.name));
        check_kernel_tier(&at, kernel, &program.tier)?;
        check_operands(&at, plan, program, step, kernel, &mut written)?;
        for (axis, groups) in ["x", "y", "z"].iter().zip(step.grid) {
            check_groups(&format!("{at}: grid.{axis}"), groups, program)?;
        }
        if step.layer.is_some_and(|layer| layer >= plan.model.layers) {
            return Err(invalid(
                format!("{at}: layer"),
                format!("{:?}", step.layer),
                format!("below {}", plan.model.layers),
            ));
        }
    }
    let taps = program.taps.iter().enumerate().map(|(i, tap)| (format!("tap {i}"), tap.buffer));
    for (what, buffer) in [("output".to_owned(), program.output.buffer)].into_iter().chain(taps) {
        if !written.contains_key(&buffer) {
            let found = format!("buffer {buffer} that no step writes");
            return Err(invalid(format!("{at}: {what}"), found, "the result of a step"));
        }
    }
    Ok(())
}

fn check_kernel_tier(at: &str, kernel: &Kernel, tier: &Tier) -> Result<(), PlanError> {
    let invocations: u64 = kernel.workgroup.iter().map(|&n| u64::from(n)).product();
    if invocations > u64::from(tier.workgroup_invocations) {
        let expected = format!("at most the tier's {}", tier.workgroup_invocations);
        return Err(invalid(format!("{at}: invocations in a workgroup"), invocations, expected));
    }
    let count = |accesses: &[Access]| kernel.bindings.iter().filter(|b| accesses.contains(&b.access)).count();
    for (what, found, most) in [
        ("storage bindings", count(&[Access::Read, Access::ReadWrite]), tier.storage_buffers),
        ("images", count(&[Access::Image, Access::ImageWrite]), tier.images),
    ] {
        if found > most as usize {
            return Err(invalid(format!("{at}: {what}"), found, format!("at most the tier's {most}")));
        }
    }
    Ok(())
}

fn check_operands(
    at: &str,
    plan: &Plan,
    program: &Program,
    step: &Step,
    kernel: &Kernel,
    written: &mut HashMap<usize, bool>,
) -> Result<(), PlanError> {
    if step.buffers.len() != kernel.bindings.len() {
        let expected = format!("{} (the kernel's bindings)", kernel.bindings.len());
        return Err(invalid(format!("{at}: buffers"), step.buffers.len(), expected));
    }
    let mut writes = Vec::new();
    let mut pages = None;
    for (&index, binding) in step.buffers.iter().zip(&kernel.bindings) {
        let at = format!("{at}: binding {}", clipped(&binding.name));
        let buffer = plan
            .buffers
            .get(index)
            .ok_or_else(|| invalid(&at, format!("buffer {index}"), format!("below {}", plan.buffers.len())))?;
        let expected = match buffer.role {
            Role::Input(Input::Step) => &[Access::Uniform][..],
            Role::Input(_) => &[Access::Read],
            Role::Weight { .. } => &[Access::Read, Access::Image],
            Role::Scratch => &[Access::Read, Access::ReadWrite, Access::Image, Access::ImageWrite],
            Role::Output | Role::Cache { .. } => &[Access::Read, Access::ReadWrite],
        };
        if !expected.contains(&binding.access) {
            let found = format!("{:?} of a buffer with the role {:?}", binding.access, buffer.role);
            return Err(invalid(&at, found, format!("{expected:?}")));
        }
        let weight = matches!(buffer.role, Role::Weight { .. }).then_some(buffer.bytes.constant);
        if let Some(bytes) = weight.filter(|&n| n as u64 > program.tier.binding_bytes) {
            let expected = format!("at most the tier's {} bytes", program.tier.binding_bytes);
            return Err(invalid(&at, format!("a weight of {bytes} bytes"), expected));
        }
        if let Some(bytes) = weight.filter(|&n| binding.access == Access::Image && !(n as u64).is_multiple_of(TEXEL)) {
            return Err(invalid(&at, format!("an image of {bytes} bytes"), format!("a multiple of {TEXEL}")));
        }
        let computed = matches!(buffer.role, Role::Scratch | Role::Output);
        if computed && !binding.access.writes() && !written.contains_key(&index) {
            return Err(invalid(&at, format!("buffer {index}, which no step before wrote"), "a written buffer"));
        }
        let is_image = binding.access.is_image();
        if written.get(&index).is_some_and(|image| *image != is_image) {
            let found = format!("{:?} of buffer {index}", binding.access);
            return Err(invalid(&at, found, "an image in all steps or in none"));
        }
        if binding.access.writes() {
            writes.push((index, is_image));
        }
        match pages_of(buffer.role) {
            Some(other) if other != *pages.get_or_insert(other) => {
                let expected = "caches and pages with a window, or those without";
                return Err(invalid(&at, "both those with and without a window in one step", expected));
            }
            Some(_) | None => {}
        }
    }
    for &(index, _) in &writes {
        if step.buffers.iter().filter(|&&other| other == index).count() > 1 {
            return Err(invalid(at, format!("buffer {index} written and bound twice"), "one binding of it"));
        }
    }
    written.extend(writes);
    Ok(())
}

/// The page table by which a buffer is read, or that it is.
fn pages_of(role: Role) -> Option<Input> {
    match role {
        Role::Cache { window, .. } => Some(Input::pages_of(window)),
        Role::Input(table @ (Input::Pages | Input::WindowPages)) => Some(table),
        Role::Input(Input::Ids | Input::Rows | Input::Sequences | Input::Step)
        | Role::Weight { .. }
        | Role::Scratch
        | Role::Output => None,
    }
}

fn check_groups(at: &str, groups: Groups, program: &Program) -> Result<(), PlanError> {
    if groups.per == 0 {
        return Err(invalid(format!("{at}: per"), 0, "at least 1"));
    }
    check_size(&format!("{at}: dim"), groups.dim)?;
    let rows = u64::from(program.min_rows);
    let least = groups.count(Sizes { tokens: rows, context: rows, sequences: 1 });
    if least.is_none_or(|n| n > MAX_GROUPS) {
        let found = format!("ceil(({}) / {}) workgroups for {rows} rows", groups.dim, groups.per);
        return Err(invalid(at, found, format!("at most {MAX_GROUPS}")));
    }
    Ok(())
}

/// Every number of rows must have exactly one program for each target and output.
fn check_ranges(plan: &Plan) -> Result<(), PlanError> {
    let mut groups: BTreeMap<(&str, OutputKind), Vec<&Program>> = BTreeMap::new();
    for program in &plan.programs {
        groups.entry((&program.target, program.output.kind)).or_default().push(program);
    }
    for ((target, kind), mut programs) in groups {
        let at = format!("programs for {} on {}", kind.name(), clipped(target));
        programs.sort_by_key(|p| p.min_rows);
        let mut next = Some(1u64);
        for program in &programs {
            if next != Some(u64::from(program.min_rows)) {
                let expected = next.map_or("none after an open range".into(), |n| format!("one from {n} rows"));
                return Err(invalid(&at, format!("a program from {} rows", program.min_rows), expected));
            }
            if program.max_rows.is_some_and(|max| max < program.min_rows || u64::from(max) > MAX_STEP_ROWS) {
                let found = format!("{} to {:?} rows", program.min_rows, program.max_rows);
                return Err(invalid(&at, found, format!("a range within 1 to {MAX_STEP_ROWS}")));
            }
            if program.tier != programs[0].tier || !same_shape(program, programs[0]) {
                let expected = "the tier, width, stride and taps of the target's other programs";
                return Err(invalid(&at, "programs that differ", expected));
            }
            next = program.max_rows.map(|max| u64::from(max) + 1);
        }
        if let Some(next) = next {
            return Err(invalid(&at, format!("none from {next} rows"), "a last program without an upper bound"));
        }
    }
    Ok(())
}

fn same_shape(a: &Program, b: &Program) -> bool {
    let taps = |program: &Program| program.taps.iter().map(|tap| tap.width).collect::<Vec<_>>();
    (a.output.width, a.output.stride) == (b.output.width, b.output.stride) && taps(a) == taps(b)
}
