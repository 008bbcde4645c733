//! Weights go to the device in pieces, so that loading takes no second copy of the model. While the device takes one, the
//! next is read from the file.

use std::collections::{BTreeSet, HashMap};

use warpweft_plan::PlanFile;

use super::job::Window;
use crate::RuntimeError;
use crate::device::Device;
use crate::model::{OnProgress, Progress};

/// Bytes that the device takes at once, and as many that are read meanwhile.
const PIECE: u64 = 8 << 20;
/// What errors tell.
const DOING: &str = "uploading weights";
/// Bytes read from the file at a time.
const READ: usize = 1 << 20;

/// A buffer through which bytes go up. It is mapped except while the device copies from it. Always the same two: a fresh
/// one for each piece would have all of its pages made anew.
struct Stage {
    buffer: wgpu::Buffer,
    /// Bytes in it.
    filled: u64,
    encoder: wgpu::CommandEncoder,
}

impl Stage {
    fn new(device: &Device) -> Stage {
        let buffer = device.gpu.create_buffer(&wgpu::BufferDescriptor {
            label: Some("weights on their way"),
            size: PIECE,
            usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        Stage { buffer, filled: 0, encoder: device.gpu.create_command_encoder(&Default::default()) }
    }

    fn room(&self) -> u64 {
        PIECE - self.filled
    }

    /// Takes bytes `at .. at + size` of a window, which go to the same place of `buffer`.
    fn take(
        &mut self,
        file: &PlanFile,
        (window, at, size): (Window, u64, u64),
        buffer: &wgpu::Buffer,
        bytes: &mut [u8],
    ) -> Result<(), RuntimeError> {
        let refused = |e: wgpu::MapRangeError| RuntimeError::Refused { doing: DOING.into(), message: e.to_string() };
        let mut view = self.buffer.slice(self.filled..self.filled + size).get_mapped_range_mut().map_err(refused)?;
        let mut start = 0;
        while start < view.len() {
            let part = READ.min(view.len() - start);
            file.read_tensor(window.tensor, window.offset + at + start as u64, &mut bytes[..part])?;
            view.slice(start..start + part).copy_from_slice(&bytes[..part]);
            start += part;
        }
        self.encoder.copy_buffer_to_buffer(&self.buffer, self.filled, buffer, at, size);
        self.filled += size.next_multiple_of(wgpu::MAP_ALIGNMENT);
        Ok(())
    }

    /// Lets the device copy, and maps the buffer again when it has.
    fn submit(&mut self, device: &Device) {
        self.buffer.unmap();
        self.filled = 0;
        let next = device.gpu.create_command_encoder(&Default::default());
        device.queue.submit([std::mem::replace(&mut self.encoder, next).finish()]);
        // Whoever waits for the device waits for this too; what goes wrong shows when the range is asked for.
        self.buffer.slice(..).map_async(wgpu::MapMode::Write, |_| ());
    }
}

/// Puts `windows` on the device, except those in `loaded`, which grows by them.
pub(crate) async fn upload(
    device: &Device,
    file: &PlanFile,
    windows: &BTreeSet<Window>,
    loaded: &mut HashMap<Window, wgpu::Buffer>,
    progress: OnProgress<'_>,
) -> Result<(), RuntimeError> {
    let missing: Vec<Window> = windows.iter().filter(|w| !loaded.contains_key(w)).copied().collect();
    let total: u64 = missing.iter().map(|w| w.bytes).sum();
    let [mut stage, mut other] = device.guard(DOING, || [Stage::new(device), Stage::new(device)]).await?;
    let (mut done, mut read) = (0, 0);
    let mut bytes = vec![0; READ];
    for window in missing {
        let label = file.plan().tensors[window.tensor].name.as_str();
        let buffer = device.guard(DOING, || create(device, label, window.bytes)).await?;
        let mut at = 0;
        while at < window.bytes {
            let size = (window.bytes - at).min(stage.room());
            device.guard(DOING, || stage.take(file, (window, at, size), &buffer, &mut bytes)).await??;
            at += size;
            read += size;
            if stage.room() == 0 {
                // For the piece before this one.
                device.idle(DOING).await?;
                progress(Progress::Weights { done, total });
                device.guard(DOING, || stage.submit(device)).await?;
                done = read;
                std::mem::swap(&mut stage, &mut other);
            }
        }
        loaded.insert(window, buffer);
    }
    device.guard(DOING, || stage.submit(device)).await?;
    device.idle(DOING).await?;
    progress(Progress::Weights { done: total, total });
    Ok(())
}

fn create(device: &Device, label: &str, size: u64) -> wgpu::Buffer {
    device.gpu.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    })
}
