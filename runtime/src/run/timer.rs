//! How long each step of a program takes.

use warpweft_plan::{Access, Binding, Kernel};

use super::clock::Clock;
use crate::RuntimeError;
use crate::device::{Device, Pipeline};

/// What measures the steps of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepClock {
    /// The device's own clock, by timestamp queries: the time from the end of what was before to the end of the step.
    Timestamps,
    /// This process's clock: each step is submitted by itself and waited for, and that counts too. For devices that have
    /// no clock, or one that cannot be believed. In browsers there is no such clock.
    Waits,
}

impl StepClock {
    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            StepClock::Timestamps => "timestamps",
            StepClock::Waits => "waits",
        }
    }
}

/// When a step ran, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTime {
    /// From the start of the submission's first step.
    pub start: f64,
    /// How long it took.
    pub seconds: f64,
}

impl Device {
    /// Checks that the device has what a clock needs.
    ///
    /// # Errors
    /// [`RuntimeError::NoClock`] with the feature that is missing.
    pub fn check_clock(&self, clock: StepClock) -> Result<(), RuntimeError> {
        let missing = match clock {
            StepClock::Timestamps if !self.gpu.features().contains(wgpu::Features::TIMESTAMP_QUERY) => {
                "the feature TIMESTAMP_QUERY"
            }
            StepClock::Waits if cfg!(target_arch = "wasm32") => "a clock of its own (browsers have none for programs)",
            StepClock::Timestamps | StepClock::Waits => return Ok(()),
        };
        Err(RuntimeError::NoClock { adapter: self.adapter.name.clone(), missing })
    }
}

/// Some thousand multiply-adds of each invocation.
const WORK: &str = "@group(0) @binding(0) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var x = f32(id.x);
    for (var i = 0u; i < 4096u; i++) {
        x = fma(x, 0.5, 1.0);
    }
    out[id.x] = x;
}
";

impl Device {
    /// Measures some work with a clock and sees whether what it says is possible.
    ///
    /// # Errors
    /// [`RuntimeError::NoClock`] if the device has no such clock, [`RuntimeError::Clock`] if it contradicts itself or this
    /// process's clock; trouble with the device.
    pub async fn try_clock(&self, clock: StepClock) -> Result<(), RuntimeError> {
        self.check_clock(clock)?;
        match clock {
            StepClock::Waits => Ok(()),
            StepClock::Timestamps => self.try_timestamps().await,
        }
    }

    async fn try_timestamps(&self) -> Result<(), RuntimeError> {
        const STEPS: usize = 4;
        const GROUPS: u32 = 64;
        let doing = "trying its clock";
        let kernel = Kernel {
            name: "clock".into(),
            wgsl: WORK.into(),
            workgroup: [64, 1, 1],
            bindings: vec![Binding { name: "out".into(), access: Access::ReadWrite }],
            loop_trips: 4096,
            cost: Default::default(),
            meaning: String::new(),
        };
        let pipeline = Pipeline::new(self, &kernel).await?;
        let start = Clock::start();
        let submit = || {
            let size = u64::from(GROUPS) * 64 * 4;
            let usage = wgpu::BufferUsages::STORAGE;
            let out =
                self.gpu.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
            let group = pipeline.bind(self, [out.as_entire_binding()]);
            let timer = Timer::new(self, STEPS);
            let mut encoder = self.gpu.create_command_encoder(&Default::default());
            let length = if timer.inside() { STEPS } else { 1 };
            for first in (0..STEPS).step_by(length) {
                let mut pass = timer.pass(&mut encoder, first);
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, &group, &[]);
                for step in first..first + length {
                    pass.dispatch_workgroups(GROUPS, 1, 1);
                    timer.mark(&mut pass, step + 1);
                }
            }
            timer.resolve(&mut encoder);
            self.queue.submit([encoder.finish()]);
            timer
        };
        let timer = self.guard(doing, submit).await?;
        self.idle(doing).await?;
        let wall = start.seconds();
        timer.read(self, wall).await.map(|_| ())
    }
}

/// Timestamps around each step.
pub(crate) struct Timer {
    /// Queries, in sets as large as WebGPU has them.
    sets: Vec<wgpu::QuerySet>,
    resolved: wgpu::Buffer,
    copy: wgpu::Buffer,
    count: u32,
    /// One timestamp lies between two steps of a pass. Otherwise each step is a pass of its own, which costs some
    /// microseconds, with two.
    inside: bool,
}

impl Timer {
    pub(crate) fn new(device: &Device, steps: usize) -> Timer {
        let inside = device.gpu.features().contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES);
        // A plan's header of 100 MB holds fewer steps.
        let steps = u32::try_from(steps).unwrap_or(u32::MAX / 2);
        let count = if inside { steps + 1 } else { 2 * steps };
        let buffer = |usage| {
            let size = u64::from(count) * 8;
            device.gpu.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        let set = |first: u32| {
            let count = (count - first).min(wgpu::QUERY_SET_MAX_QUERIES);
            let ty = wgpu::QueryType::Timestamp;
            device.gpu.create_query_set(&wgpu::QuerySetDescriptor { label: None, ty, count })
        };
        Timer {
            sets: (0..count).step_by(wgpu::QUERY_SET_MAX_QUERIES as usize).map(set).collect(),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            copy: buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ),
            count,
            inside,
        }
    }

    /// Whether steps share a pass.
    pub(crate) fn inside(&self) -> bool {
        self.inside
    }

    /// The pass that begins with a step.
    pub(crate) fn pass<'e>(&self, encoder: &'e mut wgpu::CommandEncoder, first: usize) -> wgpu::ComputePass<'e> {
        let timestamp_writes = self.writes(first);
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
        if first == 0 {
            self.mark(&mut pass, 0);
        }
        pass
    }

    /// What a pass of one step writes by itself.
    fn writes(&self, step: usize) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        // Sets hold an even number of queries, so both are in one.
        let (set, at) = self.place(2 * step)?;
        (!self.inside).then_some(wgpu::ComputePassTimestampWrites {
            query_set: set,
            beginning_of_pass_write_index: Some(at),
            end_of_pass_write_index: Some(at + 1),
        })
    }

    /// Writes the time after `steps` steps, where steps share a pass.
    pub(crate) fn mark(&self, pass: &mut wgpu::ComputePass<'_>, steps: usize) {
        if let Some((set, at)) = self.place(steps).filter(|_| self.inside) {
            pass.write_timestamp(set, at);
        }
    }

    fn place(&self, query: usize) -> Option<(&wgpu::QuerySet, u32)> {
        let size = wgpu::QUERY_SET_MAX_QUERIES as usize;
        Some((self.sets.get(query / size)?, (query % size) as u32))
    }

    pub(crate) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut first = 0;
        for set in &self.sets {
            let count = (self.count - first).min(wgpu::QUERY_SET_MAX_QUERIES);
            encoder.resolve_query_set(set, 0..count, &self.resolved, u64::from(first) * 8);
            first += count;
        }
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.copy, 0, self.copy.size());
    }

    /// When each step ran; `wall` is how many seconds passed for this process from submission to result.
    pub(crate) async fn read(self, device: &Device, wall: f64) -> Result<Vec<StepTime>, RuntimeError> {
        let period = f64::from(device.queue.get_timestamp_period()) * 1e-9;
        let ticks: Vec<u64> = device.read(&self.copy, self.copy.size(), bytemuck::pod_collect_to_vec).await?;
        let spans: Vec<[u64; 2]> = match self.inside {
            true => ticks.windows(2).map(|t| [t[0], t[1]]).collect(),
            false => ticks.as_chunks().0.to_vec(),
        };
        step_times(&spans, period, wall)
            .map_err(|problem| RuntimeError::Clock { adapter: device.adapter.name.clone(), problem })
    }
}

/// Times from timestamps before and after each step, a tick being `period` seconds; or why they cannot be believed.
fn step_times(spans: &[[u64; 2]], period: f64, wall: f64) -> Result<Vec<StepTime>, String> {
    let Some(&[origin, _]) = spans.first() else { return Ok(Vec::new()) };
    let mut previous = origin;
    let mut times = Vec::with_capacity(spans.len());
    for (step, &[start, end]) in spans.iter().enumerate() {
        if start == 0 || end == 0 {
            return Err(format!("step {step} has a timestamp of 0"));
        }
        if start < previous || end < start {
            return Err(format!("step {step} runs from {start} to {end}, the one before from {previous}"));
        }
        previous = start;
        let at = |tick: u64| (tick - origin) as f64 * period;
        times.push(StepTime { start: at(start), seconds: at(end) - at(start) });
    }
    let span = times.iter().map(|t| t.start + t.seconds).fold(0.0, f64::max);
    if span <= 0.0 {
        return Err(format!("{} steps take no time at all", times.len()));
    }
    // Where this process has no clock, `wall` is 0.
    if wall > 0.0 && span > 1.1 * wall + 1e-3 {
        return Err(format!("steps take {span:.6} s of the {wall:.6} s that the whole submission took"));
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_follow_from_ticks() {
        let times = step_times(&[[1000, 1100], [1120, 1120], [1120, 1500]], 1e-6, 1e-3).unwrap();
        let expected = [(0.0, 1e-4), (1.2e-4, 0.0), (1.2e-4, 3.8e-4)];
        for (time, (start, seconds)) in times.iter().zip(expected) {
            assert!((time.start - start).abs() < 1e-12 && (time.seconds - seconds).abs() < 1e-12, "{time:?}");
        }
        assert_eq!(step_times(&[], 1e-9, 0.0).unwrap(), []);
        // Without a clock of its own, a process believes the device.
        assert!(step_times(&[[1, 1_000_000]], 1.0, 0.0).is_ok());
    }

    #[test]
    fn a_clock_that_cannot_be_believed_is_told() {
        let problem = |spans: &[[u64; 2]]| step_times(spans, 1e-9, 1e-2).unwrap_err();
        assert_eq!(problem(&[[5, 6], [0, 0]]), "step 1 has a timestamp of 0");
        assert_eq!(problem(&[[5, 4]]), "step 0 runs from 5 to 4, the one before from 5");
        assert_eq!(problem(&[[5, 9], [4, 9]]), "step 1 runs from 4 to 9, the one before from 5");
        assert_eq!(problem(&[[7, 7], [7, 7]]), "2 steps take no time at all");
        assert!(problem(&[[1, 20_000_000]]).starts_with("steps take 0.0200"));
    }
}
