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
/// Bytes read from the file at a time.
const READ: usize = 1 << 20;

/// Puts `windows` on the device, except those in `loaded`, which grows by them.
pub(crate) async fn upload(
    device: &Device,
    file: &PlanFile,
    windows: &BTreeSet<Window>,
    loaded: &mut HashMap<Window, wgpu::Buffer>,
    progress: OnProgress<'_>,
) -> Result<(), RuntimeError> {
    let doing = "uploading weights";
    let missing: Vec<Window> = windows.iter().filter(|w| !loaded.contains_key(w)).copied().collect();
    let total: u64 = missing.iter().map(|w| w.bytes).sum();
    let (mut done, mut read) = (0, 0);
    let mut bytes = vec![0; READ];
    for window in missing {
        let label = file.plan().tensors[window.tensor].name.as_str();
        let buffer = device.guard(doing, || create(device, label, window.bytes)).await?;
        let mut at = 0;
        while at < window.bytes {
            let size = (window.bytes - at).min(PIECE - read);
            write(device, file, window, &buffer, at, size, &mut bytes).await?;
            at += size;
            read += size;
            if read == PIECE {
                // For the piece before this one.
                device.idle(doing).await?;
                progress(Progress::Weights { done, total });
                device.queue.submit([]);
                done += std::mem::take(&mut read);
            }
        }
        loaded.insert(window, buffer);
    }
    device.queue.submit([]);
    device.idle(doing).await?;
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

/// Copies bytes `at .. at + size` of a window through one staging buffer.
async fn write(
    device: &Device,
    file: &PlanFile,
    window: Window,
    buffer: &wgpu::Buffer,
    at: u64,
    size: u64,
    bytes: &mut [u8],
) -> Result<(), RuntimeError> {
    let Some(length) = wgpu::BufferSize::new(size) else { return Ok(()) };
    let copied = device
        .guard("uploading weights", || {
            let Some(mut view) = device.queue.write_buffer_with(buffer, at, length) else { return Ok(()) };
            let mut start = 0;
            while start < view.len() {
                let part = READ.min(view.len() - start);
                file.read_tensor(window.tensor, window.offset + at + start as u64, &mut bytes[..part])?;
                view.slice(start..start + part).copy_from_slice(&bytes[..part]);
                start += part;
            }
            Ok(())
        })
        .await?;
    copied.map_err(RuntimeError::Plan)
}
