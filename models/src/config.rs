//! JSON files with typed access: every error names the field, what was found and what was expected.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{CheckpointError, clip};

/// The most layers of a model: several times more than any real one has.
pub const MAX_LAYERS: u32 = 4096;
/// The largest width (hidden size, inner size, heads): the product of two fits in 64 bits with room for bytes.
pub const MAX_WIDTH: u32 = 1 << 20;
/// The largest vocabulary or number of positions.
pub const MAX_ROWS: u32 = 1 << 27;

/// An object of a JSON file.
#[derive(Clone, Debug)]
pub struct Config {
    file: PathBuf,
    /// The objects around it, each with a dot behind.
    prefix: String,
    fields: Map<String, Value>,
}

impl Config {
    /// Parses the text of `file`, which has to be an object.
    ///
    /// # Errors
    /// When it is not.
    pub fn parse(file: &Path, text: &str) -> Result<Config, CheckpointError> {
        match parse_json(file, text)? {
            Value::Object(fields) => Ok(Config { file: file.to_owned(), prefix: String::new(), fields }),
            other => Err(CheckpointError::Field {
                file: file.to_owned(),
                field: "the whole file".to_owned(),
                found: describe(&other),
                expected: "an object".to_owned(),
            }),
        }
    }

    /// An element of a list in `file`, for which `place` stands in errors.
    pub(crate) fn element(file: &Path, place: &str, value: Value) -> Result<Config, CheckpointError> {
        match value {
            Value::Object(fields) => Ok(Config { file: file.to_owned(), prefix: format!("{place}."), fields }),
            other => Err(CheckpointError::Field {
                file: file.to_owned(),
                field: place.to_owned(),
                found: describe(&other),
                expected: "an object".to_owned(),
            }),
        }
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// `field` with the objects around it.
    pub(crate) fn place(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    /// The names of all fields.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }

    /// The value of `field`; `None` if it is absent or null.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// Whether `field` is there and null.
    pub fn is_null(&self, field: &str) -> bool {
        self.fields.get(field).is_some_and(Value::is_null)
    }

    /// The error that `field` is not `expected`.
    pub fn wrong(&self, field: &str, expected: impl Into<String>) -> CheckpointError {
        CheckpointError::Field {
            file: self.file.clone(),
            field: self.place(field),
            found: self.fields.get(field).map_or_else(|| "nothing".to_owned(), describe),
            expected: expected.into(),
        }
    }

    /// A size from 1 to `max`.
    ///
    /// # Errors
    /// When it is absent, no integer, zero, or greater.
    pub fn size(&self, field: &str, max: u32) -> Result<u32, CheckpointError> {
        self.get(field)
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| (1..=max).contains(n))
            .ok_or_else(|| self.wrong(field, format!("an integer from 1 to {max}")))
    }

    /// A size from 1 to `max`, or `default` if it is absent.
    ///
    /// # Errors
    /// As [`Config::size`], except for absence.
    pub fn size_or(&self, field: &str, max: u32, default: u32) -> Result<u32, CheckpointError> {
        self.get(field).map_or(Ok(default), |_| self.size(field, max))
    }

    /// An index below `limit`, or `default` if it is absent.
    ///
    /// # Errors
    /// When it is no integer or not below `limit`.
    pub fn index_or(&self, field: &str, limit: u32, default: u32) -> Result<u32, CheckpointError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        value
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .filter(|&n| n < limit)
            .ok_or_else(|| self.wrong(field, format!("an integer below {limit}")))
    }

    /// A positive, finite number, or `default` if it is absent.
    ///
    /// # Errors
    /// When it is something else.
    pub fn positive_or(&self, field: &str, default: f64) -> Result<f64, CheckpointError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        value
            .as_f64()
            .filter(|x| x.is_finite() && *x > 0.0)
            .ok_or_else(|| self.wrong(field, "a positive, finite number"))
    }

    /// A list of `len` positive, finite numbers.
    ///
    /// # Errors
    /// When it is absent or something else.
    pub fn positives(&self, field: &str, len: usize) -> Result<Vec<f32>, CheckpointError> {
        let number = |value: &Value| value.as_f64().map(|x| x as f32).filter(|x| x.is_finite() && *x > 0.0);
        self.get(field)
            .and_then(Value::as_array)
            .filter(|list| list.len() == len)
            .and_then(|list| list.iter().map(number).collect())
            .ok_or_else(|| self.wrong(field, format!("a list of {len} positive, finite numbers")))
    }

    /// One id or a list of them; none if it is absent.
    ///
    /// # Errors
    /// When it is something else.
    pub fn ids(&self, field: &str) -> Result<Vec<i64>, CheckpointError> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let ids: Option<Vec<i64>> = values.iter().map(Value::as_i64).collect();
        ids.ok_or_else(|| self.wrong(field, "an id or a list of ids"))
    }

    /// True or false, or `default` if it is absent.
    ///
    /// # Errors
    /// When it is something else.
    pub fn flag_or(&self, field: &str, default: bool) -> Result<bool, CheckpointError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(field, "true or false"))
    }

    /// A text; `None` if it is absent.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text(&self, field: &str) -> Result<Option<&str>, CheckpointError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(field, "a text"))
    }

    /// One of the words of `table`, or `default` if the field is absent.
    ///
    /// # Errors
    /// When it is something else; the error lists the words.
    pub fn word_or<T: Copy>(&self, field: &str, table: &[(&str, T)], default: T) -> Result<T, CheckpointError> {
        let Some(found) = self.text(field)? else { return Ok(default) };
        table.iter().find(|(word, _)| *word == found).map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
            self.wrong(field, format!("one of {}", words.join(", ")))
        })
    }

    /// An object inside this one; `None` if it is absent.
    ///
    /// # Errors
    /// When it is something else.
    pub fn object(&self, field: &str) -> Result<Option<Config>, CheckpointError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Config {
                file: self.file.clone(),
                prefix: format!("{}{field}.", self.prefix),
                fields: fields.clone(),
            })),
            Some(_) => Err(self.wrong(field, "an object")),
        }
    }

    /// Fails unless `field` is absent or `expected`, where another value means a model that is not supported.
    ///
    /// # Errors
    /// When it is something else.
    pub fn only_text(&self, field: &str, expected: &str) -> Result<(), CheckpointError> {
        match self.text(field)? {
            Some(found) if found != expected => Err(self.wrong(field, format!("{expected:?}"))),
            _ => Ok(()),
        }
    }

    /// Fails unless `field` is absent or `expected`, where the other value means a model that is not supported.
    ///
    /// # Errors
    /// When it is something else.
    pub fn only_flag(&self, field: &str, expected: bool) -> Result<(), CheckpointError> {
        if self.flag_or(field, expected)? == expected { Ok(()) } else { Err(self.wrong(field, expected.to_string())) }
    }
}

/// Parses the text of `file`.
pub(crate) fn parse_json(file: &Path, text: &str) -> Result<Value, CheckpointError> {
    serde_json::from_str(text).map_err(|source| CheckpointError::Json { file: file.to_owned(), source })
}

/// A value as an error shows it.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(items) => format!("a list of {}", items.len()),
        other => clip(&other.to_string()),
    }
}
