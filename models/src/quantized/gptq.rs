//! GPTQ: `X.qweight` `[in / per, out]` with the codes of a column of `per` inputs in a word, lowest bits first;
//! `X.scales` `[groups, out]`; `X.qzeros` `[groups, out / per]`, packed along the outputs; and `X.g_idx` `[in]`, the group
//! of each input. `w[o][i] = (code - zero) · scale` of output o and the group of input i.
//!
//! The first version of the layout stores one less than a zero point, in the bits of a code: 15 is 0. The second stores
//! zero points as they are.

use std::ops::Range;

use warpweft_compiler::formats::Format;

use super::integers::{self, Bits, Zeros};
use super::order::{order, places};
use super::parts::{FLOATS, INTEGERS, again, part, scale, word, words};
use super::{Found, Layout, Method, Rows, Site, beside, group_size};
use crate::checkpoint::{Checkpoint, StoredType};
use crate::config::Config;
use crate::error::CheckpointError;

#[derive(Debug)]
struct Gptq {
    bits: Bits,
    /// Columns of a group; `None` is all.
    size: Option<usize>,
    /// Zero points are stored less one.
    less_one: bool,
    symmetric: bool,
}

/// Reads `bits`, `group_size`, `sym` and `checkpoint_format`.
pub(super) fn read(config: &Config) -> Result<Box<dyn Method>, CheckpointError> {
    let less_one = config.word_or("checkpoint_format", &[("gptq", true), ("gptq_v2", false)], true)?;
    let bits = integers::bits(config, "bits")?;
    Ok(Box::new(Gptq {
        bits,
        size: group_size(config, "group_size")?,
        less_one,
        symmetric: config.flag_or("sym", true)?,
    }))
}

impl Method for Gptq {
    fn keys(&self, name: &str) -> Vec<String> {
        vec![beside(name, "qweight")]
    }

    fn find(&self, site: &Site<'_>) -> Result<Found, CheckpointError> {
        let &Site { checkpoint, rows, columns, .. } = site;
        let per = self.bits.per_word();
        integers::whole_words(site, per, &[("rows", rows), ("columns", columns)])?;
        let size = self.size.unwrap_or(columns);
        let groups = columns.div_ceil(size);
        let names = ["qweight", "qzeros", "scales", "g_idx"].map(|name| site.beside(name));
        let [weight, zeros, scales, index] = &names;
        part(checkpoint, weight, &[StoredType::I32], &[&[columns / per, rows]])?;
        let stored_zeros = part(checkpoint, zeros, &[StoredType::I32], &[&[groups, rows / per]])?;
        let stored_scales = part(checkpoint, scales, FLOATS, &[&[groups, rows]])?;
        let order = match checkpoint.tensor(index) {
            Some(_) => order(&part(checkpoint, index, INTEGERS, &[&[columns]])?, columns, size)?,
            None => None,
        };
        let zero = |index: usize| self.zero(word(&stored_zeros, index / per), index % per);
        let middle = (0..groups * rows).all(|index| zero(index) == self.bits.middle());
        // Siblings that are merged need one format, and what happens to be symmetric in one is not in another.
        let symmetric = middle && (self.symmetric || self.bits == Bits::Eight);
        let group = site.group(self.size)?;
        let zeros_are = if symmetric { Zeros::Middle } else { Zeros::Any };
        let format = integers::format(site, self.bits, group, zeros_are, &stored_scales)?;
        let parts = names.iter().filter(|name| checkpoint.tensor(name).is_some()).cloned().collect();
        let layout = Stored {
            weight: weight.clone(),
            zeros: zeros.clone(),
            scales: scales.clone(),
            places: places(order.as_deref(), columns),
            all_rows: rows,
            groups,
            bits: self.bits,
            less_one: self.less_one,
            format,
        };
        Ok(Found { format, order, parts, layout: Box::new(layout) })
    }
}

impl Gptq {
    fn zero(&self, word: u32, n: usize) -> u8 {
        zero(self.bits, self.less_one, word, n)
    }
}

/// Zero point `n` of a word.
fn zero(bits: Bits, less_one: bool, word: u32, n: usize) -> u8 {
    let stored = bits.code(word, n);
    if less_one { stored.wrapping_add(1) & bits.mask() } else { stored }
}

#[derive(Debug)]
struct Stored {
    weight: String,
    zeros: String,
    scales: String,
    /// Where each column stands.
    places: Vec<usize>,
    all_rows: usize,
    groups: usize,
    bits: Bits,
    less_one: bool,
    format: Format,
}

impl Layout for Stored {
    fn rows(&self, checkpoint: &Checkpoint, rows: Range<usize>) -> Result<Rows, CheckpointError> {
        let (columns, per) = (self.places.len(), self.bits.per_word());
        let weight = again(checkpoint, &self.weight)?;
        let mut codes = vec![0; rows.len() * columns];
        // Rows of the weight are columns here: a few at a time, so that what is written stays near.
        for (block, codes) in codes.chunks_mut(BLOCK * columns.max(1)).enumerate() {
            let first = rows.start + block * BLOCK;
            let count = codes.len() / columns.max(1);
            for (line, places) in self.places.chunks(per).enumerate() {
                for (row, word) in words(&weight, line * self.all_rows + first, count).enumerate() {
                    for (n, place) in places.iter().enumerate() {
                        codes[row * columns + place] = self.bits.code(word, n);
                    }
                }
            }
        }
        let (stored_zeros, stored_scales) = (again(checkpoint, &self.zeros)?, again(checkpoint, &self.scales)?);
        let (mut scales, mut zeros) = (Vec::new(), Vec::new());
        for row in rows {
            for group in 0..self.groups {
                let index = group * self.all_rows + row;
                scales.push(scale(&stored_scales, index)?);
                zeros.push(zero(self.bits, self.less_one, word(&stored_zeros, index / per), index % per));
            }
        }
        Ok(integers::rows(self.format, codes, scales, zeros, columns))
    }
}

/// Rows that are written side by side.
const BLOCK: usize = 64;
