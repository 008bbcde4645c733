//! AWQ in its layout for matrix products (`"version": "gemm"`): `X.qweight` `[in, out / 8]` with the codes of eight outputs
//! in a word; `X.qzeros` `[groups, out / 8]`, packed alike; `X.scales` `[groups, out]`.
//! `w[o][i] = (code - zero) · scale`.

use std::ops::Range;

use warpweft_compiler::formats::Format;

use super::integers::{self, Bits, Zeros};
use super::parts::{FLOATS, again, part, scale, word, words};
use super::{Found, Layout, Method, Rows, Site, beside, group_size};
use crate::checkpoint::{Checkpoint, StoredType};
use crate::config::Config;
use crate::error::CheckpointError;

/// Codes of a word.
const PER: usize = 8;
/// Output `n` of a word's eight stands in its bits `4 · PLACES[n] ..`: the outputs stand in the order
/// 0, 2, 4, 6, 1, 3, 5, 7.
const PLACES: [usize; PER] = [0, 4, 1, 5, 2, 6, 3, 7];

#[derive(Debug)]
struct Awq {
    /// Columns of a group; `None` is all.
    size: Option<usize>,
}

/// Reads `bits`, `group_size`, `zero_point` and `version`; early files call the first two `w_bit` and `q_group_size`.
pub(super) fn read(config: &Config) -> Result<Box<dyn Method>, CheckpointError> {
    let field = |name: &'static str, old: &'static str| if config.get(old).is_some() { old } else { name };
    let bits = field("bits", "w_bit");
    if integers::bits(config, bits)? != Bits::Four {
        return Err(config.wrong(bits, "4"));
    }
    config.only_flag("zero_point", true)?;
    config.word_or("version", &[("gemm", ()), ("GEMM", ())], ())?;
    Ok(Box::new(Awq { size: group_size(config, field("group_size", "q_group_size"))? }))
}

impl Method for Awq {
    fn keys(&self, name: &str) -> Vec<String> {
        vec![beside(name, "qweight")]
    }

    fn find(&self, site: &Site<'_>) -> Result<Found, CheckpointError> {
        let &Site { checkpoint, rows, columns, .. } = site;
        integers::whole_words(site, PER, &[("rows", rows)])?;
        let groups = columns.div_ceil(self.size.unwrap_or(columns));
        let names = ["qweight", "qzeros", "scales"].map(|name| site.beside(name));
        let [weight, zeros, scales] = &names;
        part(checkpoint, weight, &[StoredType::I32], &[&[columns, rows / PER]])?;
        part(checkpoint, zeros, &[StoredType::I32], &[&[groups, rows / PER]])?;
        let stored_scales = part(checkpoint, scales, FLOATS, &[&[groups, rows]])?;
        let group = site.group(self.size)?;
        let format = integers::format(site, Bits::Four, group, Zeros::Any, &stored_scales)?;
        let layout = Stored {
            weight: weight.clone(),
            zeros: zeros.clone(),
            scales: scales.clone(),
            all_rows: rows,
            columns,
            groups,
            format,
        };
        Ok(Found { format, order: None, parts: names.into(), layout: Box::new(layout) })
    }
}

#[derive(Debug)]
struct Stored {
    weight: String,
    zeros: String,
    scales: String,
    all_rows: usize,
    columns: usize,
    groups: usize,
    format: Format,
}

impl Layout for Stored {
    fn rows(&self, checkpoint: &Checkpoint, rows: Range<usize>) -> Result<Rows, CheckpointError> {
        let (columns, line) = (self.columns, self.all_rows / PER);
        let weight = again(checkpoint, &self.weight)?;
        let mut codes = vec![0; rows.len() * columns];
        // Rows of the weight are columns here: a few at a time, so that what is written stays near.
        for (block, codes) in codes.chunks_mut(BLOCK * columns.max(1)).enumerate() {
            let first = rows.start + block * BLOCK;
            let count = codes.len() / columns.max(1);
            for column in 0..columns {
                for (n, word) in words(&weight, column * line + first / PER, count.div_ceil(PER)).enumerate() {
                    for (row, place) in (n * PER..count).zip(PLACES) {
                        codes[row * columns + column] = Bits::Four.code(word, place);
                    }
                }
            }
        }
        let (stored_zeros, stored_scales) = (again(checkpoint, &self.zeros)?, again(checkpoint, &self.scales)?);
        let (mut scales, mut zeros) = (Vec::new(), Vec::new());
        for row in rows {
            for group in 0..self.groups {
                scales.push(scale(&stored_scales, group * self.all_rows + row)?);
                zeros.push(Bits::Four.code(word(&stored_zeros, group * line + row / PER), PLACES[row % PER]));
            }
        }
        Ok(integers::rows(self.format, codes, scales, zeros, columns))
    }
}

/// Rows that are written side by side; pieces begin at multiples of it.
const BLOCK: usize = 64;
