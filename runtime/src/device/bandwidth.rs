//! How fast a device moves bytes: the yardstick for programs that read each weight once.

use super::Device;
use crate::RuntimeError;
use crate::run::Clock;

/// Copies in one submission, so that submitting takes no part in the time.
const COPIES: u64 = 4;
/// How long to measure, in seconds.
const TIME: f64 = 0.4;

impl Device {
    /// The best rate, in bytes per second, at which the device copies `bytes` bytes from one buffer to another; bytes that
    /// are read and bytes that are written both count. It takes about half a second.
    ///
    /// # Errors
    /// [`RuntimeError::OutOfMemory`] if there is no room for both buffers; trouble with the device.
    pub async fn copy_rate(&self, bytes: u64) -> Result<f64, RuntimeError> {
        let doing = "copying a buffer";
        let size = (bytes.min(self.adapter.limits.max_buffer_size) / 4 * 4).max(4);
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = || {
            let label = Some("copied");
            self.gpu.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
        };
        let (from, to) = self.guard(doing, || (buffer(), buffer())).await?;
        let (start, mut best) = (Clock::start(), 0f64);
        while start.seconds() < TIME {
            let round = Clock::start();
            let copy = || {
                let mut encoder = self.gpu.create_command_encoder(&Default::default());
                (0..COPIES).for_each(|_| encoder.copy_buffer_to_buffer(&from, 0, &to, 0, size));
                self.queue.submit([encoder.finish()]);
            };
            self.guard(doing, copy).await?;
            self.idle(doing).await?;
            best = best.max((2 * COPIES * size) as f64 / round.seconds());
        }
        Ok(best)
    }
}
