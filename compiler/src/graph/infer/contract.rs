//! What contractions need of their operands, and what they give.

use egg::Id;
use warpweft_plan::Dim;

use super::{Infer, Problem, broadcasts, matrix};
use crate::graph::fact::{Fact, Shape, TensorFact, show};
use crate::graph::{Element, moments};

impl<'a, F: Fn(Id) -> &'a Fact> Infer<'_, F> {
    pub(super) fn linear(&self, x: Id, w: Id) -> Result<Shape, Problem> {
        let (x, w) = (self.stored(x)?, self.stored(w)?);
        let ([rows, k], [n, wk]) = (matrix(x)?, matrix(w)?);
        // Codes of activations meet codes of weights.
        if x.dtype.is_quantized() && (x.constant || !w.dtype.is_integers()) {
            return Err(format!("needs numbers, or int8 on both sides, found {} and {}", x.dtype, w.dtype));
        }
        if k != wk || !w.constant {
            return Err(format!(
                "needs x [rows, k] and a weight [n, k], found {} and {}",
                show(&x.shape),
                show(&w.shape)
            ));
        }
        Ok(vec![rows, n])
    }

    pub(super) fn linear_pair(&self, x: Id, a: Id, b: Id) -> Result<Shape, Problem> {
        let shape = self.linear(x, a)?;
        self.weights_alike(a, b)?;
        Ok(shape)
    }

    /// Two weights that a pair has.
    pub(super) fn weights_alike(&self, a: Id, b: Id) -> Result<(), Problem> {
        let (a, b) = (self.stored(a)?, self.stored(b)?);
        if (&a.shape, a.dtype) != (&b.shape, b.dtype) {
            return Err(format!("weights differ: {}{} and {}{}", a.dtype, show(&a.shape), b.dtype, show(&b.shape)));
        }
        if !a.constant || !b.constant {
            return Err("needs weights".into());
        }
        Ok(())
    }

    /// The shape of rows with a gain and their moments.
    pub(super) fn gained(&self, [rows, width]: [Dim; 2], gain: Id) -> Result<Shape, Problem> {
        let gain = self.tensor(gain)?;
        if !gain.constant || gain.shape != [width] {
            return Err(format!("needs a gain [{width}], found {}", show(&gain.shape)));
        }
        Ok(vec![rows, self.with_moments(width)?])
    }

    /// The width of so many columns with their moments.
    pub(super) fn with_moments(&self, columns: Dim) -> Result<Dim, Problem> {
        const LIMIT: u32 = 1 << 24;
        let columns = columns.as_constant().and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=LIMIT).contains(n));
        let columns = columns.ok_or_else(|| format!("needs a width from 1 to {LIMIT}"))?;
        Ok(i64::from(moments::width(columns)).into())
    }

    /// A product of that shape, and the rows of x after the prologue's first norm.
    pub(super) fn normed(&self, x: Id, prologue: Id, product: Shape) -> Result<Fact, Problem> {
        let (x, prologue) = (self.tensor(x)?, (self.child)(prologue));
        let Fact::Prologue(prologue) = prologue else {
            return Err(format!("needs a prologue, found {prologue}"));
        };
        broadcasts(&prologue.operands, &x.shape)?;
        let product = TensorFact { shape: product, dtype: Element::F32, constant: false };
        Ok(Fact::Pair(product, TensorFact { dtype: Element::F32, ..x.clone() }))
    }

    pub(super) fn pair(&self, id: Id) -> Result<(&'a TensorFact, &'a TensorFact), Problem> {
        match (self.child)(id) {
            Fact::Pair(a, b) => Ok((a, b)),
            other => Err(format!("needs a node with two results, found {other}")),
        }
    }
}
