//! Adapters and devices: finding them, opening them, and turning their troubles into values.

mod adapter;
mod bandwidth;
mod kernel;
#[cfg(target_os = "linux")]
mod mapped;
mod stored;
#[cfg(test)]
mod tests;
mod tier;
mod wait;

#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use adapter::{Adapter, AdapterChoice, adapters, choose};
pub(crate) use kernel::Pipeline;
pub use kernel::{Buffers, KernelRun, Trial};
#[cfg(target_os = "linux")]
pub(crate) use mapped::Mapper;
pub(crate) use stored::{IMAGE_ROW, Stored, image_rows};
pub use tier::best_target;
#[cfg(not(target_arch = "wasm32"))]
pub use wait::block_on;

use crate::RuntimeError;

/// An open adapter.
#[derive(Debug)]
pub struct Device {
    /// Where it runs.
    pub adapter: Adapter,
    pub(crate) gpu: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    trouble: Arc<Trouble>,
    /// Bytes of the images that are pages of files.
    #[cfg(target_os = "linux")]
    mapped: Arc<AtomicU64>,
}

/// What the driver reported outside of any call.
#[derive(Debug, Default)]
struct Trouble {
    lost: Mutex<Option<String>>,
    error: Mutex<Option<Report>>,
}

/// An error of the device, as text: in browsers the original cannot move between threads.
#[derive(Debug)]
enum Report {
    OutOfMemory(String),
    Refused(String),
}

impl From<wgpu::Error> for Report {
    fn from(error: wgpu::Error) -> Report {
        match error {
            wgpu::Error::OutOfMemory { source } => Report::OutOfMemory(source.to_string()),
            other => Report::Refused(other.to_string()),
        }
    }
}

impl Report {
    fn into_error(self, doing: &str) -> RuntimeError {
        let doing = doing.to_owned();
        match self {
            Report::OutOfMemory(message) => RuntimeError::OutOfMemory { doing, message },
            Report::Refused(message) => RuntimeError::Refused { doing, message },
        }
    }
}

impl Device {
    /// Opens an adapter with all its limits.
    ///
    /// # Errors
    /// [`RuntimeError::NoDevice`] with what the driver said.
    pub async fn open(adapter: &Adapter) -> Result<Device, RuntimeError> {
        let clock = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES;
        let useful = wgpu::Features::SUBGROUP | wgpu::Features::SHADER_INT64 | clock;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("warpweft"),
            required_features: useful & adapter.features,
            required_limits: adapter.limits.clone(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        #[cfg(target_os = "linux")]
        let special = mapped::open(adapter, &descriptor);
        #[cfg(not(target_os = "linux"))]
        let special = None;
        let opened = match special {
            Some(opened) => Ok(opened),
            None => adapter.inner.request_device(&descriptor).await.map_err(|e| e.to_string()),
        };
        let (gpu, queue) =
            opened.map_err(|message| RuntimeError::NoDevice { adapter: adapter.name.clone(), message })?;
        let trouble = Arc::new(Trouble::default());
        let lost = trouble.clone();
        gpu.set_device_lost_callback(move |reason, message| {
            let text = format!("{reason:?} {message}");
            lost.lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
        });
        let error = trouble.clone();
        gpu.on_uncaptured_error(Arc::new(move |e| {
            error.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e.into());
        }));
        tracing::debug!(adapter = adapter.name, driver = adapter.driver, "device open");
        Ok(Device {
            adapter: adapter.clone(),
            gpu,
            queue,
            trouble,
            #[cfg(target_os = "linux")]
            mapped: Arc::default(),
        })
    }

    /// Runs `work`; whatever the device reports meanwhile becomes the error. `doing` completes "out of memory while …".
    pub(crate) async fn guard<T>(&self, doing: &str, work: impl FnOnce() -> T) -> Result<T, RuntimeError> {
        // The guards must not live across an await, so that the future can move between threads.
        let (value, reports) = {
            let memory = self.gpu.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            let internal = self.gpu.push_error_scope(wgpu::ErrorFilter::Internal);
            let validation = self.gpu.push_error_scope(wgpu::ErrorFilter::Validation);
            let value = work();
            let validation = validation.pop();
            let internal = internal.pop();
            (value, (validation, internal, memory.pop()))
        };
        let (validation, internal, memory) = (reports.0.await, reports.1.await, reports.2.await);
        self.healthy(doing)?;
        let Some(error) = memory.or(validation).or(internal) else { return Ok(value) };
        // A loss is told while polling; it explains any other error.
        let _ = self.gpu.poll(wgpu::PollType::Poll);
        self.healthy(doing)?;
        Err(Report::from(error).into_error(doing))
    }

    /// Reports a loss or an error that came outside of any call.
    pub(crate) fn healthy(&self, doing: &str) -> Result<(), RuntimeError> {
        let lost = self.trouble.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(message) = lost.as_ref() {
            return Err(RuntimeError::DeviceLost { doing: doing.into(), message: message.clone() });
        }
        match self.trouble.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(report) => Err(report.into_error(doing)),
            None => Ok(()),
        }
    }

    /// Bytes of everything that lives on the device, as its allocator counts them: what drivers and wgpu hold for themselves
    /// is among it, and so are images that are pages of a plan file. `None` where memory is the driver's own business (all but Vulkan
    /// and Direct3D 12).
    pub fn allocated(&self) -> Option<u64> {
        let report = self.gpu.generate_allocator_report()?;
        Some(report.total_allocated_bytes.saturating_add(self.mapped()))
    }

    /// Bytes of the images that are pages of a plan file, which were not copied (`Options::copy_weights`).
    pub fn mapped(&self) -> u64 {
        #[cfg(target_os = "linux")]
        return self.mapped.load(Ordering::Relaxed);
        #[cfg(not(target_os = "linux"))]
        return 0;
    }

    /// Waits until the device has done all that was submitted.
    pub(crate) async fn idle(&self, doing: &str) -> Result<(), RuntimeError> {
        let (done, waiting) = wait::promise();
        self.queue.on_submitted_work_done(move || done.send(()));
        self.drive(doing)?;
        waiting.await;
        self.healthy(doing)
    }

    /// Bytes `0 .. bytes` of a buffer that was made for reading, handed to `read`.
    pub(crate) async fn read<T>(
        &self,
        buffer: &wgpu::Buffer,
        bytes: u64,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, RuntimeError> {
        let doing = "reading results";
        let refused = |message: String| RuntimeError::Refused { doing: doing.into(), message };
        let slice = buffer.slice(..bytes);
        let (done, waiting) = wait::promise();
        slice.map_async(wgpu::MapMode::Read, move |result| done.send(result));
        self.drive(doing)?;
        let mapped = waiting.await;
        self.healthy(doing)?;
        mapped.map_err(|e| refused(e.to_string()))?;
        let view = slice.get_mapped_range().map_err(|e| refused(e.to_string()))?;
        let value = read(&view);
        drop(view);
        buffer.unmap();
        Ok(value)
    }

    /// Lets callbacks happen. Outside of browsers a device makes them only while it is polled, so this thread waits.
    fn drive(&self, doing: &str) -> Result<(), RuntimeError> {
        match self.gpu.poll(wgpu::PollType::wait_indefinitely()) {
            Ok(_) => Ok(()),
            Err(e) => {
                self.healthy(doing)?;
                Err(RuntimeError::Refused { doing: doing.into(), message: e.to_string() })
            }
        }
    }
}
