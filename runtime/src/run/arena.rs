//! The buffers between kernels, and the bindings of every step to them.

use std::collections::HashMap;

use warpweft_plan::{Binding, Input, Plan, Role};

use crate::RuntimeError;
use crate::device::{Device, Pipeline, Stored};
use crate::load::job::{Job, Window, window};
use crate::load::memory::{Extent, size};
use crate::load::scratch;
use crate::session::Pool;

/// What stays on the device from step to step.
#[derive(Clone, Copy)]
pub(crate) struct Resident<'a> {
    pub(crate) weights: &'a HashMap<Window, Stored>,
    pub(crate) pools: &'a [Pool],
    pub(crate) pipelines: &'a HashMap<usize, Pipeline>,
}

/// Everything that steps within [`Arena::extent`] need besides weights, caches and pipelines.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) extent: Extent,
    /// Inputs and outputs by the index of their buffer.
    buffers: HashMap<usize, wgpu::Buffer>,
    /// What all programs use for their scratch buffers, the largest first, and behind those the same of images.
    scratch: Vec<Stored>,
    /// Bind groups of each step, by the position of the program in the job; of those programs that have run.
    groups: HashMap<usize, Vec<wgpu::BindGroup>>,
    /// Through which results come back.
    pub(crate) copy: wgpu::Buffer,
}

impl Arena {
    pub(crate) async fn new(device: &Device, plan: &Plan, job: &Job, extent: Extent) -> Result<Arena, RuntimeError> {
        let make = || {
            let usages = job.buffers.iter().filter_map(|&i| Some((i, usage(plan.buffers[i].role)?)));
            let buffer =
                |(i, usage): (usize, _)| (i, create(device, &plan.buffers[i].name, size(plan, i, extent), usage));
            let buffers: HashMap<_, _> = usages.map(buffer).collect();
            let scratch = scratch::places(plan, job, extent).into_iter();
            let scratch = scratch.map(|(access, bytes)| Stored::new(device, Some("scratch"), access, bytes)).collect();
            let outputs = job.programs.iter().map(|&i| size(plan, plan.programs[i].output.buffer, extent));
            let copy = device.gpu.create_buffer(&wgpu::BufferDescriptor {
                label: Some("results"),
                size: outputs.max().unwrap_or(4),
                usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
                mapped_at_creation: false,
            });
            Arena { extent, buffers, scratch, groups: HashMap::new(), copy }
        };
        device.guard("allocating activations", make).await
    }

    /// Binds the steps of the program at `position`, whose kernels are compiled. Does nothing the second time.
    pub(crate) async fn bind(
        &mut self,
        device: &Device,
        plan: &Plan,
        job: &Job,
        position: usize,
        resident: Resident<'_>,
    ) -> Result<(), RuntimeError> {
        if self.groups.contains_key(&position) {
            return Ok(());
        }
        let cache = |i: usize| resident.pools.iter().find_map(|pool| pool.buffers.get(&i));
        let program = &plan.programs[job.programs[position]];
        let mut places: HashMap<usize, &Stored> = HashMap::new();
        for images in [false, true] {
            let such = self.scratch.iter().filter(|stored| matches!(stored, Stored::Image(..)) == images);
            places.extend(scratch::ranked(plan, program, self.extent, images).into_iter().zip(such));
        }
        let bind = || -> Option<Vec<wgpu::BindGroup>> {
            let bound = program.steps.iter().map(|step| {
                let operand =
                    |(&i, binding): (&usize, &Binding)| match (window(plan, i, binding.access), places.get(&i)) {
                        (Some(window), _) => resident.weights.get(&window).map(Stored::resource),
                        (None, Some(stored)) => Some(stored.resource()),
                        (None, None) => self.buffers.get(&i).or_else(|| cache(i)).map(wgpu::Buffer::as_entire_binding),
                    };
                let bound = step.buffers.iter().zip(&plan.kernels[step.kernel].bindings);
                let operands: Option<Vec<_>> = bound.map(operand).collect();
                Some(resident.pipelines.get(&step.kernel)?.bind(device, operands?))
            });
            bound.collect()
        };
        let doing = "binding a program";
        let groups = device.guard(doing, bind).await?;
        // A step that binds what was not loaded would be a mistake in this crate.
        let missing = || RuntimeError::Refused { doing: doing.into(), message: "a buffer is missing".into() };
        self.groups.insert(position, groups.ok_or_else(missing)?);
        Ok(())
    }

    /// The bind groups of the program at `position` in the job.
    pub(crate) fn groups(&self, position: usize) -> &[wgpu::BindGroup] {
        self.groups.get(&position).map_or(&[], Vec::as_slice)
    }

    /// Bytes of its scratch buffers, and of inputs, outputs and the copy through which results come back.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let transfers = self.buffers.values().chain([&self.copy]);
        (self.scratch.iter().map(Stored::bytes).sum(), transfers.map(wgpu::Buffer::size).sum())
    }

    /// A buffer between kernels.
    pub(crate) fn buffer(&self, index: usize) -> Option<&wgpu::Buffer> {
        self.buffers.get(&index)
    }

    /// The input buffers.
    pub(crate) fn inputs<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = (Input, &'a wgpu::Buffer)> {
        self.buffers.iter().filter_map(|(&i, buffer)| match plan.buffers[i].role {
            Role::Input(input) => Some((input, buffer)),
            Role::Weight { .. } | Role::Scratch | Role::Output | Role::Cache { .. } => None,
        })
    }
}

/// What a buffer that belongs to one extent alone is used for; `None` for all others.
fn usage(role: Role) -> Option<wgpu::BufferUsages> {
    match role {
        Role::Input(Input::Step) => Some(wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST),
        Role::Input(_) => Some(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST),
        Role::Output => Some(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC),
        Role::Scratch | Role::Weight { .. } | Role::Cache { .. } => None,
    }
}

fn create(device: &Device, label: &str, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
    device.gpu.create_buffer(&descriptor)
}
