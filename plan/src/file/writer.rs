//! Writing a plan file as a stream: no more than one piece of a weight has to be in memory.

use std::io::Write;

use super::{Assets, header};
use crate::Plan;
use crate::error::PlanError;

/// Writes the header, then tensor after tensor.
///
/// ```
/// # fn demo(plan: &warpweft_plan::Plan, weights: &[Vec<u8>]) -> Result<Vec<u8>, warpweft_plan::PlanError> {
/// let mut writer = warpweft_plan::PlanWriter::new(Vec::new(), plan, &Default::default())?;
/// for (index, bytes) in weights.iter().enumerate() {
///     writer.tensor(index)?;
///     for piece in bytes.chunks(1 << 20) {
///         writer.write(piece)?;
///     }
/// }
/// writer.into_inner()
/// # }
/// ```
#[derive(Debug)]
pub struct PlanWriter<W> {
    sink: W,
    /// Name and size of each tensor.
    tensors: Vec<(String, u64)>,
    /// Tensors begun.
    begun: usize,
    /// Bytes that the tensor begun last still needs.
    missing: u64,
}

impl<W: Write> PlanWriter<W> {
    /// Checks the plan and writes the header.
    ///
    /// # Errors
    /// [`PlanError::Invalid`] for a plan that no runtime would accept, [`PlanError::Io`] from the sink.
    pub fn new(mut sink: W, plan: &Plan, assets: &Assets) -> Result<PlanWriter<W>, PlanError> {
        plan.check()?;
        sink.write_all(&header::write(plan, assets)?).map_err(PlanError::io("write the plan's header"))?;
        let tensors = plan.tensors.iter().map(|t| (t.name.clone(), t.bytes().unwrap_or(0))).collect();
        Ok(PlanWriter { sink, tensors, begun: 0, missing: 0 })
    }

    /// Begins a tensor; they come in the order of [`Plan::tensors`].
    ///
    /// # Errors
    /// [`PlanError::Writer`] if another one is due or bytes of the last one are missing.
    pub fn tensor(&mut self, index: usize) -> Result<(), PlanError> {
        self.check_complete()?;
        if index != self.begun || index >= self.tensors.len() {
            let (due, of) = (self.begun, self.tensors.len());
            return Err(PlanError::Writer(format!("tensor {index} was begun, {due} of {of} is due")));
        }
        self.missing = self.tensors[index].1;
        self.begun += 1;
        Ok(())
    }

    /// Writes the next bytes of the tensor begun last.
    ///
    /// # Errors
    /// [`PlanError::Writer`] if they are more than it has, [`PlanError::Io`] from the sink.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), PlanError> {
        let name = self.begun.checked_sub(1).map_or("(none begun)", |i| self.tensors[i].0.as_str());
        let missing = self.missing.checked_sub(bytes.len() as u64);
        self.missing = missing.ok_or_else(|| {
            PlanError::Writer(format!("{} bytes for tensor {name:?}, which needs {} more", bytes.len(), self.missing))
        })?;
        self.sink.write_all(bytes).map_err(PlanError::io(format!("write the tensor {name:?}")))
    }

    /// Ends the file and gives the sink back.
    ///
    /// # Errors
    /// [`PlanError::Writer`] if bytes are missing, [`PlanError::Io`] from the sink.
    pub fn into_inner(mut self) -> Result<W, PlanError> {
        self.check_complete()?;
        if self.begun < self.tensors.len() {
            return Err(PlanError::Writer(format!("{} of {} tensors were written", self.begun, self.tensors.len())));
        }
        self.sink.flush().map_err(PlanError::io("write the plan"))?;
        Ok(self.sink)
    }

    fn check_complete(&self) -> Result<(), PlanError> {
        match self.begun.checked_sub(1) {
            Some(last) if self.missing > 0 => {
                Err(PlanError::Writer(format!("tensor {:?} needs {} more bytes", self.tensors[last].0, self.missing)))
            }
            _ => Ok(()),
        }
    }
}
