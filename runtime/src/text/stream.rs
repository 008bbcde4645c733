//! Text as its tokens come.

use std::sync::Arc;

use tokenizers::Tokenizer;

use crate::RuntimeError;

/// Tokens before a text that decide whether it begins with a space.
const BEFORE: usize = 6;
/// The most tokens before a text that are looked at to begin with a whole character.
const FARTHEST: usize = 64;
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
        let last = |n: usize| context[context.len().saturating_sub(n)..].to_vec();
        // Bytes that begin within a character spoil the whole run of bytes that they stand in.
        let whole = |ids: &Vec<u32>| tokenizer.decode(ids, true).is_ok_and(|text| !text.contains(HALF));
        let window = (BEFORE..=FARTHEST).map(last).find(whole).unwrap_or_else(|| last(BEFORE));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::Value;

    use super::*;

    const FIXTURES: [&str; 8] = ["llama", "llama-sharded", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "gpt2"];

    fn read(name: &str, file: &str) -> String {
        std::fs::read_to_string(format!("{}/../tests/fixtures/{name}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    fn tokenizer(name: &str) -> Arc<Tokenizer> {
        Arc::new(read(name, "tokenizer.json").parse().unwrap())
    }

    /// The pieces of a text that follows on `context`.
    fn pieces(tokenizer: &Arc<Tokenizer>, context: &[u32], ids: &[u32]) -> Vec<String> {
        let mut stream = Stream::new(tokenizer.clone(), context);
        let mut pieces: Vec<_> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        pieces
    }

    #[test]
    fn pieces_make_the_whole_text() {
        for name in FIXTURES {
            let tokenizer = tokenizer(name);
            let cases: Value = serde_json::from_str(&read(name, "tokenizer_cases.json")).unwrap();
            for case in cases["cases"].as_array().unwrap() {
                let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
                let whole = tokenizer.decode(&ids, true).unwrap();
                assert_eq!(whole, case["decoded"].as_str().unwrap(), "{name}");
                assert_eq!(pieces(&tokenizer, &[], &ids).concat(), whole, "{name}");
                // Wherever an answer begins, unless that is within a character.
                for at in 1..ids.len() {
                    let before = tokenizer.decode(&ids[..at], true).unwrap();
                    if let Some(expected) = whole.strip_prefix(&before).filter(|_| !before.ends_with(HALF)) {
                        assert_eq!(pieces(&tokenizer, &ids[..at], &ids[at..]).concat(), expected, "{name} {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_piece_is_half_a_character() {
        for name in FIXTURES {
            let tokenizer = tokenizer(name);
            let text = "emoji 😀👨‍👩‍👧, 日本語, naïve é";
            let ids = tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec();
            let pieces = pieces(&tokenizer, &[], &ids);
            assert!(pieces.iter().all(|piece| !piece.contains(HALF)), "{name}: {pieces:?}");
            assert!(pieces.iter().filter(|piece| !piece.is_empty()).count() > 12, "{name}: {pieces:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_in_the_end() {
        let tokenizer = tokenizer("llama");
        let half = tokenizer.encode_fast("é", false).unwrap().get_ids()[0];
        assert_eq!(pieces(&tokenizer, &[], &[half, half]).concat(), "\u{fffd}\u{fffd}");
        assert!(pieces(&tokenizer, &[], &[half; 40]).concat().len() >= 40);
    }
}
