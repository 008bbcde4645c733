//! What the elements of a tensor are.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};
use warpweft_plan::DType;

use crate::formats::{Format, Group, UnknownFormat};

/// What the elements of a tensor are: numbers that stand each on its own, or rows of a quantized weight, of which only a
/// contraction, a gather and what cuts or joins rows can make something. Others read them through `dequantize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element {
    /// Numbers.
    Plain(DType),
    /// Codes and scales, never a format of floats.
    Quantized(Format),
}

impl Element {
    /// 32-bit floats, as activations are.
    pub const F32: Element = Element::Plain(DType::F32);

    /// The type of numbers; `None` of what is quantized.
    pub fn plain(self) -> Option<DType> {
        match self {
            Element::Plain(dtype) => Some(dtype),
            Element::Quantized(_) => None,
        }
    }

    /// How a weight of such elements is stored; `None` of ids.
    pub fn format(self) -> Option<Format> {
        match self {
            Element::Plain(dtype) => Format::of(dtype),
            Element::Quantized(format) => Some(format),
        }
    }

    /// It is a quantized format.
    pub fn is_quantized(self) -> bool {
        matches!(self, Element::Quantized(_))
    }

    /// Activations can be stored so: signed bytes and a scale for each row.
    pub fn is_activations(self) -> bool {
        self == Element::Quantized(Format::Int8(Group::Row))
    }

    /// They are signed bytes with scales, of weights or of activations.
    pub fn is_integers(self) -> bool {
        matches!(self, Element::Quantized(Format::Int8(_)))
    }

    /// Bytes of a row of `width` elements in a checkpoint or a graph's weight: numbers without padding.
    pub fn row_bytes(self, width: u64) -> u64 {
        match self {
            Element::Plain(dtype) => dtype.bytes() * width,
            Element::Quantized(format) => format.row_bytes(width as usize) as u64,
        }
    }

    /// Rows of `width` elements, little-endian, as f32.
    pub fn decode(self, bytes: &[u8], width: usize) -> Vec<f32> {
        let halves = || bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
        let words = || bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b));
        match self {
            Element::Plain(DType::F32) => words().map(f32::from_bits).collect(),
            Element::Plain(DType::U32) => words().map(|x| x as f32).collect(),
            Element::Plain(DType::F16) => halves().map(|h| f16::from_bits(h).to_f32()).collect(),
            Element::Plain(DType::BF16) => halves().map(|h| bf16::from_bits(h).to_f32()).collect(),
            Element::Quantized(format) => format.unpack(bytes, width),
        }
    }
}

impl From<DType> for Element {
    fn from(dtype: DType) -> Element {
        Element::Plain(dtype)
    }
}

impl From<Format> for Element {
    fn from(format: Format) -> Element {
        if format.is_quantized() { Element::Quantized(format) } else { Element::Plain(format.dtype()) }
    }
}

impl PartialEq<DType> for Element {
    fn eq(&self, other: &DType) -> bool {
        *self == Element::Plain(*other)
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Plain(dtype) => dtype.fmt(f),
            Element::Quantized(format) => format.fmt(f),
        }
    }
}

impl FromStr for Element {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Element, UnknownFormat> {
        match text.parse::<DType>() {
            Ok(dtype) => Ok(Element::Plain(dtype)),
            Err(_) => text.parse::<Format>().map(Element::from),
        }
    }
}
