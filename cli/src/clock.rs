//! What measures steps on a device.

use warpweft_runtime::{Device, RuntimeError, StepClock, block_on};

use crate::CliError;
use crate::console::Console;

/// The device's own clock, or where it has none that can be believed, waiting for each step, which is told.
///
/// # Errors
/// Trouble with the device.
pub(crate) fn choose(device: &Device, console: &mut Console<'_>) -> Result<StepClock, CliError> {
    match block_on(device.try_clock(StepClock::Timestamps)) {
        Ok(()) => Ok(StepClock::Timestamps),
        Err(error @ (RuntimeError::NoClock { .. } | RuntimeError::Clock { .. })) => {
            console.note(&format!("note: {error}; each step is waited for instead, and that counts too"));
            Ok(StepClock::Waits)
        }
        Err(other) => Err(other.into()),
    }
}
