//! What calibration needs: values on the way to an output, and weights that can be exchanged.

use warpweft_plan::OutputKind;

use super::{Engine, Matrix};
use crate::RuntimeError;
use crate::load::job::Window;

/// Bytes that go to the device at once.
const PIECE: usize = 8 << 20;

impl Engine {
    /// The rows that tap number `tap` of an output's program had in the last submission: a row for each of its tokens.
    ///
    /// # Errors
    /// [`RuntimeError::NoOutput`] if the output has not run last, or has no such tap; trouble with the device.
    pub async fn read_tap(&self, output: OutputKind, tap: usize) -> Result<Matrix, RuntimeError> {
        let plan = self.plan();
        let last = self.submissions.last().and_then(|s| Some((s, plan.programs.get(s.program)?)));
        let last = last.filter(|(_, program)| program.output.kind == output);
        let taps = last.map_or(&[][..], |(_, program)| &program.taps);
        let missing = || RuntimeError::NoOutput {
            wanted: format!("tap {tap} of {}", output.name()),
            available: (0..taps.len()).map(|i| format!("tap {i}")).collect(),
        };
        let (submission, _) = last.ok_or_else(missing)?;
        let found = taps.get(tap).and_then(|tap| Some((tap, self.arena_buffer(output, tap.buffer)?)));
        let (tap, source) = found.ok_or_else(missing)?;
        let (width, stride) = (tap.width as usize, tap.stride as usize);
        let rows = submission.rows;
        let bytes = rows * u64::from(tap.stride) * 4;
        let device = &self.device;
        let copy = || {
            let copy = device.gpu.create_buffer(&wgpu::BufferDescriptor {
                label: Some("a tap's rows"),
                size: bytes,
                usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
                mapped_at_creation: false,
            });
            let mut encoder = device.gpu.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(source, 0, &copy, 0, bytes);
            device.queue.submit([encoder.finish()]);
            copy
        };
        let copy = device.guard("copying a tap", copy).await?;
        let mut matrix = Matrix { rows: rows as usize, width, values: Vec::new() };
        let read = |result: &[u8]| {
            for row in result.chunks_exact(stride * 4) {
                let (words, _) = row[..width * 4].as_chunks();
                matrix.values.extend(words.iter().map(|word| f32::from_le_bytes(*word)));
            }
        };
        device.read(&copy, bytes, read).await?;
        Ok(matrix)
    }

    /// Puts other bytes in the place of a packed tensor, on the device alone, for all outputs that are ready. What
    /// becomes ready later has the plan's.
    ///
    /// # Errors
    /// [`RuntimeError::Refused`] for bytes of another length than the tensor's, or a tensor that the plan does not have;
    /// trouble with the device.
    pub async fn replace_tensor(&mut self, tensor: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        let doing = "replacing a weight";
        let expected = self.plan().tensors.get(tensor).and_then(|t| t.bytes());
        if expected != Some(bytes.len() as u64) {
            let message = format!("tensor {tensor} has {expected:?} bytes, found {}", bytes.len());
            return Err(RuntimeError::Refused { doing: doing.into(), message });
        }
        let windows: Vec<Window> = self.weights.keys().filter(|w| w.tensor == tensor).copied().collect();
        for window in windows {
            let Some(stored) = self.weights.get(&window) else { continue };
            let range = window.offset as usize..(window.offset + window.bytes) as usize;
            let pieces = bytes.get(range).unwrap_or_default().chunks(PIECE).enumerate();
            for (i, piece) in pieces {
                let write = || {
                    stored.write(&self.device, (i * PIECE) as u64, piece);
                    self.device.queue.submit([]);
                };
                self.device.guard(doing, write).await?;
                self.device.idle(doing).await?;
            }
        }
        Ok(())
    }
}
