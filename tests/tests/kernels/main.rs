//! Every algorithm, format and slot against a reference that accumulates in f64, on every adapter there is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attention;
mod cached;
mod candidates;
mod columns;
mod data;
mod doctor;
mod formats;
mod fresh;
mod heads;
mod integer;
mod linear;
mod measured;
mod moments;
mod per_head;
mod prologue;
mod rowwise;

use std::hash::{Hash, Hasher};
use std::process::Command;

use data::{Data, UNTOUCHED, floats};
use warpweft_compiler::kernels::spec::{Operation, View};
use warpweft_compiler::kernels::{Choice, Composed, KernelError, RowRange, Slot, candidates as choices, compose};
use warpweft_compiler::target::Target;
use warpweft_runtime::{Device, block_on};
use warpweft_tests::{gpu, runners};

/// Gives llvmpipe's vectors, and so its subgroups, another width in bits.
const WIDTH: &str = "LP_NATIVE_VECTOR_WIDTH";

/// Calls `check` with every target that an adapter of this machine can run; where subgroups are given another size, with those
/// that use them.
fn everywhere(check: impl Fn(&Device, &'static Target)) {
    let given = std::env::var_os(WIDTH).is_some();
    for runner in runners().into_iter().filter(|runner| !given || runner.target.subgroup_size.is_some()) {
        let device = block_on(Device::open(&runner.adapter)).unwrap();
        check(&device, runner.target);
    }
}

/// A kernel of each algorithm for the operation; which tile depends on the operation, so that a suite sees them all.
fn kernels(operation: &Operation, target: &Target) -> Vec<Composed> {
    kernels_for(operation, target, RowRange { min: 1, max: Some(64) })
}

/// The same of those for so many rows.
fn kernels_for(operation: &Operation, target: &Target, rows: RowRange) -> Vec<Composed> {
    let mut hasher = std::hash::DefaultHasher::new();
    format!("{operation:?}").hash(&mut hasher);
    let pick = hasher.finish() as usize;
    let choices = choices(operation, target, rows).unwrap();
    let kind = |choice: &Choice| std::mem::discriminant(&choice.algorithm);
    let mut kinds: Vec<_> = Vec::new();
    for choice in &choices {
        if !kinds.contains(&kind(choice)) {
            kinds.push(kind(choice));
        }
    }
    let picked = kinds.into_iter().map(|k| {
        let same: Vec<_> = choices.iter().filter(|c| kind(c) == k).collect();
        *same[pick % same.len()]
    });
    let forms = forms(operation, target);
    picked.flat_map(|choice| forms.iter().map(move |form| compose(form, choice, target).unwrap())).collect()
}

/// The operation over buffers, and where the target has images, over as many of them as a kernel can bind.
fn forms(operation: &Operation, target: &Target) -> Vec<Operation> {
    let mut forms = vec![operation.clone()];
    if target.images == 0 {
        return forms;
    }
    // All algorithms bind the same.
    let choice = choices(operation, target, RowRange { min: 1, max: Some(64) }).unwrap()[0];
    let fits = |form: &Operation| !matches!(compose(form, choice, target), Err(KernelError::Images { .. }));
    let mut form = operation.clone();
    for slot in [Slot::Out, Slot::X].into_iter().chain((0..4).map(Slot::Operand)) {
        let Some(image) = form.image(slot) else { continue };
        *image = true;
        if !fits(&form) {
            form.image(slot).into_iter().for_each(|image| *image = false);
        }
    }
    if form != *operation {
        forms.push(form);
    }
    forms
}

/// Every kernel that there is for the operation, but those that would loop too often.
fn all_kernels(operation: &Operation, target: &Target) -> Vec<Composed> {
    let choices = choices(operation, target, RowRange { min: 1, max: Some(64) }).unwrap();
    let forms = forms(operation, target);
    let composed = choices.into_iter().flat_map(|choice| forms.iter().map(move |form| compose(form, choice, target)));
    composed.filter(|kernel| !matches!(kernel, Err(KernelError::LoopTrips { .. }))).map(Result::unwrap).collect()
}

/// Runs a kernel and compares what it wrote with `expect(m, n)`, a value and a tolerance; `None` is left alone.
fn check(
    device: &Device,
    kernel: &Composed,
    data: &Data,
    (out, rows): (View, usize),
    expect: impl Fn(usize, usize) -> Option<(f64, f64)>,
) {
    let capacity = rows.next_multiple_of(64) * out.stride as usize;
    let sizes = data.sizes();
    let result = floats(&gpu::run(device, kernel, sizes, |slot| match slot {
        Slot::Out => data.result(capacity),
        slot => data.bytes(slot),
    }));
    compare(kernel, &result, (out, rows), expect);
}

/// Compares what a kernel wrote.
fn compare(
    kernel: &Composed,
    result: &[f32],
    (out, rows): (View, usize),
    expect: impl Fn(usize, usize) -> Option<(f64, f64)>,
) {
    let capacity = rows.next_multiple_of(64) * out.stride as usize;
    let whole = out == View::whole(out.width);
    let mut worst: Option<(f64, String)> = None;
    for (i, &value) in result[..capacity].iter().enumerate() {
        let (m, column) = (i / out.stride as usize, i % out.stride as usize);
        let n = column.checked_sub(out.offset as usize).filter(|&n| n < out.width as usize);
        let expected = n.filter(|_| m < rows).and_then(|n| expect(m, n));
        let excess = match expected {
            Some((expected, tolerance)) => (f64::from(value) - expected).abs() / tolerance,
            None if whole && n.is_none() && m < rows && value.is_finite() => 0.0,
            None if value == UNTOUCHED => 0.0,
            None => f64::INFINITY,
        };
        if !excess.is_finite() || excess > worst.as_ref().map_or(1.0, |w| w.0) {
            worst = Some((excess, format!("[{m}, {column}] is {value}, not {expected:?}")));
        }
    }
    if let Some((excess, what)) = worst {
        panic!("{}: {what}: {excess} tolerances\n{}", kernel.name, kernel.wgsl);
    }
}

/// A part of the suite with other subgroup sizes: llvmpipe takes its vectors' width from the environment.
#[test]
fn other_subgroup_sizes() {
    if std::env::var_os(WIDTH).is_some() || !runners().iter().any(|runner| runner.adapter.name.contains("llvmpipe")) {
        return;
    }
    let tests = [
        "every_tile",
        "odd_sizes",
        "masks",
        "odd_head_sizes",
        "norms_of_odd_widths",
        "gated_pair",
        "prologues_of_odd_widths",
    ];
    for width in ["128", "512"] {
        let output = Command::new(std::env::current_exe().unwrap()).args(tests).env(WIDTH, width).output().unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && report.contains("12 passed"), "{WIDTH}={width}\n{report}");
    }
}
