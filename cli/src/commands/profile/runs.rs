//! What is measured: submissions of a prompt, of tokens after it, or of a batch.

use std::time::Instant;

use warpweft_plan::{OutputKind, Plan};
use warpweft_runtime::{Candidates, Engine, Part, StepClock, Submission, block_on};

use crate::CliError;
use crate::console::Console;
use crate::interrupt;
use crate::progress::Unit;

/// What a submission was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Prefill,
    Decode,
    Batch,
}

impl Phase {
    pub(super) const ALL: [Phase; 3] = [Phase::Prefill, Phase::Decode, Phase::Batch];

    pub(super) fn name(self) -> &'static str {
        match self {
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
            Phase::Batch => "batch",
        }
    }
}

/// A submission that was measured.
pub(super) struct Run {
    pub(super) phase: Phase,
    /// When it began, in seconds from the first.
    pub(super) start: f64,
    pub(super) submission: Submission,
}

/// The output of an encoder that is profiled.
pub(super) fn encoder_output(plan: &Plan) -> OutputKind {
    let has = |kind: &OutputKind| plan.programs.iter().any(|p| p.output.kind == *kind);
    [OutputKind::Embedding, OutputKind::Hidden].into_iter().find(has).unwrap_or(OutputKind::Logits)
}

/// A batch, after the same batch unmeasured.
pub(super) fn batch(
    engine: &mut Engine,
    sequences: &[Vec<u32>],
    clock: StepClock,
    console: &mut Console<'_>,
) -> Result<Vec<Run>, CliError> {
    let kind = encoder_output(engine.plan());
    let mut bar = console.bar("runs");
    let mut runs = Vec::new();
    for (round, clock) in [None, Some(clock)].into_iter().enumerate() {
        interrupt::check()?;
        engine.set_clock(clock)?;
        block_on(engine.run(kind, sequences))?;
        bar.set(round as u64 + 1, 2, Unit::Items);
    }
    take(engine, Phase::Batch, 0.0, &mut runs);
    Ok(runs)
}

/// A prompt and `new` tokens after the first, after the same with one token unmeasured.
pub(super) fn text(
    engine: &mut Engine,
    sequences: &[Vec<u32>],
    new: u32,
    clock: StepClock,
    console: &mut Console<'_>,
) -> Result<Vec<Run>, CliError> {
    let prompt = sequences.first().map_or(&[][..], Vec::as_slice);
    let mut bar = console.bar("tokens");
    let mut runs = Vec::new();
    for (clock, new) in [(None, 1), (Some(clock), new)] {
        engine.set_clock(clock)?;
        runs.clear();
        let start = Instant::now();
        let mut session = engine.session()?;
        let mut rest = prompt;
        let mut next = 0;
        while !rest.is_empty() {
            interrupt::check()?;
            let rows = engine.step_rows(OutputKind::Candidates).clamp(1, rest.len());
            let (ids, tail) = rest.split_at(rows);
            let at = start.elapsed().as_secs_f64();
            let part = Part { session: &mut session, ids };
            match tail.is_empty() {
                true => next = best(&block_on(engine.advance_candidates(&mut [part]))?),
                false => block_on(engine.append(&mut [part]))?,
            }
            take(engine, Phase::Prefill, at, &mut runs);
            rest = tail;
        }
        for done in 0..new {
            interrupt::check()?;
            let at = start.elapsed().as_secs_f64();
            let found = block_on(engine.advance_candidates(&mut [Part { session: &mut session, ids: &[next] }]))?;
            take(engine, Phase::Decode, at, &mut runs);
            next = best(&found);
            bar.set(u64::from(done) + 1, new.into(), Unit::Items);
        }
    }
    Ok(runs)
}

fn best(found: &[Candidates]) -> u32 {
    found.first().and_then(|candidates| candidates.ids.first().copied()).unwrap_or(0)
}

/// The submissions of the last call, which began at `start`.
fn take(engine: &Engine, phase: Phase, mut start: f64, runs: &mut Vec<Run>) {
    for submission in engine.submissions() {
        runs.push(Run { phase, start, submission: submission.clone() });
        start += submission.seconds;
    }
}
