//! bitsandbytes in 4 bits (`nf4`): `X.weight` U8 `[out · in / 2, 1]`, two codes in a byte with the higher bits first, over
//! the flattened weight; `X.weight.absmax`, a scale for each block of it; `X.weight.quant_map` F32 `[16]`, the values of
//! the codes; and `X.weight.quant_state.bitsandbytes__nf4`, the bytes of a JSON text with `blocksize` and `shape`.
//! `w = map[code] · absmax`.
//!
//! Scales may be quantized in turn (`bnb_4bit_use_double_quant`): then `absmax` is U8, and a scale is
//! `nested_quant_map[absmax] · nested_absmax + nested_offset`, the second for each `nested_blocksize` scales.

use std::ops::Range;

use serde_json::Value;
use warpweft_compiler::formats::{Format, Group};

use super::parts::{again, part, scale, wrong_element};
use super::{Found, Layout, Method, Rows, Site};
use crate::checkpoint::{Checkpoint, StoredTensor, StoredType};
use crate::config::Config;
use crate::error::CheckpointError;

#[derive(Debug)]
struct BitsAndBytes;

/// Reads `load_in_4bit` and `bnb_4bit_quant_type`.
pub(super) fn read(config: &Config) -> Result<Box<dyn Method>, CheckpointError> {
    config.only_flag("load_in_8bit", false)?;
    config.only_flag("load_in_4bit", true)?;
    config.only_text("bnb_4bit_quant_type", "nf4")?;
    config.only_text("bnb_4bit_quant_storage", "uint8")?;
    Ok(Box::new(BitsAndBytes))
}

/// The end of the name of the JSON text.
const STATE: &str = "quant_state.bitsandbytes__nf4";

impl Method for BitsAndBytes {
    fn keys(&self, name: &str) -> Vec<String> {
        vec![name.to_owned()]
    }

    fn find(&self, site: &Site<'_>) -> Result<Found, CheckpointError> {
        let &Site { checkpoint, name, rows, columns, .. } = site;
        let values = rows * columns;
        let bytes = values.div_ceil(2);
        part(checkpoint, name, &[StoredType::U8], &[&[bytes, 1], &[1, bytes], &[bytes]])?;
        let beside = |part: &str| format!("{name}.{part}");
        let state = State::read(site, &beside(STATE))?;
        check_map(&part(checkpoint, &beside("quant_map"), &[StoredType::F32], &[&[16]])?)?;
        let size = group_size(site, state.block)?;
        let blocks = values.div_ceil(state.block);
        let absmax = beside("absmax");
        part(checkpoint, &absmax, &[StoredType::F32, StoredType::U8], &[&[blocks]])?;
        let mut parts = vec![name.to_owned(), beside(STATE), beside("quant_map"), absmax.clone()];
        let nested = match checkpoint.tensor(&absmax).is_some_and(|tensor| tensor.stored == StoredType::U8) {
            false => None,
            true => {
                let (map, outer) = (beside("nested_quant_map"), beside("nested_absmax"));
                let (block, offset) = state.nested(site, &beside(STATE))?;
                part(checkpoint, &map, &[StoredType::F32], &[&[256]])?;
                part(checkpoint, &outer, &[StoredType::F32], &[&[blocks.div_ceil(block)]])?;
                parts.extend([map.clone(), outer.clone()]);
                Some(Nested { map, absmax: outer, block, offset })
            }
        };
        let format = Format::Nf4(size);
        let group = format.group_width(columns);
        let layout = Stored { weight: name.to_owned(), absmax, nested, columns, block: state.block, group };
        Ok(Found { format, order: None, parts, layout: Box::new(layout) })
    }
}

/// Columns that share a scale in every row: blocks go on from row to row.
fn group_size(site: &Site<'_>, block: usize) -> Result<Group, CheckpointError> {
    if block.is_multiple_of(site.columns) {
        return Ok(Group::Row);
    }
    let (mut size, mut rest) = (block, site.columns);
    while rest > 0 {
        (size, rest) = (rest, size % rest);
    }
    let fits = size.is_multiple_of(8);
    let found = || format!("blocks of {block} values over rows of {} columns", site.columns);
    if fits { site.group(Some(size)) } else { Err(site.wrong(found(), "a common divisor that is a multiple of 8")) }
}

/// The values that codes stand for.
fn check_map(map: &StoredTensor<'_>) -> Result<(), CheckpointError> {
    // A row of all codes with scale 1 decodes to the levels.
    let format = Format::Nf4(Group::Row);
    let codes: Vec<u8> = (0..16).collect();
    let codes = warpweft_compiler::formats::Codes { codes: &codes, scales: &[1.0], zeros: None };
    let levels = format.assemble(&codes, 16).map(|row| format.unpack(&row, 16)).unwrap_or_default();
    for (code, level) in levels.into_iter().enumerate() {
        let found = scale(map, code)?;
        if found != level {
            return Err(wrong_element(map, code, found, format!("{level}, as nf4 has it")));
        }
    }
    Ok(())
}

/// What the JSON text says.
struct State {
    block: usize,
    fields: serde_json::Map<String, Value>,
}

impl State {
    fn read(site: &Site<'_>, name: &str) -> Result<State, CheckpointError> {
        let tensor = again(site.checkpoint, name)?;
        let wrong = |found: String, expected: String| CheckpointError::Quantized {
            file: tensor.file.to_owned(),
            tensor: tensor.name.to_owned(),
            found,
            expected,
        };
        if tensor.stored != StoredType::U8 {
            return Err(super::parts::wrong_type(&tensor, &[StoredType::U8]));
        }
        let fields = match serde_json::from_slice(tensor.bytes) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err(wrong("another value".to_owned(), "a JSON object".to_owned())),
            Err(error) => return Err(wrong(error.to_string(), "a JSON object".to_owned())),
        };
        let describe = |field: &str| {
            let found = fields.get(field).map_or_else(|| "nothing".to_owned(), crate::config::describe);
            format!("{found} as {field}")
        };
        let size = |n: &Value| n.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        let block = fields.get("blocksize").and_then(size);
        let block = block.ok_or_else(|| wrong(describe("blocksize"), "a number of values".to_owned()))?;
        let shape: Option<Vec<usize>> =
            fields.get("shape").and_then(Value::as_array).and_then(|list| list.iter().map(size).collect());
        if shape.as_deref() != Some(&[site.rows, site.columns]) {
            let found = shape.map_or_else(|| describe("shape"), |shape| format!("shape {shape:?}"));
            return Err(wrong(found, format!("{:?}", [site.rows, site.columns])));
        }
        Ok(State { block, fields })
    }

    /// Scales that share a scale, and what is added to each.
    fn nested(&self, site: &Site<'_>, name: &str) -> Result<(usize, f32), CheckpointError> {
        let block = self.fields.get("nested_blocksize").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let offset = self.fields.get("nested_offset").and_then(Value::as_f64).map(|offset| offset as f32);
        match (block.filter(|block| *block > 0), offset.filter(|offset| offset.is_finite())) {
            (Some(block), Some(offset)) => Ok((block, offset)),
            _ => Err(CheckpointError::Quantized {
                file: site.checkpoint.weights_file(),
                tensor: name.to_owned(),
                found: "no nested_blocksize or no nested_offset".to_owned(),
                expected: "both, because absmax is U8".to_owned(),
            }),
        }
    }
}

#[derive(Debug)]
struct Stored {
    weight: String,
    absmax: String,
    nested: Option<Nested>,
    columns: usize,
    /// Values of the flattened weight that share a scale.
    block: usize,
    /// Columns that share one in every row; it divides the block, or is the row.
    group: usize,
}

/// How scales are quantized.
#[derive(Debug)]
struct Nested {
    map: String,
    absmax: String,
    block: usize,
    offset: f32,
}

impl Layout for Stored {
    fn rows(&self, checkpoint: &Checkpoint, rows: Range<usize>) -> Result<Rows, CheckpointError> {
        let weight = again(checkpoint, &self.weight)?;
        let range = rows.start * self.columns..rows.end * self.columns;
        let code = |index: usize| {
            let byte = weight.bytes.get(index / 2).copied().unwrap_or_default();
            if index.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
        };
        let codes = range.clone().map(code).collect();
        let absmax = again(checkpoint, &self.absmax)?;
        let nested = match &self.nested {
            Some(nested) => Some((nested, again(checkpoint, &nested.map)?, again(checkpoint, &nested.absmax)?)),
            None => None,
        };
        let mut scales = Vec::new();
        for row in rows {
            for first in (0..self.columns).step_by(self.group.max(1)) {
                let block = (row * self.columns + first) / self.block;
                scales.push(match &nested {
                    None => scale(&absmax, block)?,
                    Some((nested, map, outer)) => {
                        let code = absmax.bytes.get(block).copied().unwrap_or_default();
                        scale(map, code.into())? * scale(outer, block / nested.block)? + nested.offset
                    }
                });
            }
        }
        Ok(Rows { codes, scales, zeros: None })
    }
}
