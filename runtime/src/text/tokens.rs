//! Texts to ids and back: the plan's own tokenizer.

use std::sync::Arc;

use tokenizers::{PostProcessor, Tokenizer, TruncationParams};
use warpweft_plan::{Assets, OutputKind};

use super::template::Template;
use crate::RuntimeError;
use crate::model::{Embeddings, Engine};

/// A tokenizer that pads nothing, and the chat template when it has been asked for.
pub(crate) struct Text {
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(super) template: Option<Template>,
}

impl Text {
    /// Reads tokenizer.json. What it says of padding and truncation is ignored: a ragged batch needs no padding,
    /// and sentence-transformers cuts to the model's own length. Without `max_tokens` nothing is cut.
    fn new(json: &str, max_tokens: Option<u32>) -> Result<Text, RuntimeError> {
        let refused = |e: tokenizers::Error| RuntimeError::Tokenizer(e.to_string());
        let mut tokenizer: Tokenizer = json.parse().map_err(refused)?;
        tokenizer.with_padding(None);
        let truncation = truncation(&tokenizer, max_tokens)?;
        tokenizer.with_truncation(truncation).map_err(refused)?;
        Ok(Text { tokenizer: Arc::new(tokenizer), template: None })
    }

    fn ids<S: AsRef<str> + Sync>(&self, texts: &[S], special: bool) -> Result<Vec<Vec<u32>>, RuntimeError> {
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        let encodings = self.tokenizer.encode_batch_fast(texts, special);
        let encodings = encodings.map_err(|e| RuntimeError::Text(e.to_string()))?;
        Ok(encodings.iter().map(|e| e.get_ids().to_vec()).collect())
    }
}

fn truncation(tokenizer: &Tokenizer, max_tokens: Option<u32>) -> Result<Option<TruncationParams>, RuntimeError> {
    let Some(max_tokens) = max_tokens else { return Ok(None) };
    let special = tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false));
    let max_length = max_tokens as usize;
    if max_length < special {
        let problem = format!("it adds {special} tokens, but texts have at most {max_length}");
        return Err(RuntimeError::Tokenizer(problem));
    }
    Ok(Some(TruncationParams { max_length, ..Default::default() }))
}

impl Engine {
    /// The plan's tokenizer, read when it is first needed.
    pub(crate) fn text(&mut self) -> Result<&mut Text, RuntimeError> {
        let text = match self.text.take() {
            Some(text) => text,
            None => {
                let json = self.file().assets().tokenizer();
                let json = json.ok_or_else(|| RuntimeError::Tokenizer(format!("it has no {}", Assets::TOKENIZER)))?;
                // A text that is continued must not be cut; a context that is too long is refused instead.
                let cut = self.ledgers.is_empty().then_some(self.plan().model.max_text_tokens);
                Text::new(json, cut)?
            }
        };
        Ok(self.text.insert(text))
    }

    /// The vector of each text, as [`Engine::run`] makes it of its ids.
    ///
    /// # Errors
    /// [`RuntimeError::Tokenizer`] if the plan has no tokenizer; as [`Engine::run`].
    pub async fn embed<S: AsRef<str> + Sync>(&mut self, texts: &[S]) -> Result<Embeddings, RuntimeError> {
        let ids = self.tokenize(texts)?;
        let vectors = self.run(OutputKind::Embedding, &ids).await?;
        Ok(Embeddings { vectors, tokens: ids.iter().map(Vec::len).collect() })
    }

    /// The ids of each text, special tokens included, cut to the model's length if the model makes vectors of texts.
    /// An empty text has the special tokens alone.
    ///
    /// # Errors
    /// [`RuntimeError::Tokenizer`] if the plan has no tokenizer, [`RuntimeError::Text`] if it refuses a text.
    pub fn tokenize<S: AsRef<str> + Sync>(&mut self, texts: &[S]) -> Result<Vec<Vec<u32>>, RuntimeError> {
        self.text()?.ids(texts, true)
    }

    /// The ids of one text. `special` adds what the tokenizer puts around a text; what a chat template has rendered
    /// has that already.
    ///
    /// # Errors
    /// As [`Engine::tokenize`].
    pub fn encode(&mut self, text: &str, special: bool) -> Result<Vec<u32>, RuntimeError> {
        Ok(self.text()?.ids(&[text], special)?.remove(0))
    }

    /// The text of ids, with or without special tokens.
    ///
    /// # Errors
    /// [`RuntimeError::Tokenizer`] if the plan has no tokenizer or it cannot do that.
    pub fn decode(&mut self, ids: &[u32], special: bool) -> Result<String, RuntimeError> {
        let tokenizer = &self.text()?.tokenizer;
        tokenizer.decode(ids, !special).map_err(|e| RuntimeError::Tokenizer(e.to_string()))
    }
}
