//! Adapters and devices: finding them, opening them, and turning their troubles into values.

mod adapter;
mod kernel;
mod tier;
mod wait;

use std::sync::{Arc, Mutex, PoisonError};

pub use adapter::{Adapter, AdapterChoice, adapters, choose};
pub use kernel::KernelRun;
pub(crate) use kernel::Pipeline;
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
}

/// What the driver reported outside of any call.
#[derive(Debug, Default)]
struct Trouble {
    lost: Mutex<Option<String>>,
    error: Mutex<Option<wgpu::Error>>,
}

impl Device {
    /// Opens an adapter with all its limits.
    ///
    /// # Errors
    /// [`RuntimeError::NoDevice`] with what the driver said.
    pub async fn open(adapter: &Adapter) -> Result<Device, RuntimeError> {
        let useful = wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("warpweft"),
            required_features: useful & adapter.features,
            required_limits: adapter.limits.clone(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let opened = adapter.inner.request_device(&descriptor).await;
        let (gpu, queue) =
            opened.map_err(|e| RuntimeError::NoDevice { adapter: adapter.name.clone(), message: e.to_string() })?;
        let trouble = Arc::new(Trouble::default());
        let lost = trouble.clone();
        gpu.set_device_lost_callback(move |reason, message| {
            let text = format!("{reason:?} {message}");
            lost.lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
        });
        let error = trouble.clone();
        gpu.on_uncaptured_error(Arc::new(move |e| {
            error.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
        }));
        tracing::debug!(adapter = adapter.name, driver = adapter.driver, "device open");
        Ok(Device { adapter: adapter.clone(), gpu, queue, trouble })
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
        match memory.or(validation).or(internal) {
            Some(error) => Err(error_value(doing, error)),
            None => Ok(value),
        }
    }

    /// Reports a loss or an error that came outside of any call.
    pub(crate) fn healthy(&self, doing: &str) -> Result<(), RuntimeError> {
        let lost = self.trouble.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(message) = lost.as_ref() {
            return Err(RuntimeError::DeviceLost { doing: doing.into(), message: message.clone() });
        }
        match self.trouble.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error_value(doing, error)),
            None => Ok(()),
        }
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

fn error_value(doing: &str, error: wgpu::Error) -> RuntimeError {
    let doing = doing.to_owned();
    match error {
        wgpu::Error::OutOfMemory { source } => RuntimeError::OutOfMemory { doing, message: source.to_string() },
        other => RuntimeError::Refused { doing, message: other.to_string() },
    }
}
