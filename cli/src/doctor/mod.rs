//! The doctor: every kernel on an adapter, against what it means.
//!
//! A plan keeps for each kernel the graph that it computes. So a kernel can be run by itself on random numbers, on a ragged
//! batch of sequences, and its result compared with the reference evaluator's, without the model or its weights. Kernels
//! that do a part of an operator (attention to a chunk of the context, say) have no graph of their own and are left out.

mod batch;
mod builtin;
mod call;
mod data;
mod storage;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use warpweft_compiler::graph::eval::{EvalError, Inputs, Tensor, Values, evaluate};
use warpweft_compiler::graph::{Declarations, Graph};
use warpweft_plan::{Kernel, Plan, Sizes, Step};
use warpweft_runtime::{Device, RuntimeError, block_on};

pub(crate) use batch::Batch;
pub use builtin::builtin_plans;
pub(crate) use call::Call;
use call::Output;
use data::Data;

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
        .filter(|(_, kernel)| !kernel.meaning.is_empty())
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
        match check_kernel(device, plan, kernel, step, &mut check) {
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

fn check_kernel(device: &Device, plan: &Plan, kernel: &Kernel, step: &Step, check: &mut Check) -> Result<(), Trouble> {
    let graph: Graph = kernel.meaning.parse().map_err(|e| Trouble::Kernel(format!("its meaning: {e}")))?;
    let call = Call::new(plan, kernel, step, graph).map_err(Trouble::Kernel)?;
    check.error = 0.0;
    for (seed, lengths) in BATCHES.iter().enumerate() {
        if call.work() > LARGE && lengths.len() > 3 {
            continue;
        }
        let batch = Batch::new(lengths, plan.model.max_positions, &call, seed as u64);
        let data = call.data(kernel, batch, seed as u64);
        let grid = groups(step, data.batch.sizes()).ok_or_else(|| Trouble::Kernel("its grid has no size".into()))?;
        let written = block_on(device.run_kernel(kernel, grid, &data.buffers))?;
        let found = call.outputs.iter().zip(&written);
        let found: Vec<Vec<f32>> = found.map(|(output, bytes)| output.numbers(bytes)).collect();
        let exact = reference(&call, &data, None)?;
        // Rows that are appended are attended to as they are stored, which is right if what is stored is.
        let appends = call.outputs.iter().any(|output| output.cache.is_some());
        let attended = if appends { reference(&call, &data, Some(&found))? } else { Vec::new() };
        for (i, output) in call.outputs.iter().enumerate() {
            let expected = if output.cache.is_none() && appends { &attended[i] } else { &exact[i] };
            compare(output, &data.batch, (&found[i], &data.before[i]), expected, check)?;
        }
    }
    Ok(())
}

fn groups(step: &Step, sizes: Sizes) -> Option<[u32; 3]> {
    let count = |axis: usize| step.grid[axis].count(sizes).and_then(|n| u32::try_from(n).ok());
    Some([count(0)?, count(1)?, count(2)?])
}

/// Inputs of one sequence, with the rows that its caches have of those that are appended, by cache.
struct Attended {
    values: Values,
    rows: Vec<Option<Tensor>>,
}

impl Inputs for Attended {
    fn weight(&self, index: usize, declarations: &Declarations) -> Result<Cow<'_, Tensor>, EvalError> {
        self.values.weight(index, declarations)
    }

    fn arg(&self, index: usize) -> Result<Cow<'_, Tensor>, EvalError> {
        self.values.arg(index)
    }

    fn ids(&self) -> &[u32] {
        self.values.ids()
    }

    fn cache(&self, index: usize) -> Option<&Tensor> {
        self.values.cache(index)
    }

    fn appended(&self, index: usize) -> Option<&Tensor> {
        self.rows.get(index)?.as_ref()
    }
}

/// For each output, its rows by where they stand, from one evaluation per sequence. Attention sees new rows as `found`
/// has them, what the outputs hold; as they are computed without.
fn reference(call: &Call, data: &Data, found: Option<&[Vec<f32>]>) -> Result<Vec<BTreeMap<usize, Vec<f32>>>, Trouble> {
    let mut expected = vec![BTreeMap::new(); call.outputs.len()];
    for sequence in 0..data.batch.lengths.len() {
        let values = Values {
            weights: data.weights.clone(),
            args: data.args(call, sequence),
            ids: data.batch.ids_of(sequence),
            caches: data.caches(call, sequence),
        };
        let rows = found.map_or_else(Vec::new, |found| data.appended(call, sequence, found));
        let inputs = Attended { values, rows };
        let results = evaluate(&call.graph, &inputs).map_err(|e| Trouble::Kernel(format!("the reference: {e}")))?;
        for ((output, result), expected) in call.outputs.iter().zip(results).zip(&mut expected) {
            let places = data.places(call, output, sequence);
            let rows = result.data.chunks_exact(output.width).zip(places);
            expected.extend(rows.filter_map(|(row, place)| Some((place?, row.to_vec()))));
        }
    }
    Ok(expected)
}

fn compare(
    output: &Output,
    batch: &Batch,
    (found, before): (&[f32], &[f32]),
    expected: &BTreeMap<usize, Vec<f32>>,
    check: &mut Check,
) -> Result<(), Trouble> {
    let largest = expected.values().flatten().fold(1f32, |a, v| a.max(v.abs()));
    check.tolerance = check.tolerance.max(output.tolerance(largest));
    let rows = found.chunks_exact(output.stride()).zip(before.chunks_exact(output.stride()));
    for (row, (values, before)) in rows.enumerate() {
        let wanted_row = expected.get(&row);
        for (column, (&value, before)) in values.iter().zip(before).enumerate() {
            let place = || format!("row {row}, column {column} of a batch of {:?} rows", batch.lengths);
            let wanted_here = column.checked_sub(output.first).and_then(|c| wanted_row?.get(c));
            if let Some(wanted) = wanted_here {
                let rounding = wanted_row.map_or(0.0, |row| output.storage.rounding(row, column - output.first));
                // A difference that is no number stays none.
                let error = (value - wanted).abs() - rounding;
                let error = if error < 0.0 { 0.0 } else { error };
                // NaN is the worst of errors.
                if error.is_nan() || error > check.tolerance {
                    check.error = error;
                    return Err(Trouble::Kernel(format!("found {value}, expected {wanted} at {}", place())));
                }
                check.error = check.error.max(error);
            } else if value != *before && !(wanted_row.is_some() && output.may_pad(column)) {
                return Err(Trouble::Kernel(format!("wrote {value} at {}, where it must not", place())));
            }
        }
    }
    Ok(())
}
