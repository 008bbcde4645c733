//! MXFP4 as gpt-oss stores its experts: a weight `X` `[…, out, in]` is `X_blocks` U8 `[…, out, in / 32, 16]`, two codes of
//! 32 in a byte with the lower bits first, and `X_scales` U8 `[…, out, in / 32]`: `w = e2m1(code) · 2^(scale - 127)`.

use std::ops::Range;

use warpweft_compiler::formats::Format;

use super::parts::{again, part, power, wrong_element};
use super::{Found, Layout, Method, Rows, Site};
use crate::checkpoint::{Checkpoint, StoredType};
use crate::config::Config;
use crate::error::CheckpointError;

/// Values that share a scale.
const BLOCK: usize = 32;

#[derive(Debug)]
struct Mxfp4;

/// There are no settings that matter: a weight is quantized if its blocks are there.
pub(super) fn read(_: &Config) -> Result<Box<dyn Method>, CheckpointError> {
    Ok(Box::new(Mxfp4))
}

impl Method for Mxfp4 {
    fn keys(&self, name: &str) -> Vec<String> {
        vec![format!("{name}_blocks")]
    }

    fn find(&self, site: &Site<'_>) -> Result<Found, CheckpointError> {
        let &Site { checkpoint, name, columns, outer, .. } = site;
        if !columns.is_multiple_of(BLOCK) {
            return Err(site.wrong(format!("{columns} columns"), format!("a multiple of {BLOCK}")));
        }
        let (blocks, scales) = (format!("{name}_blocks"), format!("{name}_scales"));
        let of_scales = [outer, &[columns / BLOCK]].concat();
        let of_blocks = [of_scales.as_slice(), &[BLOCK / 2]].concat();
        part(checkpoint, &blocks, &[StoredType::U8], &[&of_blocks])?;
        part(checkpoint, &scales, &[StoredType::U8, StoredType::F8_E8M0], &[&of_scales])?;
        let parts = vec![blocks.clone(), scales.clone()];
        let layout = Box::new(Stored { blocks, scales, columns });
        Ok(Found { format: Format::Mxfp4, order: None, parts, layout })
    }
}

#[derive(Debug)]
struct Stored {
    blocks: String,
    scales: String,
    columns: usize,
}

impl Layout for Stored {
    fn rows(&self, checkpoint: &Checkpoint, rows: Range<usize>) -> Result<Rows, CheckpointError> {
        let (blocks, stored) = (again(checkpoint, &self.blocks)?, again(checkpoint, &self.scales)?);
        let bytes = blocks.bytes.get(rows.start * self.columns / 2..rows.end * self.columns / 2).unwrap_or_default();
        let codes = bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).collect();
        let groups = self.columns / BLOCK;
        let first = rows.start * groups;
        let exponents = stored.bytes.get(first..rows.end * groups).unwrap_or_default();
        if let Some(at) = exponents.iter().position(|&exponent| exponent == u8::MAX) {
            return Err(wrong_element(&stored, first + at, "255, which is NaN", "an exponent from 0 to 254"));
        }
        let scales = exponents.iter().map(|&exponent| power(exponent)).collect();
        Ok(Rows { codes, scales, zeros: None })
    }
}
