//! Text as its tokens come.

use std::sync::Arc;

use tokenizers::Tokenizer;

use crate::RuntimeError;

/// Tokens before a text that decide whether it begins with a space.
const BEFORE: usize = 6;
/// Tokens that are held back at the most; a character has at most four bytes.
const HELD: usize = 16;
/// Stands for bytes that are no character, or not yet.
const HALF: char = '\u{fffd}';

/// Turns tokens into text, never half a character. What a token stands for depends on those before it (the space in
/// front of a word, bytes of one character), so a window of tokens is decoded with and without the new ones; the text
/// is the difference.
pub(crate) struct Stream {
    tokenizer: Arc<Tokenizer>,
    window: Vec<u32>,
    /// Tokens of the window whose text has been handed out.
    told: usize,
}

impl Stream {
    /// A text that follows on `context`.
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, context: &[u32]) -> Stream {
        let window = context[context.len().saturating_sub(BEFORE)..].to_vec();
        Stream { tokenizer, told: window.len(), window }
    }

    /// The text that a token completes; may be empty.
    pub(crate) fn push(&mut self, id: u32) -> Result<String, RuntimeError> {
        self.window.push(id);
        let text = self.untold()?;
        if text.is_empty() || (text.ends_with(HALF) && self.window.len() - self.told < HELD) {
            return Ok(String::new());
        }
        self.window.drain(..self.told);
        self.told = self.window.len();
        Ok(text)
    }

    /// What was held back.
    pub(crate) fn finish(&mut self) -> Result<String, RuntimeError> {
        let text = self.untold()?;
        self.told = self.window.len();
        Ok(text)
    }

    fn untold(&self) -> Result<String, RuntimeError> {
        let before = self.decode(&self.window[..self.told])?;
        let all = self.decode(&self.window)?;
        match all.strip_prefix(&before) {
            Some(text) => Ok(text.into()),
            // The new tokens change what was before, as bytes do that complete a character of the context.
            None => self.decode(&self.window[self.told..]),
        }
    }

    fn decode(&self, ids: &[u32]) -> Result<String, RuntimeError> {
        self.tokenizer.decode(ids, true).map_err(|e| RuntimeError::Tokenizer(e.to_string()))
    }
}
