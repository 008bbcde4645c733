//! Rotary positions: which columns turn how fast, in all spellings of config.json.

use std::f64::consts::PI;

use crate::config::{Config, MAX_ROWS};
use crate::error::CheckpointError;

/// How the frequencies of a longer context are made of those of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// They are not changed.
    Default,
    /// All are divided by one factor.
    Linear,
    /// The base grows with the length, once that exceeds `max_position_embeddings`.
    Dynamic,
    /// Low frequencies are divided, high ones kept, those between interpolated.
    Llama3,
    /// As `Llama3`, with a ramp over the columns, and a factor on sine and cosine.
    Yarn,
    /// A factor for each frequency: one list for short contexts, another for long ones.
    LongRope,
}

/// The names of [`Kind`] in most families.
pub(super) const KINDS: &[(&str, Kind)] = &[
    ("default", Kind::Default),
    ("linear", Kind::Linear),
    ("dynamic", Kind::Dynamic),
    ("llama3", Kind::Llama3),
    ("yarn", Kind::Yarn),
    ("longrope", Kind::LongRope),
];

/// What a family knows of its rotary positions before `rope_parameters` is read.
pub(super) struct Defaults<'a> {
    /// Names of [`Kind`] that the family accepts.
    pub(super) kinds: &'a [(&'a str, Kind)],
    /// The base of the frequencies.
    pub(super) theta: f64,
    /// Columns of a head.
    pub(super) head_width: u32,
    /// The part of a head's columns that turns, from the first on.
    pub(super) part: f64,
    /// Rows that a sequence may have.
    pub(super) max_positions: u32,
    /// Rows of a sequence in training.
    pub(super) original: u32,
}

/// Rotary positions.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rope {
    /// One for each pair of columns that turns.
    pub(super) frequencies: Vec<f32>,
    /// Sine and cosine are multiplied by this.
    pub(super) scale: f32,
    /// Rows that a sequence may have with these frequencies.
    pub(super) max_positions: u32,
}

/// The object that describes rotary positions: `rope_scaling` in transformers 4, `rope_parameters` in 5.
/// `None` where there is nothing to describe.
pub(super) fn parameters(config: &Config) -> Result<Option<Config>, CheckpointError> {
    match config.object("rope_scaling")? {
        Some(scaling) => Ok(Some(scaling)),
        None => config.object("rope_parameters"),
    }
}

/// `base^(-2i/columns)`, one for each pair of columns, rounded as transformers rounds them.
pub(super) fn frequencies(base: f64, columns: u32) -> Vec<f32> {
    powers(base, columns).map(|power| 1.0 / power).collect()
}

fn powers(base: f64, columns: u32) -> impl Iterator<Item = f32> {
    (0..columns.div_ceil(2)).map(move |i| base.powf(f64::from((2 * i) as f32 / columns as f32)) as f32)
}

/// Reads `parameters`, an object of `config` that [`parameters`] found.
///
/// # Errors
/// When its kind is not among the family's, or when a number is missing or absurd.
pub(super) fn read(
    config: &Config,
    parameters: Option<&Config>,
    defaults: &Defaults<'_>,
) -> Result<Rope, CheckpointError> {
    let part = parameters.map_or(Ok(defaults.part), |p| p.positive_or("partial_rotary_factor", defaults.part))?;
    let columns = (f64::from(defaults.head_width) * part) as u32;
    if part > 1.0 || columns == 0 || columns.next_multiple_of(2) > defaults.head_width {
        let expected = format!("rotary columns in pairs, at most the {} of a head", defaults.head_width);
        return Err(config.wrong("head_dim", expected));
    }
    let theta = parameters.map_or(Ok(defaults.theta), |p| p.positive_or("rope_theta", defaults.theta))?;
    let plain = || frequencies(theta, columns);
    let mut rope = Rope { frequencies: plain(), scale: 1.0, max_positions: defaults.max_positions };
    let Some(parameters) = parameters else { return Ok(rope) };
    let field = if parameters.get("rope_type").is_some() { "rope_type" } else { "type" };
    let kind = parameters.word_or(field, defaults.kinds, Kind::Default)?;
    let scaled = Scaled { config, parameters, defaults, theta, columns };
    match kind {
        // The base of `Dynamic` is that of training as long as the context is.
        Kind::Default | Kind::Dynamic => {}
        Kind::Linear => {
            let factor = scaled.required("factor")?;
            rope.frequencies.iter_mut().for_each(|f| *f /= factor as f32);
        }
        Kind::Llama3 => rope.frequencies = scaled.llama3(&rope.frequencies)?,
        Kind::Yarn => (rope.frequencies, rope.scale) = scaled.yarn()?,
        Kind::LongRope => {
            (rope.frequencies, rope.scale) = scaled.short()?;
            // Longer sequences take the other list for all their rows, also for those that are in the cache.
            rope.max_positions = rope.max_positions.min(scaled.original()?);
        }
    }
    if rope.frequencies.iter().chain([&rope.scale]).all(|x| x.is_finite()) {
        Ok(rope)
    } else {
        Err(parameters.wrong(field, "numbers that give finite frequencies"))
    }
}

struct Scaled<'a> {
    config: &'a Config,
    parameters: &'a Config,
    defaults: &'a Defaults<'a>,
    theta: f64,
    columns: u32,
}

impl Scaled<'_> {
    fn required(&self, field: &str) -> Result<f64, CheckpointError> {
        match self.optional(field)? {
            Some(x) => Ok(x),
            None => Err(self.parameters.wrong(field, "a positive, finite number")),
        }
    }

    fn optional(&self, field: &str) -> Result<Option<f64>, CheckpointError> {
        self.parameters.get(field).map(|_| self.parameters.positive_or(field, 1.0)).transpose()
    }

    /// The rows of a sequence in training; a value at the top of config.json comes first.
    fn original(&self) -> Result<u32, CheckpointError> {
        const FIELD: &str = "original_max_position_embeddings";
        let nested = self.parameters.size_or(FIELD, MAX_ROWS, self.defaults.original)?;
        self.config.size_or(FIELD, MAX_ROWS, nested)
    }

    /// How much longer a sequence may be than in training.
    fn factor(&self) -> Result<f64, CheckpointError> {
        let ratio = f64::from(self.defaults.max_positions) / f64::from(self.original()?);
        Ok(self.optional("factor")?.unwrap_or(ratio))
    }

    fn llama3(&self, plain: &[f32]) -> Result<Vec<f32>, CheckpointError> {
        let factor = self.required("factor")?;
        let (low, high) = (self.required("low_freq_factor")?, self.required("high_freq_factor")?);
        let original = f64::from(self.original()?);
        let one = |&frequency: &f32| {
            let f = f64::from(frequency);
            let turns = original * f / (2.0 * PI);
            if turns > high {
                return frequency;
            }
            if turns < low {
                return (f / factor) as f32;
            }
            let smooth = (turns - low) / (high - low);
            ((1.0 - smooth) * f / factor + smooth * f) as f32
        };
        Ok(plain.iter().map(one).collect())
    }

    fn yarn(&self) -> Result<(Vec<f32>, f32), CheckpointError> {
        let factor = self.factor()?;
        let (fast, slow) = (self.optional("beta_fast")?.unwrap_or(32.0), self.optional("beta_slow")?.unwrap_or(1.0));
        let (columns, original) = (f64::from(self.columns), f64::from(self.original()?));
        // The column whose frequency turns that often over the context of training.
        let column = |turns: f64| columns * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (column(fast), column(slow));
        if self.parameters.flag_or("truncate", true)? {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(columns - 1.0));
        if low == high {
            high += 0.001;
        }
        let frequencies = (0..).zip(powers(self.theta, self.columns)).map(|(i, power): (u32, f32)| {
            let ramp = ((f64::from(i) - low) / (high - low)).clamp(0.0, 1.0);
            let power = f64::from(power);
            (ramp / (factor * power) + (1.0 - ramp) / power) as f32
        });
        Ok((frequencies.collect(), self.yarn_scale(factor)? as f32))
    }

    fn yarn_scale(&self, factor: f64) -> Result<f64, CheckpointError> {
        let scale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
        if let Some(given) = self.optional("attention_factor")? {
            return Ok(given);
        }
        Ok(match (self.optional("mscale")?, self.optional("mscale_all_dim")?) {
            (Some(one), Some(all)) => scale(one) / scale(all),
            _ => scale(1.0),
        })
    }

    /// The frequencies of sequences that are no longer than those of training.
    fn short(&self) -> Result<(Vec<f32>, f32), CheckpointError> {
        let pairs = self.columns.div_ceil(2) as usize;
        let factors = self.parameters.positives("short_factor", pairs)?;
        // Not used, but a model without it would be another one.
        self.parameters.positives("long_factor", pairs)?;
        let frequencies = powers(self.theta, self.columns).zip(factors).map(|(power, factor)| 1.0 / (factor * power));
        let (factor, original) = (self.factor()?, f64::from(self.original()?));
        let scale = match self.optional("attention_factor")? {
            Some(given) => given,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / original.ln()).sqrt(),
        };
        Ok((frequencies.collect(), scale as f32))
    }
}
