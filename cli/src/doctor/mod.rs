//! The doctor: every kernel on an adapter, against what it means.
//!
//! A plan keeps for each kernel the graph that it computes. So a kernel can be run by itself on random numbers, on a ragged
//! batch of sequences, and its result compared with the reference evaluator's, without the model or its weights.

mod builtin;
mod data;

use std::collections::BTreeSet;

use warpweft_compiler::graph::Graph;
use warpweft_compiler::graph::eval::{Values, evaluate};
use warpweft_plan::{Kernel, Plan, Sizes, Step};
use warpweft_runtime::{Device, RuntimeError, block_on};

pub use builtin::builtin_plans;
use data::{Batch, Call, UNTOUCHED};

/// The part of the largest expected value (of 1 if all are smaller) that a result may be off.
const TOLERANCE: f32 = 1e-4;

/// Lengths of the sequences in each batch: one row, a few, and more than one block of 64.
const BATCHES: [&[u32]; 3] = [&[1], &[2, 1, 3], &[3, 1, 37, 23, 6]];

/// Multiply-adds of one row above which the largest batch is left out, because the reference would take long.
const LARGE: u64 = 20_000_000;

/// What the doctor found about a kernel.
#[derive(Clone, Debug)]
pub struct Check {
    /// Its name.
    pub kernel: String,
    /// The targets whose programs use it.
    pub targets: Vec<String>,
    /// The largest absolute difference; NaN if there is no result.
    pub error: f32,
    /// The largest that is right.
    pub tolerance: f32,
    /// What is wrong; `None` if nothing.
    pub problem: Option<String>,
}

/// Checks every kernel of a plan that the device can run; `observe` is told of each one and of their number.
///
/// # Errors
/// When the device is lost. What is wrong with a kernel is in its [`Check`].
pub fn check_plan(
    device: &Device,
    plan: &Plan,
    observe: &mut dyn FnMut(&Check, usize),
) -> Result<Vec<Check>, RuntimeError> {
    let runnable = |kernel: usize| -> (BTreeSet<&str>, Option<&Step>) {
        let programs = plan.programs.iter().filter(|program| device.adapter.lacks(&program.tier).is_none());
        let uses = programs.flat_map(|program| program.steps.iter().map(move |step| (program.target.as_str(), step)));
        let uses: Vec<_> = uses.filter(|(_, step)| step.kernel == kernel).collect();
        (uses.iter().map(|(target, _)| *target).collect(), uses.first().map(|(_, step)| *step))
    };
    let jobs: Vec<_> = plan
        .kernels
        .iter()
        .enumerate()
        .filter_map(|(i, kernel)| match runnable(i) {
            (targets, Some(step)) => Some((kernel, targets, step)),
            _ => None,
        })
        .collect();
    let total = jobs.len();
    let mut checks = Vec::with_capacity(total);
    for (kernel, targets, step) in jobs {
        let mut check = Check {
            kernel: kernel.name.clone(),
            targets: targets.into_iter().map(str::to_owned).collect(),
            error: f32::NAN,
            tolerance: TOLERANCE,
            problem: None,
        };
        match check_kernel(device, kernel, step, plan.model.max_positions, &mut check) {
            Ok(()) => {}
            Err(Trouble::Kernel(problem)) => check.problem = Some(problem),
            Err(Trouble::Device(error)) => return Err(error),
        }
        observe(&check, total);
        checks.push(check);
    }
    Ok(checks)
}

enum Trouble {
    /// Something is wrong with the kernel.
    Kernel(String),
    /// Nothing can be checked anymore.
    Device(RuntimeError),
}

impl From<RuntimeError> for Trouble {
    fn from(error: RuntimeError) -> Trouble {
        match error {
            RuntimeError::DeviceLost { .. } | RuntimeError::OutOfMemory { .. } => Trouble::Device(error),
            other => Trouble::Kernel(other.to_string()),
        }
    }
}

fn check_kernel(
    device: &Device,
    kernel: &Kernel,
    step: &Step,
    max_positions: u32,
    check: &mut Check,
) -> Result<(), Trouble> {
    let graph: Graph = kernel.meaning.parse().map_err(|e| Trouble::Kernel(format!("its meaning: {e}")))?;
    let call = Call::new(kernel, graph).map_err(Trouble::Kernel)?;
    check.error = 0.0;
    for (seed, lengths) in BATCHES.iter().enumerate() {
        if call.work() > LARGE && lengths.len() > 3 {
            continue;
        }
        let batch = Batch::new(lengths, max_positions, call.id_limit(), seed as u64);
        let data = call.data(kernel, batch, seed as u64);
        let sizes = data.batch.sizes();
        let grid = groups(step, sizes).ok_or_else(|| Trouble::Kernel("its grid has no size".into()))?;
        let outputs = block_on(device.run_kernel(kernel, grid, &data.buffers))?;
        let found = outputs.first().ok_or_else(|| Trouble::Kernel("it writes nothing".into()))?;
        let found: Vec<f32> = found.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let expected = reference(&call, &data)?;
        compare(&call, &data, &found, &expected, check)?;
    }
    Ok(())
}

fn groups(step: &Step, sizes: Sizes) -> Option<[u32; 3]> {
    let count = |axis: usize| step.grid[axis].count(sizes).and_then(|n| u32::try_from(n).ok());
    Some([count(0)?, count(1)?, count(2)?])
}

/// The result's rows, from one evaluation per sequence.
fn reference(call: &Call, data: &data::Data) -> Result<Vec<f32>, Trouble> {
    let mut rows = Vec::new();
    for sequence in 0..data.batch.lengths.len() {
        let values = Values {
            weights: data.weights.clone(),
            args: data.args(call, sequence),
            ids: data.batch.ids_of(sequence),
            ..Values::default()
        };
        let outputs = evaluate(&call.graph, &values).map_err(|e| Trouble::Kernel(format!("the reference: {e}")))?;
        rows.extend(outputs.into_iter().next().map(|tensor| tensor.data).unwrap_or_default());
    }
    Ok(rows)
}

fn compare(call: &Call, data: &data::Data, found: &[f32], expected: &[f32], check: &mut Check) -> Result<(), Trouble> {
    let (width, stride) = (call.width, call.stride());
    let rows = expected.len() / width.max(1);
    let largest = expected.iter().fold(1f32, |a, v| a.max(v.abs()));
    check.tolerance = check.tolerance.max(TOLERANCE * largest);
    for (row, values) in found.chunks_exact(stride).enumerate() {
        let kept = row < rows && call.keeps(data, row);
        for (column, &value) in values.iter().enumerate() {
            let place = || format!("row {row}, column {column} of a batch of {:?} rows", data.batch.lengths);
            let inside = (call.first..call.first + width).contains(&column);
            if kept && inside {
                let wanted = expected[row * width + column - call.first];
                let error = (value - wanted).abs();
                // NaN is the worst of errors.
                if error.is_nan() || error > check.tolerance {
                    check.error = error;
                    return Err(Trouble::Kernel(format!("found {value}, expected {wanted} at {}", place())));
                }
                check.error = check.error.max(error);
            } else if value != UNTOUCHED && !(kept && call.may_pad(column)) {
                return Err(Trouble::Kernel(format!("wrote {value} at {}, where it must not", place())));
            }
        }
    }
    Ok(())
}
