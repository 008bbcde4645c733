//! The kernels of a plan against their alternatives.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde::Serialize;
use warpweft_compiler::graph::Graph;
use warpweft_compiler::kernels::spec::Operation;
use warpweft_compiler::kernels::{Algorithm, Composed, RowRange, candidates, compose};
use warpweft_compiler::lower::{Bounds, operation};
use warpweft_compiler::target::{Rates, Target};
use warpweft_plan::{CacheFormat, Kernel, Plan, Program, Swap, Tuning};
use warpweft_runtime::{Device, block_on};

use super::fit::Sample;
use super::probe::{Measured, repeat};
use crate::CliError;
use crate::doctor::{Batch, Call};
use crate::interrupt;
use crate::progress::{Bar, Unit};
use crate::work;

/// Rows of a step of a program without an upper bound.
const MANY: u32 = 128;
/// Rows below which attention over caches says nothing: its time is that of the context, which tests here are too short for.
const CACHED: u32 = 32;
/// Alternatives of a kernel, at the most, and how much slower than the best they may be predicted to be.
const ALTERNATIVES: (usize, f64) = (5, 2.0);
/// A kernel takes another's place if it needs less than this part of its time.
const BETTER: f64 = 0.97;

/// A kernel of a program, against its alternatives.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Contest {
    pub(super) kernel: String,
    /// Rows of the step.
    pub(super) rows: u32,
    pub(super) seconds: f64,
    /// Compared, itself included.
    pub(super) alternatives: usize,
    /// What takes its place, and its time.
    pub(super) winner: Option<(String, f64)>,
    #[serde(skip)]
    swap: Option<(usize, Composed)>,
}

/// What was found about a plan.
pub(super) struct Found {
    pub(super) contests: Vec<Contest>,
    pub(super) samples: Vec<Sample>,
    /// Kernels whose alternatives cannot be told from the plan, or that have none.
    pub(super) left_out: usize,
}

/// Compares the kernels of a target's programs with their alternatives, each of which is measured for the time `each`, and adds
/// what was found to the plan.
pub(super) fn tune(
    device: &Device,
    target: &Target,
    rates: &Rates,
    plan: &mut Plan,
    each: Duration,
    bar: &mut Bar<'_>,
) -> Result<Found, CliError> {
    let target = Target { rates: rates.clone(), ..target.clone() };
    let mut found = Found { contests: Vec::new(), samples: Vec::new(), left_out: 0 };
    // Programs of several outputs share most kernels.
    let mut known: HashMap<(usize, u32), Option<usize>> = HashMap::new();
    let jobs: Vec<(usize, usize)> = plan
        .programs
        .iter()
        .enumerate()
        .filter(|(_, program)| program.target == target.name)
        .flat_map(|(at, program)| kernels(program).into_iter().map(move |kernel| (at, kernel)))
        .collect();
    let mut swaps: BTreeMap<usize, Vec<(usize, Composed)>> = BTreeMap::new();
    for (done, &(at, kernel)) in jobs.iter().enumerate() {
        interrupt::check()?;
        let rows = RowRange { min: plan.programs[at].min_rows, max: plan.programs[at].max_rows };
        let contest = match known.get(&(kernel, rows.min)) {
            Some(contest) => *contest,
            None => {
                let contest = contest(device, &target, plan, (kernel, rows, each), &mut found.samples)?;
                found.left_out += usize::from(contest.is_none());
                let index = contest.map(|contest| {
                    found.contests.push(contest);
                    found.contests.len() - 1
                });
                known.insert((kernel, rows.min), index);
                index
            }
        };
        if let Some((kernel, composed)) = contest.and_then(|index| found.contests[index].swap.clone()) {
            swaps.entry(at).or_default().push((kernel, composed));
        }
        bar.set(done as u64 + 1, jobs.len() as u64, Unit::Items);
    }
    let family = &device.adapter.family;
    for program in plan.programs.iter_mut().filter(|program| program.target == target.name) {
        program.tunings.retain(|tuning| tuning.family != *family);
    }
    for (at, swaps) in swaps {
        let swaps = swaps
            .into_iter()
            .map(|(kernel, composed)| Swap { kernel, with: add(plan, kernel, &composed), grid: composed.grid })
            .collect();
        plan.programs[at].tunings.push(Tuning { family: family.clone(), swaps });
    }
    Ok(found)
}

/// The kernels of a program, each once.
fn kernels(program: &Program) -> Vec<usize> {
    let mut kernels: Vec<usize> = program.steps.iter().map(|step| step.kernel).collect();
    kernels.sort_unstable();
    kernels.dedup();
    kernels
}

/// The index of a kernel's alternative, which is added if the plan does not have it yet.
fn add(plan: &mut Plan, kernel: usize, composed: &Composed) -> usize {
    if let Some(at) = plan.kernels.iter().position(|k| k.wgsl == composed.wgsl) {
        return at;
    }
    let mut added = composed.kernel(plan.kernels[kernel].meaning.clone());
    let mut number = 2;
    while plan.kernels.iter().any(|k| k.name == added.name) {
        added.name = format!("{}.{number}", composed.name);
        number += 1;
    }
    plan.kernels.push(added);
    plan.kernels.len() - 1
}

/// Measures a kernel and its alternatives; `None` where there are none that can be told from its meaning.
fn contest(
    device: &Device,
    target: &Target,
    plan: &Plan,
    (index, range, each): (usize, RowRange, Duration),
    samples: &mut Vec<Sample>,
) -> Result<Option<Contest>, CliError> {
    let kernel = &plan.kernels[index];
    let Ok(graph) = kernel.meaning.parse::<Graph>() else { return Ok(None) };
    let max_positions = plan.model.max_positions;
    let bounds = Bounds {
        max_context: max_positions,
        binding_bytes: target.limits.binding_bytes,
        storage_buffers: target.limits.storage_buffers,
        rows: range,
        cache: work::cached(plan).first().map_or_else(CacheFormat::default, |rows| rows.format),
        uncut: target.uncut(),
    };
    let Some(mut operation) = operation(&graph, bounds) else { return Ok(None) };
    operation.bind_like(&kernel.bindings);
    let Some(all) = alternatives(&operation, target, range, kernel) else { return Ok(None) };
    let mut steps = plan.programs.iter().flat_map(|program| &program.steps);
    let Some(step) = steps.find(|step| step.kernel == index) else { return Ok(None) };
    let Ok(call) = Call::new(plan, kernel, step, graph) else { return Ok(None) };
    let rows = range.max.unwrap_or(MANY).min(max_positions);
    if rows < CACHED && matches!(operation, Operation::CachedAttention { .. }) {
        return Ok(None);
    }
    let batch = Batch::new(&[rows], max_positions, &call, 1);
    let data = call.data(kernel, batch, 1);
    let sizes = data.batch.sizes();
    let name = format!("{}, {rows} rows", kernel.name);
    let buffers = block_on(device.buffers(&kernel.bindings, &data.buffers))?;
    let measured = |composed: &Composed| Measured::new(device, &name, composed, &buffers, sizes);
    let mut measured: Vec<Measured> = all.iter().map(measured).collect::<Result<_, _>>()?;
    repeat(device, &mut measured, Instant::now() + each * all.len() as u32)?;
    let mut own = f64::INFINITY;
    let mut best: Option<(f64, &Composed)> = None;
    for (composed, measured) in all.iter().zip(&measured) {
        let sample = measured.sample();
        tracing::debug!(operation = name, kernel = composed.name, sample.seconds, "measured");
        if composed.wgsl == kernel.wgsl {
            own = sample.seconds;
        }
        if best.is_none_or(|(seconds, _)| sample.seconds < seconds) {
            best = Some((sample.seconds, composed));
        }
        samples.push(sample);
    }
    let winner = best.filter(|(seconds, composed)| composed.wgsl != kernel.wgsl && *seconds < own * BETTER);
    Ok(Some(Contest {
        kernel: kernel.name.clone(),
        rows,
        seconds: own,
        alternatives: all.len(),
        winner: winner.map(|(seconds, composed)| (composed.name.clone(), seconds)),
        swap: winner.map(|(_, composed)| (index, composed.clone())),
    }))
}

/// The kernel and its closest alternatives; `None` where the operation is not that of the kernel.
fn alternatives(operation: &Operation, target: &Target, range: RowRange, kernel: &Kernel) -> Option<Vec<Composed>> {
    let choices = candidates(operation, target, operation.row_range(range)).ok()?;
    if choices.iter().any(|choice| choice.algorithm == Algorithm::Only) {
        return None;
    }
    let best = choices.first()?.seconds;
    let (mut all, mut own): (Vec<Composed>, bool) = (Vec::new(), false);
    for choice in choices {
        let close = all.len() < ALTERNATIVES.0 && choice.seconds <= best * ALTERNATIVES.1;
        if !close && own {
            break;
        }
        let Ok(composed) = compose(operation, choice, target) else { continue };
        let same = composed.wgsl == kernel.wgsl;
        if same || (close && composed.bindings == kernel.bindings) {
            all.push(composed);
        }
        own |= same;
    }
    (own && all.len() > 1).then_some(all)
}
