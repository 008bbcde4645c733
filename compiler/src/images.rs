//! Matrices that are images.
//!
//! Where a load of a buffer is a loop over lanes and that of an image is none, what contractions read is stored as an image, as
//! their weights are, if all kernels that write or read it can have it so. An image cannot lie where a buffer lies, so there
//! are only as many as scratch memory has room for.

use warpweft_plan::{Dim, ROW_BLOCK, Sizes};

use crate::graph::Graph;
use crate::kernels::Slot;
use crate::kernels::spec::Operation;
use crate::lower::{Call, Input, Layout, LoweredBody, Place, Source};
use crate::roll::Rolled;
use crate::schedule::{Part, ScheduleError, scratch};

/// Scratch memory of a program, as a multiple of what is alive in it at once, that images may take it to.
const MOST_SCRATCH: f64 = 1.25;

/// A value that can be an image: its body, and its bindings by call.
struct Candidate {
    body: usize,
    bound: Vec<(usize, Slot)>,
    /// Multiply-adds of a row that read it.
    work: u64,
}

/// Makes images of what is contracted in the programs of `parts`, which differ in their output alone: first of what most
/// multiply-adds read.
///
/// # Errors
/// Those of putting a program together.
pub(crate) fn make(
    model: &Graph,
    rolled: &Rolled,
    bodies: &mut [LoweredBody],
    parts: &[Part<'_>],
) -> Result<(), ScheduleError> {
    let Some(most) = parts.first().map(|part| part.target.images).filter(|most| *most > 0) else { return Ok(()) };
    let mut all: Vec<Candidate> = bodies.iter().enumerate().flat_map(|(at, body)| candidates(at, body)).collect();
    all.sort_by_key(|candidate| std::cmp::Reverse(candidate.work));
    for candidate in all {
        let body = &bodies[candidate.body];
        let more = |at: usize| candidate.bound.iter().filter(|(other, _)| *other == at).count();
        if candidate.bound.iter().any(|(at, _)| images(&body.calls[*at]) + more(*at) > most as usize) {
            continue;
        }
        set(&mut bodies[candidate.body], &candidate, true);
        let bodies_now: Vec<&LoweredBody> = bodies.iter().collect();
        let mut fits = true;
        for part in parts {
            fits = fits && waste(&scratch(model, rolled, &bodies_now, *part)?, *part) <= MOST_SCRATCH;
        }
        if !fits {
            set(&mut bodies[candidate.body], &candidate, false);
        }
    }
    Ok(())
}

fn set(body: &mut LoweredBody, candidate: &Candidate, to: bool) {
    for &(at, slot) in &candidate.bound {
        body.calls[at].operation.image(slot).into_iter().for_each(|image| *image = to);
    }
}

/// Scratch memory as a multiple of what is alive at once, in the steps where it is most.
fn waste([sizes, alive]: &[Vec<Dim>; 2], part: Part<'_>) -> f64 {
    let blocks = if part.rows.max.is_some() { &[1][..] } else { &[4, 16] };
    let of = |blocks: u64| {
        let tokens = blocks * ROW_BLOCK;
        let step = Sizes { tokens, context: tokens, sequences: 1 };
        let bytes = |dim: &Dim| dim.eval(step).unwrap_or(0);
        let alive = alive.iter().map(bytes).max().unwrap_or(0).max(1);
        sizes.iter().map(bytes).sum::<u64>() as f64 / alive as f64
    };
    blocks.iter().map(|&blocks| of(blocks)).fold(0.0, f64::max)
}

/// The values inside a body that contractions read and that can be images.
fn candidates(at: usize, body: &LoweredBody) -> impl Iterator<Item = Candidate> {
    let is_inner = |value: &usize| body.values[*value].place == Place::Step && !body.outputs.contains(value);
    (0..body.values.len()).filter(is_inner).filter_map(move |value| {
        let calls = body.calls.iter().enumerate();
        let bound: Vec<(usize, Slot)> =
            calls.flat_map(|(call, it)| slots(it, value).map(move |slot| (call, slot))).collect();
        let contracted = bound.iter().filter(|(_, slot)| *slot == Slot::X);
        let work = contracted.map(|(call, _)| work(&body.calls[*call].operation)).sum();
        let can = |(call, slot): &(usize, Slot)| body.calls[*call].operation.clone().image(*slot).is_some();
        (work > 0 && bound.iter().all(can)).then_some(Candidate { body: at, bound, work })
    })
}

/// The bindings of a call to a value.
fn slots(call: &Call, value: usize) -> impl Iterator<Item = Slot> {
    let read = call.inputs.iter().filter(move |(_, input)| *input == Input::Activation(Source::Value(value)));
    let written = call.values.iter().enumerate().filter(move |(_, written)| **written == value);
    let written = written.map(|(part, _)| if part == 0 { Slot::Out } else { Slot::Part(part) });
    read.map(|(slot, _)| *slot).chain(written)
}

/// Multiply-adds of a row of a contraction.
fn work(operation: &Operation) -> u64 {
    match operation.inner() {
        Operation::Linear { x, n, paired, .. } => u64::from(x.width) * u64::from(*n) * (1 + u64::from(*paired)),
        Operation::NormedLinear { .. }
        | Operation::GainedLinear { .. }
        | Operation::ScaledLinear { .. }
        | Operation::IntegerLinear(_)
        | Operation::Quantize { .. }
        | Operation::Dequantize { .. }
        | Operation::PerHead { .. }
        | Operation::Attention(_)
        | Operation::Normalize { .. }
        | Operation::Map { .. }
        | Operation::Columns { .. }
        | Operation::Pool { .. }
        | Operation::Heads { .. }
        | Operation::CachedAttention { .. }
        | Operation::CombineAttention { .. }
        | Operation::CandidateChunks { .. }
        | Operation::Candidates { .. } => 0,
    }
}

/// Images that a call binds.
fn images(call: &Call) -> usize {
    let read = |(slot, input): &(Slot, Input)| match input {
        Input::Weight(weight) => weight.layout == Layout::Matrix,
        Input::Activation(_) => call.operation.is_image(*slot),
        Input::Vectors(_) => false,
    };
    let count = call.inputs.iter().filter(|input| read(input)).count();
    count + usize::from(call.operation.is_image(Slot::Out))
}
