//! Opening a plan file.

use std::fmt;

use super::source::Memory;
use super::{Assets, Source, header};
use crate::Plan;
use crate::error::{PlanError, invalid};

/// A plan whose weights are still where they came from. Everything but the weights' values has been checked.
pub struct PlanFile {
    plan: Plan,
    assets: Assets,
    /// First byte of each tensor in the source.
    starts: Vec<u64>,
    source: Box<dyn Source>,
}

impl fmt::Debug for PlanFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlanFile").field("model", &self.plan.model).field("size", &self.source.size()).finish()
    }
}

impl PlanFile {
    /// Opens a file. Its weights are read when they are asked for, so the file must not change meanwhile.
    ///
    /// # Errors
    /// [`PlanError`] tells what is wrong with the file.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(path: impl AsRef<std::path::Path>) -> Result<PlanFile, PlanError> {
        let path = path.as_ref();
        let io = PlanError::io(format!("open {}", path.display()));
        PlanFile::from_source(super::source::OpenFile::open(path).map_err(io)?)
    }

    /// Reads a plan that is in memory: a `Vec<u8>`, a static slice, a memory map.
    ///
    /// # Errors
    /// [`PlanError`] tells what is wrong with the bytes.
    pub fn from_bytes(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<PlanFile, PlanError> {
        PlanFile::from_source(Memory(bytes))
    }

    /// Reads a plan from anywhere.
    ///
    /// # Errors
    /// [`PlanError`] tells what is wrong with the bytes.
    pub fn from_source(source: impl Source + 'static) -> Result<PlanFile, PlanError> {
        let size = source.size();
        let io = || PlanError::io("read the plan's header");
        let mut first = [0; 8];
        if size < 8 {
            return Err(PlanError::NotAPlan(format!("it is {size} bytes long")));
        }
        source.read_at(0, &mut first).map_err(io())?;
        let mut bytes = vec![0; 8 + header::length(first, size)?];
        source.read_at(0, &mut bytes).map_err(io())?;
        let header::Header { plan, assets } = header::read(&bytes)?;
        let begin = bytes.len() as u64;
        let offsets = header::offsets(&plan.tensors)?;
        let end = offsets.last().map_or(0, |[_, end]| *end);
        let expected = begin.checked_add(end).ok_or(PlanError::Length { found: size, expected: u64::MAX })?;
        if size != expected {
            return Err(PlanError::Length { found: size, expected });
        }
        let starts = offsets.iter().map(|[start, _]| begin + start).collect();
        Ok(PlanFile { plan, assets, starts, source: Box::new(source) })
    }

    /// What is to be run.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Gives the programs the kernels that were found fastest on a family of adapters, as [`Plan::tune`] does.
    pub fn tune(&mut self, family: &str) -> usize {
        self.plan.tune(family)
    }

    /// The texts that came with it.
    pub fn assets(&self) -> &Assets {
        &self.assets
    }

    /// Takes the texts out, for a user who needs them once.
    pub fn take_assets(&mut self) -> Assets {
        std::mem::take(&mut self.assets)
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.source.size()
    }

    /// Fills `into` with the bytes `offset ..` of a tensor.
    ///
    /// # Errors
    /// [`PlanError::Invalid`] if the tensor has no such bytes, [`PlanError::Io`] if they cannot be read.
    pub fn read_tensor(&self, tensor: usize, offset: u64, into: &mut [u8]) -> Result<(), PlanError> {
        let start = self.place(tensor, offset, into.len() as u64)?;
        let io = PlanError::io(format!("read the tensor {:?}", self.plan.tensors[tensor].name));
        self.source.read_at(start, into).map_err(io)
    }

    /// Tells the source that so many bytes of a tensor from `offset` on will be read soon, so that it can fetch them
    /// meanwhile.
    ///
    /// # Errors
    /// [`PlanError::Invalid`] if the tensor has no such bytes.
    pub fn expect_tensor(&self, tensor: usize, offset: u64, bytes: u64) -> Result<(), PlanError> {
        self.source.expect(self.place(tensor, offset, bytes)?, bytes);
        Ok(())
    }

    /// Bytes of a tensor as memory, with at least `behind` more that may be anything; `None` if the source cannot.
    ///
    /// # Errors
    /// [`PlanError::Invalid`] if the tensor has no such bytes.
    #[cfg(target_os = "linux")]
    pub fn map_tensor(
        &self,
        tensor: usize,
        offset: u64,
        bytes: u64,
        behind: u64,
    ) -> Result<Option<super::Mapping>, PlanError> {
        Ok(self.source.map(self.place(tensor, offset, bytes)?, bytes, behind))
    }

    /// Where in the source bytes of a tensor are.
    fn place(&self, tensor: usize, offset: u64, bytes: u64) -> Result<u64, PlanError> {
        let size = self.plan.tensors.get(tensor).and_then(|t| t.bytes()).unwrap_or(0);
        if offset.checked_add(bytes).is_none_or(|end| end > size) {
            let found = format!("a read of {bytes} bytes at {offset}");
            return Err(invalid(format!("tensor {tensor}"), found, format!("a window in its {size} bytes")));
        }
        Ok(self.starts[tensor] + offset)
    }
}
