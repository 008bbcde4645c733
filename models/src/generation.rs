//! The files that say how text is made: end-of-text ids, chat template, tokenizer.

use std::path::Path;

use serde_json::Value;
use warpweft_plan::Assets;

use crate::checkpoint::read_optional;
use crate::config::Config;
use crate::error::CheckpointError;
use crate::sentence::read_tokenizer;

const GENERATION_CONFIG: &str = "generation_config.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The ids that end a text: `eos_token_id` of generation_config.json, or else of config.json. Ids that the vocabulary does
/// not have never come, so they are left out.
pub(crate) fn read_eos_ids(folder: &Path, config: &Config, vocab_size: u32) -> Result<Vec<u32>, CheckpointError> {
    const FIELD: &str = "eos_token_id";
    let generation = read_object(folder, GENERATION_CONFIG)?.map(|(_, generation)| generation);
    let ids = match generation.filter(|generation| generation.get(FIELD).is_some()) {
        Some(generation) => generation.ids(FIELD)?,
        None => config.ids(FIELD)?,
    };
    let mut ids: Vec<u32> =
        ids.into_iter().filter_map(|id| u32::try_from(id).ok()).filter(|&id| id < vocab_size).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The texts that travel with the model, as far as the folder has them.
pub(crate) fn read_assets(folder: &Path) -> Result<Assets, CheckpointError> {
    let mut assets = Assets::default();
    if let Some(text) = read_tokenizer(folder)? {
        assets.insert(Assets::TOKENIZER, text);
    }
    if let Some((text, _)) = read_object(folder, GENERATION_CONFIG)? {
        assets.insert(Assets::GENERATION_CONFIG, text);
    }
    let tokenizer = read_object(folder, TOKENIZER_CONFIG)?;
    let template = match read_optional(folder, "chat_template.jinja")? {
        Some(text) => Some(text),
        None => match &tokenizer {
            Some((_, config)) => chat_template(config)?,
            None => None,
        },
    };
    if let Some(template) = template {
        assets.insert(Assets::CHAT_TEMPLATE, template);
    }
    if let Some((text, _)) = tokenizer {
        assets.insert(Assets::TOKENIZER_CONFIG, text);
    }
    Ok(assets)
}

/// `chat_template`: one template, or a list of named ones, of which the one called `default` counts.
fn chat_template(config: &Config) -> Result<Option<String>, CheckpointError> {
    const FIELD: &str = "chat_template";
    match config.get(FIELD) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(list)) => {
            let named = |entry: &&Value| entry["name"] == "default";
            let template = list.iter().find(named).and_then(|entry| entry["template"].as_str());
            template.map(|text| Some(text.to_owned())).ok_or_else(|| {
                config.wrong(FIELD, "a template, or a list of templates of which one has the name \"default\"")
            })
        }
        Some(_) => Err(config.wrong(FIELD, "a template or a list of templates")),
    }
}

/// The text of a JSON file and the object in it; `None` if there is no such file.
fn read_object(folder: &Path, name: &str) -> Result<Option<(String, Config)>, CheckpointError> {
    let Some(text) = read_optional(folder, name)? else { return Ok(None) };
    let config = Config::parse(&folder.join(name), &text)?;
    Ok(Some((text, config)))
}
