//! Conversations.

use super::template::Template;
use crate::RuntimeError;
use crate::model::Engine;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who says it: `system`, `user` or `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

impl Engine {
    /// The text of a conversation as the plan's chat template writes it, special tokens included. `prompted` adds the
    /// beginning of the answer.
    ///
    /// # Errors
    /// [`RuntimeError::Template`] if there is none, it is broken, or it refuses the messages;
    /// [`RuntimeError::Tokenizer`] if the plan has no tokenizer.
    pub fn render_chat(&mut self, messages: &[Message], prompted: bool) -> Result<String, RuntimeError> {
        if self.text()?.template.is_none() {
            let template = Template::of(self.file().assets())?;
            self.text()?.template = Some(template);
        }
        match &self.text()?.template {
            Some(template) => template.render(messages, prompted),
            None => Ok(String::new()),
        }
    }

    /// The ids of a conversation, up to the beginning of the answer.
    ///
    /// # Errors
    /// As [`Engine::render_chat`].
    pub fn encode_chat(&mut self, messages: &[Message]) -> Result<Vec<u32>, RuntimeError> {
        let text = self.render_chat(messages, true)?;
        self.encode(&text, false)
    }
}
