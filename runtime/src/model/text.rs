//! Texts in: the plan's own tokenizer.

use tokenizers::{PostProcessor, Tokenizer, TruncationParams};
use warpweft_plan::{Assets, OutputKind};

use super::{Embeddings, Engine};
use crate::RuntimeError;

/// A tokenizer that cuts texts to the model's length and pads nothing.
pub(super) struct Text {
    tokenizer: Tokenizer,
}

impl Text {
    /// Reads tokenizer.json. What it says of padding and truncation is ignored: a ragged batch needs no padding,
    /// and sentence-transformers cuts to the model's own length.
    fn new(json: &str, max_tokens: u32) -> Result<Text, RuntimeError> {
        let refused = |e: tokenizers::Error| RuntimeError::Tokenizer(e.to_string());
        let mut tokenizer: Tokenizer = json.parse().map_err(refused)?;
        tokenizer.with_padding(None);
        let special = tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false));
        let max_length = max_tokens as usize;
        if max_length < special {
            let problem = format!("it adds {special} tokens, but texts have at most {max_length}");
            return Err(RuntimeError::Tokenizer(problem));
        }
        let truncation = TruncationParams { max_length, ..Default::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(refused)?;
        Ok(Text { tokenizer })
    }

    fn ids<S: AsRef<str> + Sync>(&self, texts: &[S]) -> Result<Vec<Vec<u32>>, RuntimeError> {
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let encodings = self.tokenizer.encode_batch_fast(texts, true);
        let encodings = encodings.map_err(|e| RuntimeError::Text(e.to_string()))?;
        Ok(encodings.iter().map(|e| e.get_ids().to_vec()).collect())
    }
}

impl Engine {
    /// The vector of each text, as [`Engine::run`] makes it of its ids.
    ///
    /// # Errors
    /// [`RuntimeError::Tokenizer`] if the plan has no tokenizer; as [`Engine::run`].
    pub async fn embed<S: AsRef<str> + Sync>(&mut self, texts: &[S]) -> Result<Embeddings, RuntimeError> {
        let ids = self.tokenize(texts)?;
        let vectors = self.run(OutputKind::Embedding, &ids).await?;
        Ok(Embeddings { vectors, tokens: ids.iter().map(Vec::len).collect() })
    }

    /// The ids of each text, special tokens included, cut to the model's length.
    /// An empty text has the special tokens alone.
    ///
    /// # Errors
    /// [`RuntimeError::Tokenizer`] if the plan has no tokenizer, [`RuntimeError::Text`] if it refuses a text.
    pub fn tokenize<S: AsRef<str> + Sync>(&mut self, texts: &[S]) -> Result<Vec<Vec<u32>>, RuntimeError> {
        let text = match self.text.take() {
            Some(text) => text,
            None => {
                let json = self.file().assets().tokenizer();
                let json = json.ok_or_else(|| RuntimeError::Tokenizer(format!("it has no {}", Assets::TOKENIZER)))?;
                Text::new(json, self.plan().model.max_text_tokens)?
            }
        };
        let ids = text.ids(texts);
        self.text = Some(text);
        ids
    }
}
