//! Everything that must hold before a plan may be run.
//!
//! A plan can come from anywhere, so nothing in it is trusted: after [`Plan::check`], every index is in range,
//! every size fits in 64 bits for any step of at most [`MAX_STEP_ROWS`] rows, every weight window lies in its tensor
//! and every number of rows has exactly one program. Shaders are only bounded here; the runtime validates them.

mod programs;
mod provenance;
mod quantization;

use std::collections::HashSet;

use crate::error::{PlanError, clipped, invalid};
use crate::{Buffer, CacheRows, Dim, Kernel, Model, Plan, Role, Tensor};

/// No step has more rows, so that sizes never overflow.
pub const MAX_STEP_ROWS: u64 = 1 << 20;

/// No invocation may run more loop iterations: some drivers stop silently there.
pub const MAX_LOOP_TRIPS: u64 = 65_535;

/// WebGPU's limit on workgroups in one dimension of a dispatch.
pub const MAX_GROUPS: u64 = 65_535;

/// Greatest constant or coefficient of a size.
const MAX_COEFFICIENT: i64 = 1 << 40;
/// Longest WGSL and longest meaning of a kernel, in bytes.
const MAX_TEXT: usize = 1 << 20;
/// The most that one invocation does of anything.
const MAX_COUNT: f64 = 1e15;
/// Longest name of a family of adapters, in bytes.
const MAX_FAMILY: usize = 256;
/// Most bindings of a kernel; WebGPU's own limits are lower.
const MAX_BINDINGS: usize = 64;

impl Plan {
    /// Checks every index, offset, size and range.
    ///
    /// # Errors
    /// [`PlanError::Invalid`] with the place, what is there and what may be there.
    pub fn check(&self) -> Result<(), PlanError> {
        check_model(&self.model)?;
        check_tensors(&self.tensors)?;
        for (i, buffer) in self.buffers.iter().enumerate() {
            check_buffer(&format!("buffer {i} ({})", clipped(&buffer.name)), buffer, self)?;
        }
        check_kernels(&self.kernels)?;
        programs::check(self)?;
        self.quantization.as_ref().map_or(Ok(()), quantization::check)?;
        self.provenance.as_ref().map_or(Ok(()), |p| provenance::check(self, p))
    }
}

fn check_model(model: &Model) -> Result<(), PlanError> {
    if model.vocab_size == 0 {
        return Err(invalid("model.vocab_size", 0, "at least 1"));
    }
    if model.max_positions == 0 || u64::from(model.max_positions) > MAX_STEP_ROWS {
        return Err(invalid("model.max_positions", model.max_positions, format!("1 to {MAX_STEP_ROWS}")));
    }
    if model.max_text_tokens == 0 || model.max_text_tokens > model.max_positions {
        let expected = format!("1 to {} (model.max_positions)", model.max_positions);
        return Err(invalid("model.max_text_tokens", model.max_text_tokens, expected));
    }
    if let Some(id) = model.eos_ids.iter().find(|&&id| id >= model.vocab_size) {
        return Err(invalid("model.eos_ids", id, format!("below {} (model.vocab_size)", model.vocab_size)));
    }
    Ok(())
}

fn check_tensors(tensors: &[Tensor]) -> Result<(), PlanError> {
    let mut names = HashSet::new();
    let mut total = 0u64;
    for (i, tensor) in tensors.iter().enumerate() {
        let at = format!("tensor {i} ({})", clipped(&tensor.name));
        if tensor.name.is_empty() || tensor.name == "__metadata__" {
            return Err(invalid(&at, format!("the name {:?}", tensor.name), "a name of its own"));
        }
        if !names.insert(tensor.name.as_str()) {
            return Err(invalid(&at, "a name that another tensor has", "unique names"));
        }
        let is_name = |name: &String| name.len() <= 40 && name.bytes().all(|b| b.is_ascii_graphic());
        if let Some(format) = tensor.format.as_ref().filter(|format| !is_name(format)) {
            return Err(invalid(&at, format!("the format {:?}", clipped(format)), "a short name"));
        }
        let bytes = tensor.bytes().filter(|&n| n > 0 && n % 4 == 0 && n <= MAX_COEFFICIENT as u64);
        let bytes = bytes.ok_or_else(|| {
            let shape = format!("{} {:?}", tensor.dtype, tensor.shape);
            invalid(&at, shape, format!("a size that is a multiple of 4 bytes, from 4 to {MAX_COEFFICIENT}"))
        })?;
        total = total
            .checked_add(bytes)
            .filter(|&n| n <= i64::MAX as u64)
            .ok_or_else(|| invalid(&at, "more than 2^63 bytes in all tensors up to here", "a sum that fits"))?;
    }
    Ok(())
}

fn check_buffer(at: &str, buffer: &Buffer, plan: &Plan) -> Result<(), PlanError> {
    let bytes = buffer.bytes;
    check_size(&format!("{at}: bytes"), bytes)?;
    let parts = [bytes.constant, bytes.tokens, bytes.context, bytes.sequences];
    if bytes == Dim::constant(0) || parts.iter().any(|n| n % 4 != 0) {
        return Err(invalid(format!("{at}: bytes"), bytes, "multiples of 4, not 0"));
    }
    match buffer.role {
        Role::Weight { tensor, offset } => check_window(at, bytes, tensor, offset, &plan.tensors),
        Role::Input(input) if bytes != input.bytes() => {
            Err(invalid(format!("{at}: bytes"), bytes, format!("{} for {input:?}", input.bytes())))
        }
        Role::Cache { rows, .. } if i64::try_from(rows.row_bytes()).map(|n| Dim::CONTEXT * n) != Ok(bytes) => {
            let CacheRows { format, heads, columns } = rows;
            let row = format!("{}*context for {heads} heads of {columns} columns in {format}", rows.row_bytes());
            Err(invalid(format!("{at}: bytes"), bytes, row))
        }
        Role::Cache { window: Some(window), .. } if window >= plan.model.max_positions => {
            let expected = format!("a window below {} (model.max_positions)", plan.model.max_positions);
            Err(invalid(format!("{at}: window"), window, expected))
        }
        Role::Input(_) | Role::Scratch | Role::Output | Role::Cache { .. } => Ok(()),
    }
}

fn check_window(at: &str, bytes: Dim, tensor: usize, offset: u64, tensors: &[Tensor]) -> Result<(), PlanError> {
    let size = bytes.as_constant().and_then(|n| u64::try_from(n).ok());
    let size = size.ok_or_else(|| invalid(format!("{at}: bytes"), bytes, "a constant for a weight"))?;
    let whole = tensors.get(tensor).and_then(Tensor::bytes);
    let whole = whole.ok_or_else(|| invalid(at, format!("tensor {tensor}"), format!("below {}", tensors.len())))?;
    if !offset.is_multiple_of(4) {
        return Err(invalid(format!("{at}: offset"), offset, "a multiple of 4"));
    }
    if offset.checked_add(size).is_none_or(|end| end > whole) {
        let found = format!("{size} bytes at offset {offset}");
        return Err(invalid(at, found, format!("a window inside the {whole} bytes of tensor {tensor}")));
    }
    Ok(())
}

/// A size that is never negative and never overflows.
fn check_size(at: &str, dim: Dim) -> Result<(), PlanError> {
    let parts = [dim.constant, dim.tokens, dim.context, dim.sequences];
    if parts.iter().all(|n| (0..=MAX_COEFFICIENT).contains(n)) {
        return Ok(());
    }
    Err(invalid(at, dim, format!("a constant and coefficients from 0 to {MAX_COEFFICIENT}")))
}

fn check_kernels(kernels: &[Kernel]) -> Result<(), PlanError> {
    let mut names = HashSet::new();
    for (i, kernel) in kernels.iter().enumerate() {
        let at = format!("kernel {i} ({})", clipped(&kernel.name));
        if kernel.name.is_empty() || !names.insert(kernel.name.as_str()) {
            return Err(invalid(&at, "an empty name or one that another kernel has", "unique names"));
        }
        for (what, text) in [("wgsl", &kernel.wgsl), ("meaning", &kernel.meaning)] {
            if text.len() > MAX_TEXT {
                return Err(invalid(
                    format!("{at}: {what}"),
                    text.len(),
                    format_args!("at most {MAX_TEXT} bytes of text"),
                ));
            }
        }
        if kernel.wgsl.is_empty() {
            return Err(invalid(format!("{at}: wgsl"), "no text", "a shader"));
        }
        if kernel.workgroup.contains(&0) || kernel.workgroup.iter().any(|&n| n > 1024) || kernel.workgroup[2] > 64 {
            let found = format!("{:?}", kernel.workgroup);
            return Err(invalid(format!("{at}: workgroup"), found, "1 to 1024 in x and y, 1 to 64 in z"));
        }
        if kernel.loop_trips > MAX_LOOP_TRIPS {
            return Err(invalid(format!("{at}: loop_trips"), kernel.loop_trips, format!("at most {MAX_LOOP_TRIPS}")));
        }
        let cost = &kernel.cost;
        let counts = cost.once.counts().into_iter().chain(cost.key.counts()).chain([cost.disorder]);
        if let Some(count) = counts.into_iter().find(|n| !(0.0..=MAX_COUNT).contains(n)) {
            return Err(invalid(format!("{at}: cost"), count, format!("counts from 0 to {MAX_COUNT:e}")));
        }
        check_bindings(&at, kernel)?;
    }
    Ok(())
}

fn check_bindings(at: &str, kernel: &Kernel) -> Result<(), PlanError> {
    let at = format!("{at}: bindings");
    if kernel.bindings.is_empty() || kernel.bindings.len() > MAX_BINDINGS {
        return Err(invalid(at, kernel.bindings.len(), format!("1 to {MAX_BINDINGS}")));
    }
    let mut names = HashSet::new();
    if let Some(twice) = kernel.bindings.iter().find(|b| !names.insert(b.name.as_str())) {
        return Err(invalid(at, format!("{:?} twice", clipped(&twice.name)), "unique names"));
    }
    if !kernel.bindings.iter().any(|b| b.access.writes()) {
        return Err(invalid(at, "nothing that is written", "a binding that is"));
    }
    Ok(())
}
