//! compressed-tensors, the layout of llm-compressor. Each of `config_groups` says how the weights of some layers are
//! quantized, and how they are stored:
//!
//! * `float-quantized`, `int-quantized`, `naive-quantized`: `X.weight` `[out, in]` of F8_E4M3 or I8 with `X.weight_scale`:
//!   one (`tensor`), `[out, 1]` (`channel`), `[out, groups]` (`group`) or one for each block (`block`).
//! * `pack-quantized`: `X.weight_packed` I32 `[out, in / per]` with `per` codes of a row in a word, lowest bits first, each
//!   raised by half of its range; `X.weight_shape` `[2]`; `X.weight_scale` as above; where it is not symmetric
//!   `X.weight_zero_point` I32 `[out / per, groups]`, packed along the rows; with activation order `X.weight_g_idx` `[in]`.
//!
//! Which layers are quantized is told by what is stored, so that `targets` and `ignore` are not needed. Weights only:
//! scales of activations are left alone.

use std::ops::Range;

use warpweft_compiler::formats::Format;

use super::bytes::{self, Shared};
use super::fp8::{CACHE_SCALES, sizes};
use super::integers::{self, Bits, Zeros};
use super::order::{order, places};
use super::parts::{FLOATS, INTEGERS, again, integer, part, scale, word, words, wrong_element};
use super::{Found, Layout, Method, Rows, Site, beside, group_size};
use crate::checkpoint::{Checkpoint, StoredType};
use crate::config::Config;
use crate::error::CheckpointError;

/// What belongs to a weight without being needed.
const IDLE: &[&str] = &["input_scale", "output_scale", "input_zero_point"];

#[derive(Debug)]
struct CompressedTensors {
    schemes: Vec<Scheme>,
}

/// How some weights are quantized.
#[derive(Clone, Copy, Debug)]
struct Scheme {
    kind: Kind,
    shared: Shared,
    symmetric: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A byte for each code.
    Bytes,
    /// Codes in words.
    Packed(Bits),
}

/// Ways to store that are read; what stands behind is whether codes are packed.
const STORED: &[(&str, bool)] =
    &[("float-quantized", false), ("int-quantized", false), ("naive-quantized", false), ("pack-quantized", true)];

/// Reads `config_groups` and `format`.
pub(super) fn read(config: &Config) -> Result<Box<dyn Method>, CheckpointError> {
    if let Some(sparsity) = config.object("sparsity_config")? {
        sparsity.only_text("format", "dense")?;
    }
    let Some(groups) = config.object("config_groups")? else {
        return Err(config.wrong("config_groups", "an object"));
    };
    let mut schemes = Vec::new();
    for name in groups.fields() {
        let Some(group) = groups.object(name)? else { continue };
        let Some(weights) = group.object("weights")? else { continue };
        // A group may be stored in a way of its own.
        let of = if group.get("format").is_some() { &group } else { config };
        let packed = of.text("format")?.and_then(|found| STORED.iter().find(|(name, _)| *name == found));
        let names = || STORED.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let &(_, packed) = packed.ok_or_else(|| of.wrong("format", format!("one of {}", names())))?;
        schemes.push(scheme(&weights, packed)?);
    }
    if schemes.is_empty() {
        return Err(config.wrong("config_groups", "a group with weights"));
    }
    Ok(Box::new(CompressedTensors { schemes }))
}

fn scheme(weights: &Config, packed: bool) -> Result<Scheme, CheckpointError> {
    let integers = weights.word_or("type", &[("int", true), ("float", false)], true)?;
    let bits = integers::bits(weights, "num_bits")?;
    let kind = match (packed, integers, bits) {
        (true, true, bits) => Kind::Packed(bits),
        (true, false, _) => return Err(weights.wrong("type", "int, where codes are packed")),
        (false, _, Bits::Eight) => Kind::Bytes,
        (false, _, Bits::Four) => return Err(weights.wrong("num_bits", "8, where codes are not packed")),
    };
    let size = group_size(weights, "group_size")?;
    let silent = if size.is_some() { "group" } else { "tensor" };
    let strategy = weights.text("strategy")?.unwrap_or(silent);
    let shared = match (strategy, size) {
        ("tensor", _) => Shared::Tensor,
        ("channel", _) | ("group", None) => Shared::Row,
        ("group", Some(size)) => Shared::Group(size),
        ("block", _) => {
            let block = weights.get("block_structure").and_then(sizes);
            Shared::Block(block.ok_or_else(|| weights.wrong("block_structure", "a list of two sizes"))?)
        }
        _ => return Err(weights.wrong("strategy", "one of tensor, channel, group, block")),
    };
    let symmetric = weights.flag_or("symmetric", true)?;
    if kind == Kind::Bytes && !symmetric {
        return Err(weights.wrong("symmetric", "true, where codes are not packed"));
    }
    Ok(Scheme { kind, shared, symmetric })
}

impl Method for CompressedTensors {
    fn keys(&self, name: &str) -> Vec<String> {
        vec![name.to_owned(), beside(name, "weight_packed")]
    }

    fn find(&self, site: &Site<'_>) -> Result<Found, CheckpointError> {
        let scales = site.beside("weight_scale");
        let is_packed = site.checkpoint.tensor(site.name).is_none();
        let schemes = self.schemes.iter().filter(|scheme| (scheme.kind == Kind::Bytes) != is_packed);
        let schemes: Vec<&Scheme> = schemes.collect();
        match schemes.as_slice() {
            [] => Err(site.wrong(
                if is_packed { "packed codes" } else { "codes of a byte each" },
                "what a group of config_groups says",
            )),
            [first, ..] if is_packed => {
                // Several groups differ in the sizes of their parts.
                let fits = |scheme: &&&Scheme| packed(site, scheme).is_ok();
                packed(site, schemes.iter().find(fits).unwrap_or(first))
            }
            schemes => {
                let shared: Vec<Shared> = schemes.iter().map(|scheme| scheme.shared).collect();
                bytes::find(site, scales, &shared, IDLE)
            }
        }
    }

    fn unused(&self) -> &'static [&'static str] {
        CACHE_SCALES
    }
}

/// Finds a weight whose codes are packed.
fn packed(site: &Site<'_>, scheme: &Scheme) -> Result<Found, CheckpointError> {
    let &Site { checkpoint, rows, columns, .. } = site;
    let bits = match scheme.kind {
        Kind::Packed(bits) => bits,
        Kind::Bytes => Bits::Eight,
    };
    let per = bits.per_word();
    let (size, of_scales): (usize, &[&[usize]]) = match scheme.shared {
        Shared::Tensor => (columns, &[&[1], &[], &[1, 1]]),
        Shared::Row => (columns, &[&[rows, 1], &[rows]]),
        Shared::Group(size) => (size, &[&[rows, columns.div_ceil(size)]]),
        Shared::Block(_) => return Err(site.wrong("blocks of packed codes", "groups of columns")),
    };
    let groups = columns.div_ceil(size);
    let names = ["weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"];
    let [weight, scales, shape, zeros, index] = names.map(|name| site.beside(name));
    part(checkpoint, &weight, &[StoredType::I32], &[&[rows, columns.div_ceil(per)]])?;
    let stored_scales = part(checkpoint, &scales, FLOATS, of_scales)?;
    if checkpoint.tensor(&shape).is_some() {
        let stored = part(checkpoint, &shape, INTEGERS, &[&[2]])?;
        for (at, expected) in [rows, columns].into_iter().enumerate() {
            if integer(&stored, at) != expected as i64 {
                return Err(wrong_element(&stored, at, integer(&stored, at), expected.to_string()));
            }
        }
    }
    let has_zeros = !scheme.symmetric;
    if has_zeros {
        part(checkpoint, &zeros, &[StoredType::I32], &[&[rows.div_ceil(per), groups]])?;
    }
    let order = match checkpoint.tensor(&index) {
        Some(_) => {
            let stored = part(checkpoint, &index, INTEGERS, &[&[columns]])?;
            // Without activation order it may be there, filled with -1.
            let idle = (0..columns).all(|column| integer(&stored, column) == -1);
            if idle { None } else { order(&stored, columns, size)? }
        }
        None => None,
    };
    let zeros_are = if has_zeros { Zeros::Any } else { Zeros::Middle };
    let format = integers::format(site, bits, site.group(Some(size))?, zeros_are, &stored_scales)?;
    let idle = IDLE.iter().map(|idle| site.beside(idle));
    let all = [&weight, &scales, &shape, &zeros, &index].into_iter().cloned().chain(idle);
    let parts = all.filter(|name| checkpoint.tensor(name).is_some()).collect();
    let places = places(order.as_deref(), columns);
    let one_scale = scheme.shared == Shared::Tensor;
    let zeros = has_zeros.then_some(zeros);
    let layout = Box::new(Stored { weight, scales, zeros, places, groups, bits, one_scale, format });
    Ok(Found { format, order, parts, layout })
}

#[derive(Debug)]
struct Stored {
    weight: String,
    scales: String,
    zeros: Option<String>,
    /// Where each column stands.
    places: Vec<usize>,
    groups: usize,
    bits: Bits,
    /// The scale is that of the tensor.
    one_scale: bool,
    format: Format,
}

impl Layout for Stored {
    fn rows(&self, checkpoint: &Checkpoint, rows: Range<usize>) -> Result<Rows, CheckpointError> {
        let (columns, per) = (self.places.len(), self.bits.per_word());
        let line = columns.div_ceil(per);
        let weight = again(checkpoint, &self.weight)?;
        let mut codes = vec![0; rows.len() * columns];
        for (row, codes) in rows.clone().zip(codes.chunks_mut(columns.max(1))) {
            for (word, places) in words(&weight, row * line, line).zip(self.places.chunks(per)) {
                for (n, place) in places.iter().enumerate() {
                    codes[*place] = self.bits.code(word, n);
                }
            }
        }
        let stored_scales = again(checkpoint, &self.scales)?;
        let stored_zeros = match &self.zeros {
            Some(zeros) => Some(again(checkpoint, zeros)?),
            None => None,
        };
        let (mut scales, mut zeros) = (Vec::new(), Vec::new());
        for row in rows {
            for group in 0..self.groups {
                scales.push(scale(&stored_scales, if self.one_scale { 0 } else { row * self.groups + group })?);
                zeros.push(match &stored_zeros {
                    Some(stored) => self.bits.code(word(stored, row / per * self.groups + group), row % per),
                    None => self.bits.middle(),
                });
            }
        }
        Ok(integers::rows(self.format, codes, scales, zeros, columns))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn refusal(config: &Value) -> String {
        let config = Config::parse("config.json".as_ref(), &config.to_string()).unwrap();
        read(&config).unwrap_err().to_string()
    }

    #[test]
    fn settings_that_are_not_supported() {
        let with =
            |weights: Value| json!({"format": "pack-quantized", "config_groups": {"group_0": {"weights": weights}}});
        assert!(refusal(&json!({})).contains("config_groups"));
        assert!(refusal(&json!({"config_groups": {}})).contains("a group with weights"));
        assert!(refusal(&json!({"format": "x", "config_groups": {"a": {"weights": {}}}})).contains("pack-quantized"));
        assert!(refusal(&with(json!({"num_bits": 3}))).contains("num_bits: found 3, expected 4 or 8"));
        assert!(refusal(&with(json!({"num_bits": 4, "type": "float"}))).contains("type"));
        assert!(refusal(&with(json!({"num_bits": 4, "strategy": "token"}))).contains("tensor, channel, group, block"));
        assert!(refusal(&with(json!({"num_bits": 8, "strategy": "block"}))).contains("block_structure"));
        let sparse = json!({"sparsity_config": {"format": "sparse-24-bitmask"}, "config_groups": {}});
        assert!(refusal(&sparse).contains("sparsity_config.format"));
    }
}
