//! One submission: tables in, one compute pass, results out.

use std::collections::HashMap;

use warpweft_plan::{Output, Plan, Program, Role, Sizes, Step};

use super::arena::Arena;
use super::batch::Tables;
use super::clock::Clock;
use super::timer::{StepClock, StepTime, Timer};
use crate::RuntimeError;
use crate::device::{Device, Pipeline};
use crate::load::job::Job;

/// Floating-point operations that the driver gets at once: a second of a slow GPU.
const WORK: u64 = 50_000_000_000;

/// What errors tell.
const DOING: &str = "running a step";

/// What one batch of rows did on its way through a program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Submission {
    /// Rows in it.
    pub rows: u64,
    /// Sequences in it.
    pub sequences: u64,
    /// Rows of the longest sequence, cached ones included.
    pub context: u64,
    /// Index of its program in the plan.
    pub program: usize,
    /// How many of the program's steps ran: all, unless rows were only appended.
    pub dispatches: usize,
    /// Wall time in seconds, from the first table written to the last result read.
    pub seconds: f64,
    /// Of those, until the driver had all commands. Where steps are waited for one by one, that is most of the time.
    pub submitting: f64,
    /// When each of the program's steps ran, if [`Options::clock`](crate::Options::clock) asks for it.
    pub steps: Vec<StepTime>,
    /// What measured them.
    pub clock: Option<StepClock>,
}

impl Submission {
    /// The sizes that its steps had.
    pub fn sizes(&self) -> Sizes {
        Sizes { tokens: self.rows, context: self.context, sequences: self.sequences }
    }
}

/// What a submission runs on.
pub(crate) struct Ready<'a> {
    pub(crate) device: &'a Device,
    pub(crate) plan: &'a Plan,
    pub(crate) job: &'a Job,
    pub(crate) pipelines: &'a HashMap<usize, Pipeline>,
    pub(crate) arena: &'a Arena,
}

impl Ready<'_> {
    /// Runs one step for the sequences of `tables` and appends its result to `values`, without padding. Where nobody
    /// wants that, the step ends once the caches have its rows.
    pub(crate) async fn submit(
        &self,
        tables: &Tables,
        step_clock: Option<StepClock>,
        values: Option<&mut Vec<f32>>,
    ) -> Result<Submission, RuntimeError> {
        let clock = Clock::start();
        let (rows, sequences) = (tables.ids.len() as u64, tables.sequences.len() as u64);
        let sizes = Sizes { tokens: rows, context: tables.longest(), sequences };
        let position = self.job.position(self.plan, rows);
        let index = self.job.programs[position];
        let program = &self.plan.programs[index];
        let (run, output) = match values {
            Some(_) => (program.steps.len(), Some(&program.output)),
            None => (appending(self.plan, program), None),
        };
        let run = &program.steps[..run];
        let write = || {
            for (input, buffer) in self.arena.inputs(self.plan) {
                self.device.queue.write_buffer(buffer, 0, &tables.bytes(input));
            }
        };
        self.device.guard(DOING, write).await?;
        let mut steps = Vec::new();
        let mut timer = None;
        let encoded = match step_clock {
            Some(StepClock::Waits) => {
                steps = self.wait_for_each(run, position, sizes).await?;
                &[]
            }
            Some(StepClock::Timestamps) => {
                timer = Some(self.device.guard(DOING, || Timer::new(self.device, run.len())).await?);
                run
            }
            None => run,
        };
        let encode = || self.encode(encoded, output, position, sizes, timer.as_ref());
        let bytes = self.device.guard(DOING, encode).await?;
        let submitting = clock.seconds();
        let (width, stride) = (program.output.width as usize, program.output.stride as usize);
        match values {
            Some(values) => {
                let read = |result: &[u8]| {
                    for row in result.chunks_exact(stride * 4) {
                        let (words, _) = row[..width * 4].as_chunks();
                        values.extend(words.iter().map(|word| f32::from_le_bytes(*word)));
                    }
                };
                self.device.read(&self.arena.copy, bytes, read).await?;
            }
            None => self.device.idle(DOING).await?,
        }
        if let Some(timer) = timer {
            steps = timer.read(self.device, clock.seconds()).await?;
        }
        let seconds = clock.seconds();
        tracing::trace!(rows, sequences, seconds, "submission");
        let context = sizes.context;
        Ok(Submission {
            rows,
            sequences,
            context,
            program: index,
            dispatches: run.len(),
            seconds,
            submitting,
            steps,
            clock: step_clock,
        })
    }

    /// Runs the steps one by one and waits for each.
    async fn wait_for_each(
        &self,
        steps: &[Step],
        position: usize,
        sizes: Sizes,
    ) -> Result<Vec<StepTime>, RuntimeError> {
        let groups = self.arena.groups(position);
        // The tables are on their way until then.
        self.device.guard(DOING, || self.device.queue.submit([])).await?;
        self.device.idle(DOING).await?;
        let clock = Clock::start();
        let mut times = Vec::with_capacity(steps.len());
        for (step, group) in steps.iter().zip(groups) {
            let start = clock.seconds();
            let run = || {
                let mut encoder = self.device.gpu.create_command_encoder(&Default::default());
                let mut pass = encoder.begin_compute_pass(&Default::default());
                self.dispatch(&mut pass, step, group, sizes);
                drop(pass);
                self.device.queue.submit([encoder.finish()]);
            };
            self.device.guard(DOING, run).await?;
            self.device.idle(DOING).await?;
            times.push(StepTime { start, seconds: clock.seconds() - start });
        }
        Ok(times)
    }

    /// Submits the commands of the steps; returns the bytes of the output that they leave to be read.
    fn encode(
        &self,
        steps: &[Step],
        output: Option<&Output>,
        position: usize,
        sizes: Sizes,
        timer: Option<&Timer>,
    ) -> u64 {
        let groups = self.arena.groups(position);
        let mut encoder = self.device.gpu.create_command_encoder(&Default::default());
        let mut next = 0;
        while next < steps.len() {
            let end = cut(steps, next, sizes);
            // Steps share a pass unless each has to be one to be measured.
            let length = if timer.is_some_and(|timer| !timer.inside()) { 1 } else { end - next };
            for first in (next..end).step_by(length) {
                let mut pass = match timer {
                    Some(timer) => timer.pass(&mut encoder, first),
                    None => encoder.begin_compute_pass(&Default::default()),
                };
                for (at, (step, group)) in steps.iter().zip(groups).enumerate().skip(first).take(length) {
                    self.dispatch(&mut pass, step, group, sizes);
                    if let Some(timer) = timer {
                        timer.mark(&mut pass, at + 1);
                    }
                }
            }
            next = end;
            if next < steps.len() {
                self.device.queue.submit([encoder.finish()]);
                encoder = self.device.gpu.create_command_encoder(&Default::default());
            }
        }
        let mut bytes = 0;
        if let Some((output, buffer)) = output.and_then(|output| Some((output, self.arena.buffer(output.buffer)?))) {
            bytes = output.rows.eval(sizes).unwrap_or(0) * u64::from(output.stride) * 4;
            encoder.copy_buffer_to_buffer(buffer, 0, &self.arena.copy, 0, bytes);
        }
        if let Some(timer) = timer {
            timer.resolve(&mut encoder);
        }
        self.device.queue.submit([encoder.finish()]);
        bytes
    }

    fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, step: &Step, group: &wgpu::BindGroup, sizes: Sizes) {
        // The capacity was chosen so that every count is in range, and arenas are made with all pipelines there.
        let [x, y, z] = step.grid.map(|g| g.count(sizes).and_then(|n| u32::try_from(n).ok()).unwrap_or(0));
        if let Some(pipeline) = self.pipelines.get(&step.kernel) {
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(x, y, z);
        }
    }
}

/// Steps of a program up to the last one that adds rows to a cache.
fn appending(plan: &Plan, program: &Program) -> usize {
    let appends = |step: &Step| {
        let bindings = plan.kernels[step.kernel].bindings.iter().zip(&step.buffers);
        let mut written = bindings.filter(|(binding, _)| binding.access.writes());
        written.any(|(_, &buffer)| matches!(plan.buffers[buffer].role, Role::Cache { .. }))
    };
    program.steps.iter().rposition(appends).map_or(0, |last| last + 1)
}

/// The end of the steps from `first` on that the driver gets as one piece of work: at least one, and no more than
/// [`WORK`]. One long sequence cannot be cut by rows, and watchdogs count from submission to submission.
fn cut(steps: &[Step], first: usize, sizes: Sizes) -> usize {
    let mut work = 0u64;
    let fits = |step: &&Step| {
        work = work.saturating_add(step.flops.eval(sizes).unwrap_or(0));
        work <= WORK
    };
    first + steps[first..].iter().take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use warpweft_plan::{Dim, Groups};

    use super::*;

    #[test]
    fn long_work_is_cut_between_steps() {
        let step = |flops| Step {
            kernel: 0,
            buffers: Vec::new(),
            grid: [Groups::ONE; 3],
            layer: None,
            bytes: Dim::constant(0),
            flops: Dim::TOKENS * flops,
            live: Dim::constant(0),
        };
        let steps = [step(2), step(2), step(9), step(1), step(-1), step(1)];
        let sizes = Sizes { tokens: WORK / 4, ..Sizes::default() };
        let ends: Vec<_> = (0..steps.len()).map(|first| cut(&steps, first, sizes)).collect();
        assert_eq!(ends, [2, 2, 3, 6, 6, 6]);
    }
}
