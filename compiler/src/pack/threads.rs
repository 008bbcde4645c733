//! Packing on all processors.

use std::num::NonZero;
use std::thread;

use crate::formats::{Format, FormatError};

/// Values below which a thread costs more than it saves.
const WORTH_A_THREAD: usize = 1 << 16;

/// What [`Format::pack`] gives, in order and in as many parts as threads worked on it.
pub(super) fn pack(format: Format, values: &[f32], width: usize) -> Result<Vec<Vec<u8>>, FormatError> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(values.len() / WORTH_A_THREAD);
    if threads < 2 || width == 0 || !values.len().is_multiple_of(width) {
        return Ok(vec![format.pack(values, width)?]);
    }
    let rows = (values.len() / width).div_ceil(threads);
    let parts = thread::scope(|scope| {
        let work = |part| scope.spawn(move || format.pack(part, width));
        let workers: Vec<_> = values.chunks(rows * width).map(work).collect();
        // A thread that panicked has a bug that this one is to die of too.
        let join =
            |worker: thread::ScopedJoinHandle<'_, _>| worker.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
        workers.into_iter().map(join).collect::<Vec<Result<Vec<u8>, FormatError>>>()
    });
    let in_place = |(part, packed): (usize, Result<_, FormatError>)| packed.map_err(|e| e.below(part * rows));
    parts.into_iter().enumerate().map(in_place).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_are_the_whole_and_errors_name_their_row() {
        let width = 100;
        let mut values: Vec<f32> = (0..3000 * width).map(|i| (i % 977) as f32 - 400.0).collect();
        for format in Format::FLOATS.into_iter().chain(Format::QUANTIZED) {
            let parts = pack(format, &values, width).unwrap();
            assert_eq!(parts.concat(), format.pack(&values, width).unwrap(), "{format}");
        }
        values[2900 * width + 7] = f32::NAN;
        let error = pack(Format::Mxfp4, &values, width).unwrap_err();
        assert!(matches!(error, FormatError::OutOfRange { row: 2900, column: 7, .. }), "{error}");
    }
}
