//! One kernel: its pipeline, and running it alone for tests and the doctor.

use warpweft_plan::{Access, Binding, Kernel, MAX_GROUPS};

use super::Device;
use super::stored::{self, Stored};
use crate::RuntimeError;

/// A compiled kernel.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

impl Pipeline {
    /// Compiles a kernel.
    pub(crate) async fn new(device: &Device, kernel: &Kernel) -> Result<Pipeline, RuntimeError> {
        let built = device.guard("compiling a kernel", || Pipeline::create(device, kernel)).await;
        built.map_err(|error| match error {
            RuntimeError::Refused { message, .. } => RuntimeError::Shader { kernel: kernel.name.clone(), message },
            other => other,
        })
    }

    fn create(device: &Device, kernel: &Kernel) -> Pipeline {
        let gpu = &device.gpu;
        let label = Some(kernel.name.as_str());
        let entries: Vec<_> = (0..).zip(&kernel.bindings).map(|(i, b)| layout_entry(i, b.access)).collect();
        let layout = gpu.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let pipeline_layout = gpu.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let source = wgpu::ShaderSource::Wgsl(kernel.wgsl.as_str().into());
        let module = gpu.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
        // Kernels write workgroup memory before they read it; drivers behind GL take seconds to clear it.
        let clear = device.adapter.inner.get_info().backend != wgpu::Backend::Gl;
        let pipeline = gpu.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: clear,
                ..Default::default()
            },
            cache: None,
        });
        Pipeline { pipeline, layout }
    }

    /// Binds resources in the order of the kernel's bindings.
    pub(crate) fn bind<'a>(
        &self,
        device: &Device,
        resources: impl IntoIterator<Item = wgpu::BindingResource<'a>>,
    ) -> wgpu::BindGroup {
        let entries: Vec<_> =
            (0..).zip(resources).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
        device.gpu.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.layout,
            entries: &entries,
        })
    }
}

fn layout_entry(binding: u32, access: Access) -> wgpu::BindGroupLayoutEntry {
    let buffer = |ty| wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None };
    let ty = match access {
        Access::Read => buffer(wgpu::BufferBindingType::Storage { read_only: true }),
        Access::ReadWrite => buffer(wgpu::BufferBindingType::Storage { read_only: false }),
        Access::Uniform => buffer(wgpu::BufferBindingType::Uniform),
        Access::Image => stored::image(wgpu::StorageTextureAccess::ReadOnly),
        Access::ImageWrite => stored::image(wgpu::StorageTextureAccess::WriteOnly),
    };
    wgpu::BindGroupLayoutEntry { binding, visibility: wgpu::ShaderStages::COMPUTE, ty, count: None }
}

/// What [`Device::time_kernel`] measured.
#[derive(Clone, Debug)]
pub struct KernelRun {
    /// Contents of what it writes afterwards, in binding order.
    pub outputs: Vec<Vec<u8>>,
    /// Wall time of each repetition after the first, in seconds, submission and wait included.
    pub seconds: Vec<f64>,
}

/// A round of [`Device::repeat`] is to take so long, in seconds: so short that it falls between two interruptions.
const ROUND: f64 = 5e-3;
/// Dispatches of a round at the most.
const MOST: f64 = 400.0;

/// Buffers and images of kernels with the same bindings.
#[derive(Clone, Debug)]
pub struct Buffers(Vec<Stored>);

/// A kernel that is measured.
#[derive(Debug)]
pub struct Trial {
    pipeline: Pipeline,
    group: wgpu::BindGroup,
    grid: [u32; 3],
    /// The least time of a submission of one dispatch.
    one: f64,
    /// How many dispatches more a round has; none where one takes as long as a round.
    more: u32,
    /// The least time of a round.
    many: f64,
}

impl Trial {
    /// Seconds of one dispatch: what one more adds to a submission, by the least times. Each dispatch reads the same
    /// buffers, so what fits a device's caches comes from there.
    pub fn seconds(&self) -> f64 {
        match self.more {
            0 => self.one,
            more if self.many.is_finite() => ((self.many - self.one) / f64::from(more)).max(0.0),
            _ => self.one,
        }
    }
}

impl Device {
    /// Runs one kernel once over buffers with the given contents, one for each binding.
    /// Returns the contents of what it writes afterwards, in binding order.
    ///
    /// # Errors
    /// [`RuntimeError::Call`] if buffers or grid don't fit the kernel, [`RuntimeError::Shader`] if it is refused.
    pub async fn run_kernel(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        buffers: &[Vec<u8>],
    ) -> Result<Vec<Vec<u8>>, RuntimeError> {
        Ok(self.time_kernel(kernel, grid, buffers, 0).await?.outputs)
    }

    /// Runs one kernel `1 + repeat` times and measures all but the first. A kernel that reads what it writes sees
    /// its own results.
    ///
    /// # Errors
    /// As [`Device::run_kernel`].
    pub async fn time_kernel(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        contents: &[Vec<u8>],
        repeat: usize,
    ) -> Result<KernelRun, RuntimeError> {
        check_call(kernel, grid, &contents.iter().map(|bytes| bytes.len() as u64).collect::<Vec<_>>())?;
        let pipeline = Pipeline::new(self, kernel).await?;
        let Buffers(buffers) = self.buffers(&kernel.bindings, contents).await?;
        let bind = || pipeline.bind(self, buffers.iter().map(Stored::resource));
        let group = self.guard("preparing a kernel", bind).await?;
        let mut seconds = Vec::new();
        for run in 0..=repeat {
            let start = crate::run::Clock::start();
            self.guard("running a kernel", || {
                let mut encoder = self.gpu.create_command_encoder(&Default::default());
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, &group, &[]);
                pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
                drop(pass);
                self.queue.submit([encoder.finish()]);
            })
            .await?;
            self.idle("running a kernel").await?;
            if run > 0 {
                seconds.push(start.seconds());
            }
        }
        let mut outputs = Vec::new();
        for ((stored, binding), content) in buffers.iter().zip(&kernel.bindings).zip(contents) {
            if binding.access.writes() {
                outputs.push(self.download(stored, content.len()).await?);
            }
        }
        Ok(KernelRun { outputs, seconds })
    }

    /// Buffers and images with these contents, for [`Device::trial`]: one for each binding of the kernels that share them.
    ///
    /// # Errors
    /// [`RuntimeError::OutOfMemory`] and other refusals of the device.
    pub async fn buffers(&self, bindings: &[Binding], contents: &[Vec<u8>]) -> Result<Buffers, RuntimeError> {
        let create = || bindings.iter().zip(contents).map(|(b, bytes)| self.filled(b.access, bytes)).collect();
        Ok(Buffers(self.guard("preparing a kernel", create).await?))
    }

    /// A kernel that is to be measured: compiled, and run once, since that may take compiling again.
    ///
    /// # Errors
    /// As [`Device::run_kernel`].
    pub async fn trial(&self, kernel: &Kernel, grid: [u32; 3], buffers: &Buffers) -> Result<Trial, RuntimeError> {
        let sizes: Vec<u64> = buffers.0.iter().map(Stored::bytes).collect();
        check_call(kernel, grid, &sizes)?;
        let pipeline = Pipeline::new(self, kernel).await?;
        let bind = || pipeline.bind(self, buffers.0.iter().map(Stored::resource));
        let group = self.guard("preparing a kernel", bind).await?;
        let mut trial = Trial { pipeline, group, grid, one: f64::INFINITY, more: 0, many: f64::INFINITY };
        self.round(&trial, 1).await?;
        trial.one = self.round(&trial, 1).await?;
        trial.more = (ROUND / trial.one.max(1e-9)).min(MOST) as u32;
        Ok(trial)
    }

    /// Measures once more: one dispatch, and a round of some in one submission. What is measured again and again, other
    /// kernels in between, is found as fast as it is also where something else takes the device or its processor for a while.
    ///
    /// # Errors
    /// As [`Device::run_kernel`].
    pub async fn repeat(&self, trial: &mut Trial) -> Result<(), RuntimeError> {
        trial.one = trial.one.min(self.round(trial, 1).await?);
        if trial.more > 0 {
            trial.many = trial.many.min(self.round(trial, 1 + trial.more).await?);
        }
        Ok(())
    }

    /// Wall time of `count` dispatches in one submission.
    async fn round(&self, trial: &Trial, count: u32) -> Result<f64, RuntimeError> {
        let doing = "measuring a kernel";
        let start = crate::run::Clock::start();
        let submit = || {
            let mut encoder = self.gpu.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&trial.pipeline.pipeline);
            pass.set_bind_group(0, &trial.group, &[]);
            let [x, y, z] = trial.grid;
            (0..count).for_each(|_| pass.dispatch_workgroups(x, y, z));
            drop(pass);
            self.queue.submit([encoder.finish()]);
        };
        self.guard(doing, submit).await?;
        self.idle(doing).await?;
        Ok(start.seconds())
    }

    fn filled(&self, access: Access, bytes: &[u8]) -> Stored {
        let stored = Stored::new(self, None, access, bytes.len() as u64);
        stored.write(self, 0, bytes);
        stored
    }

    /// The first bytes of what a kernel wrote.
    async fn download(&self, stored: &Stored, bytes: usize) -> Result<Vec<u8>, RuntimeError> {
        let copy = self
            .guard("reading results", || {
                let copy = self.gpu.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: stored.bytes(),
                    usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
                    mapped_at_creation: false,
                });
                let mut encoder = self.gpu.create_command_encoder(&Default::default());
                stored.copy_out(&mut encoder, &copy, bytes as u64);
                self.queue.submit([encoder.finish()]);
                copy
            })
            .await?;
        self.read(&copy, bytes as u64, <[u8]>::to_vec).await
    }
}

/// Whether buffers of these sizes fit the kernel, and the grid the device.
fn check_call(kernel: &Kernel, grid: [u32; 3], sizes: &[u64]) -> Result<(), RuntimeError> {
    let refuse = |message: String| Err(RuntimeError::Call { kernel: kernel.name.clone(), message });
    if sizes.len() != kernel.bindings.len() {
        return refuse(format!("{} buffers for {} bindings", sizes.len(), kernel.bindings.len()));
    }
    if let Some(i) = sizes.iter().position(|&bytes| bytes == 0 || bytes % 4 != 0) {
        return refuse(format!("buffer {i} has {} bytes, not a multiple of 4 above 0", sizes[i]));
    }
    match grid.iter().find(|&&n| u64::from(n) > MAX_GROUPS) {
        Some(n) => refuse(format!("a grid of {grid:?}: {n} is above {MAX_GROUPS}")),
        None => Ok(()),
    }
}
