//! One submission: tables in, one compute pass, results out.

use std::collections::HashMap;

use warpweft_plan::{Plan, Program, Sizes, Step};

use super::arena::Arena;
use super::batch::Tables;
use super::clock::Clock;
use crate::RuntimeError;
use crate::device::{Device, Pipeline};
use crate::load::job::Job;

/// Floating-point operations that the driver gets at once: a second of a slow GPU.
const WORK: u64 = 50_000_000_000;

/// What one batch of rows did on its way through a program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Submission {
    /// Rows in it.
    pub rows: u64,
    /// Sequences in it.
    pub sequences: u64,
    /// Index of its program in the plan.
    pub program: usize,
    /// Wall time in seconds, from the first table written to the last result read.
    pub seconds: f64,
    /// Device time of each of the program's steps in seconds, if it was asked for and the device can tell.
    pub steps: Vec<f64>,
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
    /// Runs one step for the sequences of `tables` and appends its result to `values`, without padding.
    pub(crate) async fn submit(
        &self,
        tables: &Tables,
        profile: bool,
        values: &mut Vec<f32>,
    ) -> Result<Submission, RuntimeError> {
        let clock = Clock::start();
        let (rows, sequences) = (tables.ids.len() as u64, tables.sequences.len() as u64);
        let sizes = Sizes { tokens: rows, context: tables.longest(), sequences };
        let position = self.job.position(self.plan, rows);
        let index = self.job.programs[position];
        let program = &self.plan.programs[index];
        let timer = Timer::new(self.device, program, profile);
        let bytes = self
            .device
            .guard("running a step", || {
                for (input, buffer) in self.arena.inputs(self.plan) {
                    self.device.queue.write_buffer(buffer, 0, &tables.bytes(input));
                }
                self.encode(program, position, sizes, timer.as_ref())
            })
            .await?;
        let (width, stride) = (program.output.width as usize, program.output.stride as usize);
        self.device
            .read(&self.arena.copy, bytes, |result| {
                for row in result.chunks_exact(stride * 4) {
                    let (words, _) = row[..width * 4].as_chunks();
                    values.extend(words.iter().map(|word| f32::from_le_bytes(*word)));
                }
            })
            .await?;
        let steps = match timer {
            Some(timer) => timer.read(self.device).await?,
            None => Vec::new(),
        };
        let seconds = clock.seconds();
        tracing::trace!(rows, sequences, seconds, "submission");
        Ok(Submission { rows, sequences, program: index, seconds, steps })
    }

    /// Submits the commands; returns the bytes of the result.
    fn encode(&self, program: &Program, position: usize, sizes: Sizes, timer: Option<&Timer>) -> u64 {
        let groups = self.arena.groups(position);
        let mut encoder = self.device.gpu.create_command_encoder(&Default::default());
        let mut next = 0;
        while next < program.steps.len() {
            let end = match timer {
                Some(_) => next + 1,
                None => cut(&program.steps, next, sizes),
            };
            let timestamp_writes = timer.map(|t| t.writes(next as u32));
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            for (step, group) in program.steps[next..end].iter().zip(&groups[next..end]) {
                self.dispatch(&mut pass, step, group, sizes);
            }
            drop(pass);
            next = end;
            if timer.is_none() && next < program.steps.len() {
                self.device.queue.submit([encoder.finish()]);
                encoder = self.device.gpu.create_command_encoder(&Default::default());
            }
        }
        let bytes = program.output.rows.eval(sizes).unwrap_or(0) * u64::from(program.output.stride) * 4;
        if let Some(output) = self.arena.buffer(program.output.buffer) {
            encoder.copy_buffer_to_buffer(output, 0, &self.arena.copy, 0, bytes);
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

/// Timestamps around each step. Each step is a pass of its own then, which costs some microseconds.
struct Timer {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    copy: wgpu::Buffer,
    count: u32,
}

impl Timer {
    fn new(device: &Device, program: &Program, profile: bool) -> Option<Timer> {
        let count = u32::try_from(program.steps.len()).ok()?.checked_mul(2)?;
        let possible = device.gpu.features().contains(wgpu::Features::TIMESTAMP_QUERY);
        if !profile || !possible || count > wgpu::QUERY_SET_MAX_QUERIES {
            return None;
        }
        let buffer = |usage| {
            let size = u64::from(count) * 8;
            device.gpu.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        Some(Timer {
            queries: device.gpu.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count,
            }),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            copy: buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ),
            count,
        })
    }

    fn writes(&self, step: u32) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(2 * step),
            end_of_pass_write_index: Some(2 * step + 1),
        }
    }

    fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.resolve_query_set(&self.queries, 0..self.count, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.copy, 0, self.copy.size());
    }

    async fn read(self, device: &Device) -> Result<Vec<f64>, RuntimeError> {
        let unit = f64::from(device.queue.get_timestamp_period()) * 1e-9;
        let seconds = |times: &[u8]| {
            let times: Vec<u64> = bytemuck::pod_collect_to_vec(times);
            times.chunks_exact(2).map(|t| t[1].saturating_sub(t[0]) as f64 * unit).collect()
        };
        device.read(&self.copy, self.copy.size(), seconds).await
    }
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
        };
        let steps = [step(2), step(2), step(9), step(1), step(-1), step(1)];
        let sizes = Sizes { tokens: WORK / 4, ..Sizes::default() };
        let ends: Vec<_> = (0..steps.len()).map(|first| cut(&steps, first, sizes)).collect();
        assert_eq!(ends, [2, 2, 3, 6, 6, 6]);
    }
}
