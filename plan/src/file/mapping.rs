//! Bytes of a file as memory, for drivers that can use the file's own pages instead of a copy.

use std::fs::File;
use std::io;
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// Bytes that Linux maps around a page that is asked for, if they are in its cache.
const AROUND: usize = 64 << 10;

/// Bytes of a file as memory. They are the system's own pages of the file, shared by all who read it. Whoever writes to them gets a page
/// of its own; the file stays as it is.
#[derive(Debug)]
pub struct Mapping {
    first: NonNull<u8>,
    length: usize,
    /// Bytes before those that were asked for.
    start: usize,
    /// Bytes that come from the file.
    filled: usize,
}

// SAFETY: it owns the memory, and gives no reference to it away.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Bytes `offset .. offset + bytes` and at least `behind` more, which come from the file or are zero.
    pub(super) fn new(file: &File, size: u64, offset: u64, bytes: u64, behind: u64) -> io::Result<Mapping> {
        let page = rustix::param::page_size();
        let number = |n: u64| usize::try_from(n).map_err(|_| io::ErrorKind::OutOfMemory);
        let start = number(offset % page as u64)?;
        let end = |bytes: u64| Ok::<_, io::Error>(start.saturating_add(number(bytes)?));
        let length =
            end(bytes.saturating_add(behind))?.checked_next_multiple_of(page).ok_or(io::ErrorKind::OutOfMemory)?;
        let filled = end(size.saturating_sub(offset))?.min(length);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the system chooses the place.
        let place =
            unsafe { mmap_anonymous(ptr::null_mut(), length, access, MapFlags::PRIVATE | MapFlags::NORESERVE) }?;
        let first = NonNull::new(place.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Mapping { first, length, start, filled };
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // What lies behind the file's last page would be no memory. There the pages from above stay.
        // SAFETY: the place was made above, is as long and is known to nobody else.
        unsafe { mmap(place, filled, access, flags, file, offset - start as u64) }?;
        Ok(mapping)
    }

    /// The first of its pages.
    pub fn first(&self) -> *mut u8 {
        self.first.as_ptr()
    }

    /// Bytes of its pages.
    pub fn length(&self) -> usize {
        self.length
    }

    /// How far behind the beginning of the first page the bytes begin that were asked for.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Has bytes `from .. from + bytes` of those that were asked for read and mapped.
    ///
    /// # Errors
    /// What the system reports, if the file became shorter or cannot be read.
    pub fn fetch(&self, from: u64, bytes: u64) -> io::Result<()> {
        let page = rustix::param::page_size();
        let place = |n: u64| usize::try_from(n).map_or(self.filled, |n| self.start.saturating_add(n).min(self.filled));
        let (from, end) = (place(from) / page * page, place(from.saturating_add(bytes)));
        // SAFETY: the pages belong to this mapping, and their content stays.
        let advise = |at: usize, bytes, advice| unsafe { madvise(self.first.as_ptr().add(at).cast(), bytes, advice) };
        // A page that is asked for brings its neighbours along, faster than each would come alone. The last tells whether the file is as
        // long as it was.
        let last = (end > from).then(|| (end - 1) / page * page);
        for at in (from..end).step_by(AROUND).chain(last) {
            match advise(at, page, Advice::LinuxPopulateRead) {
                // Linux before 5.14: it reads them soon.
                Err(Errno::INVAL) => return Ok(advise(from, end - from, Advice::WillNeed)?),
                result => result?,
            }
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing points there any more. It fails for no pages that were mapped.
        let _ = unsafe { munmap(self.first.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    /// What is there, `bytes` from the first that was asked for.
    fn content(mapping: &Mapping, bytes: usize) -> Vec<u8> {
        assert!(mapping.start() + bytes <= mapping.length());
        // SAFETY: the range is within its pages.
        unsafe { std::slice::from_raw_parts(mapping.first().add(mapping.start()), bytes) }.to_vec()
    }

    #[test]
    fn the_bytes_of_the_file_and_zeros_behind_it() {
        let bytes: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        for (offset, length) in [(0, 40_000), (0, 1), (64, 5000), (4096, 8192), (39_999, 1), (30_000, 10_000)] {
            let mapping = Mapping::new(&file, 40_000, offset as u64, length as u64, 100_000).unwrap();
            mapping.fetch(0, length as u64).unwrap();
            mapping.fetch(length as u64 / 2, u64::MAX).unwrap();
            let mut expected = bytes[offset..].to_vec();
            expected.resize(length + 100_000, 0);
            assert_eq!(content(&mapping, length + 100_000), expected, "{length} bytes at {offset}");
        }
    }

    #[test]
    fn writing_leaves_the_file_alone() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 10]).unwrap();
        let [one, other] = [0, 1].map(|_| Mapping::new(&file, 10, 3, 7, 0).unwrap());
        // SAFETY: the byte is within its pages.
        unsafe { one.first().add(one.start()).write(9) };
        assert_eq!(content(&one, 2), [9, 7]);
        assert_eq!(content(&other, 2), [7, 7]);
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 20_000]).unwrap();
        let mapping = Mapping::new(&file, 20_000, 0, 20_000, 0).unwrap();
        file.set_len(100).unwrap();
        mapping.fetch(0, 20_000).unwrap_err();
        mapping.fetch(0, 100).unwrap();
    }
}
