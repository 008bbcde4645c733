//! The files that sentence-transformers adds to a checkpoint: how rows become one vector, and how long a text may be.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::checkpoint::{check_folder, join_inside, read_optional};
use crate::config::{Config, MAX_ROWS, MAX_WIDTH, describe, parse_json};
use crate::error::{CheckpointError, clip};

/// How the rows of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The mean of all rows.
    Mean,
    /// The first row.
    First,
    /// The greatest value of each column.
    Max,
}

/// What a folder says about embeddings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// The folder that holds config.json and the weights: the folder itself, or one inside it in old checkpoints.
    pub transformer: PathBuf,
    /// Whether the folder has a modules.json; without one, the mean is meant.
    pub declared: bool,
    /// How rows become a vector.
    pub pooling: Pooling,
    /// Whether the vector is divided by its length.
    pub normalize: bool,
    /// The width of a vector, and the file that says so, if one does.
    pub width: Option<(u32, PathBuf)>,
    /// The most rows of a text; `None` if the folder does not say.
    pub max_tokens: Option<u32>,
}

impl Sentence {
    /// Fails unless the model's hidden states, of `width` columns, are what the pooling module was made for.
    pub(crate) fn check_width(&self, width: u32) -> Result<(), CheckpointError> {
        match &self.width {
            Some((found, file)) if *found != width => Err(CheckpointError::Field {
                file: file.clone(),
                field: WIDTH.to_owned(),
                found: found.to_string(),
                expected: format!("the hidden size {width}"),
            }),
            _ => Ok(()),
        }
    }
}

/// The names under which sentence-transformers looks for the transformer's own settings.
const SETTINGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// Reads `modules.json`, the pooling module and the transformer's settings.
///
/// A folder without `modules.json` is read as sentence-transformers does: mean pooling, not normalized.
///
/// # Errors
/// When a file is damaged, or asks for a module or a pooling that is not supported.
pub fn read_sentence(folder: &Path) -> Result<Sentence, CheckpointError> {
    check_folder(folder)?;
    let mut sentence = Sentence {
        transformer: folder.to_owned(),
        declared: false,
        pooling: Pooling::Mean,
        normalize: false,
        width: None,
        max_tokens: None,
    };
    if let Some(text) = read_optional(folder, "modules.json")? {
        sentence.declared = true;
        read_modules(folder, &text, &mut sentence)?;
    }
    sentence.max_tokens = read_max_tokens(&sentence.transformer)?;
    Ok(sentence)
}

fn read_modules(folder: &Path, text: &str, sentence: &mut Sentence) -> Result<(), CheckpointError> {
    let file = folder.join("modules.json");
    let modules = match parse_json(&file, text)? {
        Value::Array(modules) => modules,
        other => {
            return Err(CheckpointError::Field {
                file,
                field: "the whole file".to_owned(),
                found: describe(&other),
                expected: "a list of modules".to_owned(),
            });
        }
    };
    let mut kinds = Vec::new();
    for (i, module) in modules.into_iter().enumerate() {
        let module = Config::element(&file, &format!("module {i}"), module)?;
        let kind = module.text("type")?.unwrap_or_default();
        let kind = kind.rsplit('.').next().unwrap_or_default();
        let path = module.text("path")?.unwrap_or_default();
        let inside = || {
            join_inside(folder, path).ok_or_else(|| module.wrong("path", "the name of a folder inside the checkpoint"))
        };
        match (kinds.as_slice(), kind) {
            ([], "Transformer") => {
                kinds.push("Transformer");
                sentence.transformer = inside()?;
            }
            (["Transformer"], "Pooling") => {
                kinds.push("Pooling");
                let config = pooling_config(&inside()?)?;
                sentence.pooling = read_pooling(&config)?;
                if config.get(WIDTH).is_some() {
                    sentence.width = Some((config.size(WIDTH, MAX_WIDTH)?, config.file().to_owned()));
                }
            }
            (["Transformer", "Pooling"], "Normalize") => {
                kinds.push("Normalize");
                sentence.normalize = true;
            }
            _ => return Err(module.wrong("type", "Transformer, then Pooling, then perhaps Normalize")),
        }
    }
    Ok(())
}

/// The poolings by their names in `1_Pooling/config.json`; those without a value are known but not supported.
const POOLINGS: [(&str, &str, Option<Pooling>); 6] = [
    ("pooling_mode_mean_tokens", "mean", Some(Pooling::Mean)),
    ("pooling_mode_cls_token", "cls", Some(Pooling::First)),
    ("pooling_mode_max_tokens", "max", Some(Pooling::Max)),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", None),
    ("pooling_mode_weightedmean_tokens", "weightedmean", None),
    ("pooling_mode_lasttoken", "lasttoken", None),
];

/// The field of the pooling module that repeats the hidden size.
const WIDTH: &str = "word_embedding_dimension";

fn pooling_config(folder: &Path) -> Result<Config, CheckpointError> {
    match read_optional(folder, "config.json")? {
        Some(text) => Config::parse(&folder.join("config.json"), &text),
        None => Err(CheckpointError::NoPooling { folder: folder.to_owned() }),
    }
}

fn read_pooling(config: &Config) -> Result<Pooling, CheckpointError> {
    if config.get("pooling_mode").is_some() {
        let table: Vec<(&str, Pooling)> =
            POOLINGS.iter().filter_map(|(_, word, pooling)| Some((*word, (*pooling)?))).collect();
        return config.word_or("pooling_mode", &table, Pooling::Mean);
    }
    let mut chosen = None;
    for (field, _, pooling) in POOLINGS {
        // sentence-transformers takes the mean where a config names no mode at all.
        let default = field == "pooling_mode_mean_tokens" && POOLINGS.iter().all(|(f, ..)| config.get(f).is_none());
        if !config.flag_or(field, default)? {
            continue;
        }
        let pooling =
            pooling.ok_or_else(|| config.wrong(field, "false: only mean, cls and max pooling are supported"))?;
        if chosen.replace(pooling).is_some() {
            return Err(config.wrong(field, "false: only one pooling mode at a time is supported"));
        }
    }
    chosen.ok_or_else(|| config.wrong("pooling_mode_mean_tokens", "true, here or for another pooling mode"))
}

/// `max_seq_length` of the settings, or else `model_max_length` of the tokenizer, which is huge where there is no limit.
fn read_max_tokens(folder: &Path) -> Result<Option<u32>, CheckpointError> {
    for name in SETTINGS {
        let Some(text) = read_optional(folder, name)? else { continue };
        let config = Config::parse(&folder.join(name), &text)?;
        if config.flag_or("do_lower_case", false)? && !lower_cases(folder)? {
            return Err(config.wrong("do_lower_case", "false, or a tokenizer.json that lower-cases by itself"));
        }
        if config.get("max_seq_length").is_some() {
            return config.size("max_seq_length", MAX_ROWS).map(Some);
        }
        break;
    }
    let Some(text) = read_optional(folder, "tokenizer_config.json")? else { return Ok(None) };
    let config = Config::parse(&folder.join("tokenizer_config.json"), &text)?;
    let limit = config.positive_or("model_max_length", f64::from(MAX_ROWS))?;
    Ok((limit >= 1.0 && limit < f64::from(MAX_ROWS)).then_some(limit as u32))
}

/// Whether the tokenizer lower-cases all text, so that doing it before changes nothing.
fn lower_cases(folder: &Path) -> Result<bool, CheckpointError> {
    let Some(text) = read_tokenizer(folder)? else { return Ok(false) };
    let tokenizer = parse_json(&folder.join("tokenizer.json"), &text)?;
    let normalizer = &tokenizer["normalizer"];
    let steps = normalizer["normalizers"].as_array().map_or(std::slice::from_ref(normalizer), Vec::as_slice);
    Ok(steps.iter().any(|step| step["type"] == "Lowercase" || step["lowercase"] == Value::Bool(true)))
}

/// The text of `tokenizer.json`; `None` if the folder has none.
///
/// # Errors
/// When it is no JSON.
pub fn read_tokenizer(folder: &Path) -> Result<Option<String>, CheckpointError> {
    let Some(text) = read_optional(folder, "tokenizer.json")? else { return Ok(None) };
    let file = folder.join("tokenizer.json");
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) if text.trim_start().starts_with('{') => Ok(Some(text)),
        Ok(_) => Err(CheckpointError::Field {
            file,
            field: "the whole file".to_owned(),
            found: clip(&text),
            expected: "an object".to_owned(),
        }),
        Err(source) => Err(CheckpointError::Json { file, source }),
    }
}
