//! Runs single kernels on every adapter of the machine.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use warpweft_compiler::kernels::{Composed, Slot};
use warpweft_plan::{Access, Sizes};

/// An opened adapter.
pub struct Gpu {
    /// Name and driver.
    pub name: String,
    /// Lanes of its subgroups, if they are the same for every dispatch and can be used.
    pub subgroup_size: Option<u32>,
    device: wgpu::Device,
    queue: wgpu::Queue,
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::yield_now();
    }
}

impl Gpu {
    /// Every adapter with compute shaders.
    ///
    /// # Panics
    /// Where there is none: a test that needs a device must not pass without one.
    pub fn all() -> Vec<Gpu> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapters = block_on(instance.enumerate_adapters(wgpu::Backends::VULKAN | wgpu::Backends::METAL));
        let gpus: Vec<Gpu> = adapters.into_iter().filter_map(Gpu::open).collect();
        assert!(!gpus.is_empty(), "no adapter; install mesa-vulkan-drivers for a software one");
        gpus
    }

    fn open(adapter: wgpu::Adapter) -> Option<Gpu> {
        let info = adapter.get_info();
        let subgroups = adapter.features().contains(wgpu::Features::SUBGROUP);
        let fixed = subgroups && info.subgroup_min_size == info.subgroup_max_size;
        let descriptor = wgpu::DeviceDescriptor {
            required_features: if subgroups { wgpu::Features::SUBGROUP } else { wgpu::Features::empty() },
            required_limits: adapter.limits(),
            ..Default::default()
        };
        let (device, queue) = block_on(adapter.request_device(&descriptor)).ok()?;
        Some(Gpu {
            name: format!("{} ({} {})", info.name, info.driver, info.driver_info),
            subgroup_size: fixed.then_some(info.subgroup_min_size),
            device,
            queue,
        })
    }

    /// Runs a kernel once; `contents` gives the bytes of each slot, and those of `out` before the kernel runs.
    /// The result is what `out` holds then.
    pub fn run(&self, kernel: &Composed, sizes: Sizes, contents: impl Fn(Slot) -> Vec<u8>) -> Vec<u8> {
        self.time(kernel, sizes, contents, 1).0
    }

    /// Runs a kernel, then `repeat` times in one pass; the result and the seconds of one of those.
    pub fn time(
        &self,
        kernel: &Composed,
        sizes: Sizes,
        contents: impl Fn(Slot) -> Vec<u8>,
        repeat: u32,
    ) -> (Vec<u8>, f64) {
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&kernel.name),
            source: wgpu::ShaderSource::Wgsl(kernel.wgsl.as_str().into()),
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&kernel.name),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        let mut out = None;
        let buffers: Vec<wgpu::Buffer> = kernel
            .slots
            .iter()
            .zip(&kernel.bindings)
            .map(|(&slot, binding)| {
                let bytes = contents(slot);
                let kind = match binding.access {
                    Access::Uniform => wgpu::BufferUsages::UNIFORM,
                    Access::Read | Access::ReadWrite => wgpu::BufferUsages::STORAGE,
                };
                let buffer = self.buffer(bytes.len() as u64, kind | wgpu::BufferUsages::COPY_SRC);
                self.queue.write_buffer(&buffer, 0, &bytes);
                if slot == Slot::Out {
                    out = Some(buffer.clone());
                }
                buffer
            })
            .collect();
        let out = out.expect("a kernel has a result");
        let entries: Vec<_> = buffers
            .iter()
            .enumerate()
            .map(|(i, b)| wgpu::BindGroupEntry { binding: i as u32, resource: b.as_entire_binding() })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let [x, y, z] = kernel.grid.map(|g| g.dim.eval(sizes).expect("a size").div_ceil(u64::from(g.per)) as u32);
        let submit = |times: u32| {
            let start = std::time::Instant::now();
            let mut encoder = self.device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&pipeline);
                pass.set_bind_group(0, &group, &[]);
                for _ in 0..times {
                    pass.dispatch_workgroups(x, y, z);
                }
            }
            self.queue.submit([encoder.finish()]);
            self.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
            start.elapsed().as_secs_f64()
        };
        submit(1);
        let bytes = self.read(&out);
        let seconds = if repeat > 1 { submit(repeat) / f64::from(repeat) } else { 0.0 };
        (bytes, seconds)
    }

    fn buffer(&self, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: size.next_multiple_of(16).max(16),
            usage: usage | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    fn read(&self, buffer: &wgpu::Buffer) -> Vec<u8> {
        let copy = self.buffer(buffer.size(), wgpu::BufferUsages::MAP_READ);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &copy, 0, buffer.size());
        self.queue.submit([encoder.finish()]);
        copy.slice(..).map_async(wgpu::MapMode::Read, |result| result.expect("mapped"));
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device answers");
        copy.slice(..).get_mapped_range().expect("mapped").to_vec()
    }
}
