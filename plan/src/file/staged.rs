//! A file that appears under its name when it is complete, and never otherwise.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::{Assets, PlanWriter};
use crate::Plan;
use crate::error::PlanError;

/// Bytes that are collected before they are written.
const BUFFER: usize = 1 << 20;
/// Bytes after which the disk begins with them, so that little is left to wait for in the end.
const BATCH: u64 = 16 << 20;

/// The sink of [`PlanWriter::create`].
#[derive(Debug)]
pub struct Staged {
    file: BufWriter<Flowing>,
    path: PathBuf,
}

/// What goes to disk while it is written.
#[derive(Debug)]
struct Flowing {
    file: Hidden,
    written: u64,
    /// Bytes with which the disk has begun.
    begun: u64,
}

impl Flowing {
    fn flow(&mut self) {
        if let Some(bytes) = NonZero::new(self.written - self.begun).filter(|bytes| bytes.get() >= BATCH) {
            begin(self.file.file(), self.begun, bytes);
            self.begun = self.written;
        }
    }
}

/// Lets the disk begin with bytes that were written. What it does not begin here is written in the end.
#[cfg(target_os = "linux")]
fn begin(file: &File, from: u64, bytes: NonZero<u64>) {
    // Linux lets go of what is on disk already, and begins to write what is not, which it keeps.
    let _ = rustix::fs::fadvise(file, from, Some(bytes), rustix::fs::Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
fn begin(_: &File, _: u64, _: NonZero<u64>) {}

impl Write for Flowing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.file().write(bytes)?;
        self.written += count as u64;
        self.flow();
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.file().flush()
    }
}

/// A file that no one sees yet.
#[derive(Debug)]
enum Hidden {
    /// Without a name: the system frees it however this process ends.
    #[cfg(target_os = "linux")]
    Unnamed(File),
    /// Under a temporary name, which is removed when this is dropped.
    Named(NamedTempFile),
}

impl Write for Staged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl PlanWriter<Staged> {
    /// Begins a file that will be at `path`. Until [`PlanWriter::finish`] nothing is there, whatever happens.
    ///
    /// # Errors
    /// As [`PlanWriter::new`]; [`PlanError::Io`] if `path` is a directory or its folder is not writable.
    pub fn create(path: impl AsRef<Path>, plan: &Plan, assets: &Assets) -> Result<PlanWriter<Staged>, PlanError> {
        let path = path.as_ref();
        let io = || PlanError::io(format!("write {}", path.display()));
        if path.is_dir() {
            return Err(io()(io::Error::other("it is a directory")));
        }
        let file = Flowing { file: Hidden::create(folder(path)).map_err(io())?, written: 0, begun: 0 };
        PlanWriter::new(Staged { file: BufWriter::with_capacity(BUFFER, file), path: path.to_owned() }, plan, assets)
    }

    /// Makes the bytes durable and gives the file its name, replacing what was there in one step.
    ///
    /// # Errors
    /// As [`PlanWriter::into_inner`].
    pub fn finish(self) -> Result<(), PlanError> {
        let Staged { file, path } = self.into_inner()?;
        let io = || PlanError::io(format!("write {}", path.display()));
        let hidden = file.into_inner().map_err(|e| io()(e.into_error()))?.file;
        hidden.file().sync_all().map_err(io())?;
        hidden.publish(&path).map_err(io())?;
        // The rename is durable once the folder is; where folders cannot be synced, that is the system's business.
        let _ = File::open(folder(&path)).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl Hidden {
    fn create(folder: &Path) -> io::Result<Hidden> {
        #[cfg(target_os = "linux")]
        if let Some(file) = linux::unnamed(folder) {
            return Ok(Hidden::Unnamed(file));
        }
        builder().tempfile_in(folder).map(Hidden::Named)
    }

    fn file(&self) -> &File {
        match self {
            #[cfg(target_os = "linux")]
            Hidden::Unnamed(file) => file,
            Hidden::Named(file) => file.as_file(),
        }
    }

    fn publish(self, path: &Path) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Hidden::Unnamed(file) => linux::publish(&file, path),
            Hidden::Named(file) => file.persist(path).map(drop).map_err(|e| e.error),
        }
    }
}

/// The folder of a file.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Temporary names, and the permissions that an ordinary file would get.
fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".weft-").suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::path::Path;

    use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};

    use super::{builder, folder};

    /// Where a process finds its open files; the way to name one that has no name.
    const OPEN_FILES: &str = "/proc/self/fd";

    /// A file without a name in `folder`; `None` where the file system has no such files.
    pub(super) fn unnamed(folder: &Path) -> Option<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(CWD, folder, flags, Mode::from_raw_mode(0o666)).ok()?;
        Path::new(OPEN_FILES).is_dir().then(|| File::from(file))
    }

    /// Names a file. A link cannot replace another file, so it gets a free name first and is moved from there.
    pub(super) fn publish(file: &File, path: &Path) -> io::Result<()> {
        let open = format!("{OPEN_FILES}/{}", file.as_raw_fd());
        let link = |name: &Path| Ok(linkat(CWD, &open, CWD, name, AtFlags::SYMLINK_FOLLOW)?);
        let named = builder().make_in(folder(path), link)?;
        named.into_temp_path().persist(path).map_err(|e| e.error)
    }
}
