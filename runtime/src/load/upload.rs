//! Weights go to the device in pieces, so that loading takes no second copy of the model. While the device takes one, the
//! next is read from the file.

use std::collections::{BTreeSet, HashMap};

#[cfg(target_os = "linux")]
use warpweft_plan::PlanError;
use warpweft_plan::PlanFile;

use super::job::Window;
use crate::RuntimeError;
#[cfg(target_os = "linux")]
use crate::device::Mapper;
use crate::device::{Device, IMAGE_ROW, Stored};
use crate::model::{OnProgress, Progress};

/// Bytes that the device takes at once, and as many that are read meanwhile.
const PIECE: u64 = 8 << 20;
/// What errors tell.
const DOING: &str = "uploading weights";
/// Bytes read from the file at a time.
const READ: usize = 1 << 20;
/// Bytes that the file is told of before they are read.
const AHEAD: u64 = 32 << 20;

/// Tells a file what will be read of it, piece by piece.
struct Ahead<'w> {
    file: &'w PlanFile,
    windows: &'w [Window],
    /// Bytes of the first window that it knows of.
    at: u64,
    /// The same of all.
    known: u64,
}

impl Ahead<'_> {
    /// So many bytes of all windows are read.
    fn reach(&mut self, read: u64) -> Result<(), RuntimeError> {
        while self.known < read + AHEAD
            && let Some((window, later)) = self.windows.split_first()
        {
            let bytes = (window.bytes - self.at).min(PIECE);
            self.file.expect_tensor(window.tensor, window.offset + self.at, bytes)?;
            self.known += bytes;
            self.at += bytes;
            if self.at == window.bytes {
                (self.windows, self.at) = (later, 0);
            }
        }
        Ok(())
    }
}

/// A buffer through which bytes go up. It is mapped except while the device copies from it. Always the same two: a fresh
/// one for each piece would have all of its pages made anew.
struct Stage {
    buffer: wgpu::Buffer,
    /// Bytes for which it has room.
    size: u64,
    /// Bytes in it.
    filled: u64,
    encoder: wgpu::CommandEncoder,
}

impl Stage {
    fn new(device: &Device, size: u64) -> Stage {
        let buffer = device.gpu.create_buffer(&wgpu::BufferDescriptor {
            label: Some("weights on their way"),
            size,
            usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        Stage { buffer, size, filled: 0, encoder: device.gpu.create_command_encoder(&Default::default()) }
    }

    fn room(&self) -> u64 {
        self.size - self.filled
    }

    /// Takes bytes `at .. at + size` of a window, which go to the same place of `to`.
    fn take(
        &mut self,
        file: &PlanFile,
        (window, at, size): (Window, u64, u64),
        to: &Stored,
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
        to.copy(&mut self.encoder, (&self.buffer, self.filled), at, size);
        // So that each place has whole rows of images.
        self.filled += size.next_multiple_of(IMAGE_ROW);
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

/// Lets the device have what the first stage holds, and goes on with the other, whose piece it has by then.
async fn turn(device: &Device, stages: &mut [Stage; 2]) -> Result<(), RuntimeError> {
    device.idle(DOING).await?;
    device.guard(DOING, || stages[0].submit(device)).await?;
    stages.swap(0, 1);
    Ok(())
}

/// Puts `windows` on the device, except those in `loaded`, which grows by them. Unless `copy` says otherwise, the device reads those from
/// the file's own pages that it can.
pub(crate) async fn upload(
    device: &Device,
    file: &PlanFile,
    windows: &BTreeSet<Window>,
    copy: bool,
    loaded: &mut HashMap<Window, Stored>,
    progress: OnProgress<'_>,
) -> Result<(), RuntimeError> {
    let missing = |loaded: &HashMap<Window, Stored>| -> Vec<Window> {
        windows.iter().filter(|w| !loaded.contains_key(w)).copied().collect()
    };
    let all = missing(loaded);
    let total = bytes_of(&all);
    let mut tell = |done| progress(Progress::Weights { done, total });
    #[cfg(target_os = "linux")]
    if !copy {
        map(device, file, &all, loaded, &mut tell).await?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = copy;
    let rest = missing(loaded);
    let before = total - bytes_of(&rest);
    copied(device, file, &rest, loaded, &mut |done| tell(before + done)).await?;
    tell(total);
    Ok(())
}

fn bytes_of(windows: &[Window]) -> u64 {
    windows.iter().map(|window| window.bytes).sum()
}

/// Makes images of the file's pages, where the device can, and has them read. Is told of bytes: those that are in memory.
#[cfg(target_os = "linux")]
async fn map(
    device: &Device,
    file: &PlanFile,
    windows: &[Window],
    loaded: &mut HashMap<Window, Stored>,
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<(), RuntimeError> {
    let Some(mapper) = Mapper::new(device) else { return Ok(()) };
    let images: Vec<Window> = windows.iter().filter(|window| window.image).copied().collect();
    let mut ahead = Ahead { file, windows: &images, at: 0, known: 0 };
    let (mut read, mut mapped, mut pages_of) = (0, Vec::new(), Vec::new());
    for &window in &images {
        let behind = window.held() - window.bytes + Mapper::BEHIND;
        let Some(pages) = file.map_tensor(window.tensor, window.offset, window.bytes, behind)? else { continue };
        let name = file.plan().tensors[window.tensor].name.as_str();
        for at in (0..window.bytes).step_by(PIECE as usize) {
            ahead.reach(read)?;
            let piece = (window.bytes - at).min(PIECE);
            let unread = |source| PlanError::Io { action: format!("read the tensor {name:?}"), source };
            pages.fetch(at, piece).map_err(unread)?;
            read += piece;
            tell(read);
        }
        mapped.push(window);
        pages_of.push((name, window.bytes, pages));
    }
    let made = device.guard(DOING, || mapper.images(pages_of)).await?;
    let taken = mapped.into_iter().zip(made);
    loaded.extend(taken.filter_map(|(window, stored)| Some((window, stored?))));
    Ok(())
}

/// Copies `windows` to the device. Is told of bytes: those that are there.
async fn copied(
    device: &Device,
    file: &PlanFile,
    windows: &[Window],
    loaded: &mut HashMap<Window, Stored>,
    tell: &mut (dyn FnMut(u64) + Send),
) -> Result<(), RuntimeError> {
    if windows.is_empty() {
        return Ok(());
    }
    // Each place in a stage has whole rows of images.
    let size = windows
        .iter()
        .map(|w| w.bytes.next_multiple_of(IMAGE_ROW))
        .fold(0, u64::saturating_add)
        .clamp(IMAGE_ROW, PIECE);
    let mut stages = device.guard(DOING, || [size; 2].map(|size| Stage::new(device, size))).await?;
    let (mut done, mut read) = (0, 0);
    let mut bytes = vec![0; READ];
    let mut ahead = Ahead { file, windows, at: 0, known: 0 };
    for &window in windows {
        let label = file.plan().tensors[window.tensor].name.as_str();
        let stored = device.guard(DOING, || Stored::new(device, Some(label), window.access(), window.bytes)).await?;
        // An image of which a part is copied is cleared before, so what can go up as a whole does.
        let whole = window.image && window.held() <= PIECE;
        let mut at = 0;
        while at < window.bytes {
            ahead.reach(read)?;
            let room = stages[0].room();
            if room == 0 || whole && room < window.held() {
                turn(device, &mut stages).await?;
                tell(done);
                done = read;
            }
            let size = (window.bytes - at).min(stages[0].room());
            device.guard(DOING, || stages[0].take(file, (window, at, size), &stored, &mut bytes)).await??;
            at += size;
            read += size;
        }
        loaded.insert(window, stored);
    }
    turn(device, &mut stages).await?;
    device.idle(DOING).await
}
