//! Which matrices of an operation kernels can have as images.

use warpweft_plan::Binding;

use super::Slot;
use super::spec::{Operand, Operation, View};

impl Operation {
    /// Makes images of the matrices that are images for a kernel of it with these bindings.
    pub fn bind_like(&mut self, bindings: &[Binding]) {
        for binding in bindings.iter().filter(|binding| binding.access.is_image()) {
            let slot = match binding.name.as_str() {
                "x" => Some(Slot::X),
                "out" => Some(Slot::Out),
                name => name.strip_prefix('e').and_then(|at| at.parse().ok()).map(Slot::Operand),
            };
            slot.and_then(|slot| self.image(slot)).into_iter().for_each(|image| *image = true);
        }
    }

    /// What says whether the matrix at a binding is an image, if a kernel can have it as one.
    pub fn image(&mut self, slot: Slot) -> Option<&mut bool> {
        match slot {
            Slot::X => self.image_of_x(),
            Slot::Operand(at) => self.image_of_operand(at),
            Slot::Out => self.image_of_result(),
            Slot::W
            | Slot::W2
            | Slot::Q
            | Slot::K
            | Slot::V
            | Slot::Prologue(_)
            | Slot::Vectors
            | Slot::Ids
            | Slot::Rows
            | Slot::Sequences
            | Slot::Pages
            | Slot::Part(_)
            | Slot::Step => None,
        }
    }

    /// Whether the matrix at a binding is an image.
    pub fn is_image(&self, slot: Slot) -> bool {
        self.clone().image(slot).is_some_and(|image| *image)
    }

    /// Of what is contracted.
    fn image_of_x(&mut self) -> Option<&mut bool> {
        let (Operation::Linear { .. } | Operation::NormedLinear { .. } | Operation::GainedLinear { .. }) = self else {
            return None;
        };
        let Operation::Linear { x, .. } = self.inner_mut() else { return None };
        x.offset.is_multiple_of(4).then_some(&mut x.image)
    }

    fn image_of_operand(&mut self, at: usize) -> Option<&mut bool> {
        let (Operation::Linear { operands, .. }
        | Operation::Normalize { operands, .. }
        | Operation::Map { operands, .. }) = self.inner_mut()
        else {
            return None;
        };
        match operands.get_mut(at)? {
            Operand::Matrix(view) => view.offset.is_multiple_of(4).then_some(&mut view.image),
            Operand::Vector | Operand::Result | Operand::Next | Operand::Gather { .. } => None,
        }
    }

    /// Of a result that is written by four columns, and not over what is read.
    fn image_of_result(&mut self) -> Option<&mut bool> {
        let over = |operands: &[Operand]| operands.iter().any(|o| matches!(o, Operand::Result | Operand::Next));
        match self {
            Operation::Normalize { operands, then: None, image, .. } => (!over(operands)).then_some(image),
            Operation::Attention(attention) | Operation::CachedAttention { attention, split: None, .. } => {
                let dim = attention.v.width / attention.kv_heads.max(1);
                dim.is_multiple_of(4).then_some(&mut attention.image)
            }
            Operation::CombineAttention { value_dim, image, .. } => value_dim.is_multiple_of(4).then_some(image),
            Operation::Linear { operands, out, .. } => {
                let by_four = out.offset.is_multiple_of(4) && out.width.is_multiple_of(4);
                (!over(operands) && (by_four || *out == View::whole_in(out.width, out.image))).then_some(&mut out.image)
            }
            Operation::NormedLinear { linear, .. } | Operation::ScaledLinear { linear, .. } => linear.image_of_result(),
            Operation::GainedLinear { .. }
            | Operation::IntegerLinear(_)
            | Operation::Quantize { .. }
            | Operation::Dequantize { .. }
            | Operation::PerHead { .. }
            | Operation::Normalize { then: Some(_), .. }
            | Operation::Map { .. }
            | Operation::Columns { .. }
            | Operation::Pool { .. }
            | Operation::Heads { .. }
            | Operation::CachedAttention { split: Some(_), .. }
            | Operation::CandidateChunks { .. }
            | Operation::Candidates { .. } => None,
        }
    }
}
