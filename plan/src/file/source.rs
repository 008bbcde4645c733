//! Where the bytes of a plan come from.

use std::io;

/// Random access to the bytes of a plan file. Implement it to read from somewhere else (a pack, a browser cache).
pub trait Source: Send + Sync {
    /// Number of bytes.
    fn size(&self) -> u64;

    /// Fills `into` with the bytes at `offset ..`.
    ///
    /// # Errors
    /// `UnexpectedEof` if there are fewer bytes; whatever the system reports.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Is told that so many bytes from `offset` on will be read soon. Nothing depends on it.
    fn expect(&self, offset: u64, bytes: u64) {
        let _ = (offset, bytes);
    }

    /// The bytes at `offset .. offset + bytes` as memory, with at least `behind` more that may be anything. `None` where the source has no
    /// pages to give.
    #[cfg(target_os = "linux")]
    fn map(&self, offset: u64, bytes: u64, behind: u64) -> Option<super::Mapping> {
        let _ = (offset, bytes, behind);
        None
    }
}

/// Bytes in memory.
pub(super) struct Memory<B>(pub(super) B);

impl<B: AsRef<[u8]> + Send + Sync> Source for Memory<B> {
    fn size(&self) -> u64 {
        self.0.as_ref().len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let window = start.and_then(|start| self.0.as_ref().get(start..)?.get(..into.len()));
        into.copy_from_slice(window.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A file, read in place: nothing is mapped and nothing stays in memory.
#[cfg(not(target_arch = "wasm32"))]
pub(super) struct OpenFile {
    file: std::fs::File,
    size: u64,
}

#[cfg(not(target_arch = "wasm32"))]
impl OpenFile {
    pub(super) fn open(path: &std::path::Path) -> io::Result<OpenFile> {
        let file = std::fs::File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "it is a directory" } else { "it is not a regular file" };
            return Err(io::Error::other(what));
        }
        Ok(OpenFile { file, size: metadata.len() })
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Source for OpenFile {
    fn size(&self) -> u64 {
        self.size
    }

    #[cfg(unix)]
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, into, offset)
    }

    /// A disk that is asked for one piece at a time waits for each; one that knows of the next pieces reads them side by side.
    #[cfg(target_os = "linux")]
    fn expect(&self, offset: u64, bytes: u64) {
        // No bytes would mean all that follow. What the system cannot read ahead is read when it is asked for.
        if let Some(bytes) = std::num::NonZero::new(bytes) {
            let _ = rustix::fs::fadvise(&self.file, offset, Some(bytes), rustix::fs::Advice::WillNeed);
        }
    }

    #[cfg(target_os = "linux")]
    fn map(&self, offset: u64, bytes: u64, behind: u64) -> Option<super::Mapping> {
        super::Mapping::new(&self.file, self.size, offset, bytes, behind).ok()
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.file, into, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    into = &mut into[n..];
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
