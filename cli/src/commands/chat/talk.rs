//! A conversation, and what is said to the program instead of the model.

use std::path::PathBuf;

use serde::Serialize;
use warpweft_runtime::Message;

/// What `/help` shows.
pub(super) const HELP: &str = "\
/reset        begins a new conversation; the system message stays
/system TEXT  sets the system message; without TEXT there is none
/save FILE    writes the conversation as JSON
/help         this
/quit         leaves, and so does Ctrl-D

A backslash at the end of a line continues the message on the next. Three quotation marks begin a message of many
lines and end it. A message that begins with / needs a space before it. Ctrl-C stops an answer.";

/// What a person says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// To the model.
    Message(String),
    /// Nothing.
    Silence,
    Reset,
    System(String),
    Save(PathBuf),
    Help,
    Quit,
}

impl Said {
    /// Reads a message or a command.
    ///
    /// # Errors
    /// What is wrong with a command.
    pub(super) fn parse(text: &str) -> Result<Said, String> {
        if text.trim().is_empty() {
            return Ok(Said::Silence);
        }
        let Some(command) = text.strip_prefix('/') else { return Ok(Said::Message(text.trim().to_owned())) };
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match (name, rest.is_empty()) {
            ("system", _) => Ok(Said::System(rest.to_owned())),
            ("save", false) => Ok(Said::Save(rest.into())),
            ("save", true) => Err("/save needs the name of a file: /save talk.json".to_owned()),
            ("reset", true) => Ok(Said::Reset),
            ("help", true) => Ok(Said::Help),
            ("quit", true) => Ok(Said::Quit),
            ("reset" | "help" | "quit", false) => Err(format!("/{name} stands alone, found {rest:?} after it")),
            _ => Err(format!("there is no command /{name}; /help lists them")),
        }
    }
}

/// A message in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Entry<'c> {
    role: &'c str,
    content: &'c str,
}

/// All that has been said, apart from the model's own state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conversation {
    system: Option<Message>,
    turns: Vec<Message>,
}

impl Conversation {
    /// A conversation in which nothing has been said.
    pub(super) fn new(system: Option<&str>) -> Conversation {
        let mut conversation = Conversation::default();
        conversation.set_system(system.unwrap_or_default());
        conversation
    }

    /// Sets the system message; an empty one is none.
    pub(super) fn set_system(&mut self, text: &str) {
        self.system = (!text.is_empty()).then(|| Message::new("system", text));
    }

    /// Forgets all turns.
    pub(super) fn reset(&mut self) {
        self.turns.clear();
    }

    /// What the model sees if `question` is said next.
    pub(super) fn with(&self, question: &str) -> Vec<Message> {
        let question = Message::new("user", question);
        self.system.iter().chain(&self.turns).cloned().chain([question]).collect()
    }

    /// Keeps a question and its answer.
    pub(super) fn keep(&mut self, question: String, answer: String) {
        self.turns.push(Message::new("user", question));
        self.turns.push(Message::new("assistant", answer));
    }

    /// All messages, as chat templates and servers have them.
    pub(super) fn document(&self) -> Vec<Entry<'_>> {
        let messages = self.system.iter().chain(&self.turns);
        messages.map(|message| Entry { role: &message.role, content: &message.content }).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn commands_are_understood() {
        for (text, said) in [
            ("hello there ", Said::Message("hello there".into())),
            (" /reset", Said::Message("/reset".into())),
            ("  \n", Said::Silence),
            ("/reset", Said::Reset),
            ("/system Be brief.\nVery.", Said::System("Be brief.\nVery.".into())),
            ("/system", Said::System(String::new())),
            ("/save a talk.json ", Said::Save("a talk.json".into())),
            ("/help", Said::Help),
            ("/quit", Said::Quit),
        ] {
            assert_eq!(Said::parse(text), Ok(said));
        }
        for (text, part) in [("/save", "name of a file"), ("/usr/bin", "/usr/bin; /help"), ("/quit now", "\"now\"")] {
            let refused = Said::parse(text).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
        let named = |name: &&str| HELP.contains(&format!("/{name}"));
        assert!(["reset", "system", "save", "help", "quit"].iter().all(named));
    }

    #[test]
    fn a_conversation_grows_and_is_forgotten() {
        let mut conversation = Conversation::new(Some("Be brief."));
        conversation.keep("Why?".into(), "Because.".into());
        let roles = |messages: &[Message]| messages.iter().map(|m| m.role.clone()).collect::<Vec<_>>();
        assert_eq!(roles(&conversation.with("And?")), ["system", "user", "assistant", "user"]);
        let document = conversation.document();
        assert_eq!(document[2], Entry { role: "assistant", content: "Because." });
        conversation.reset();
        assert_eq!(roles(&conversation.with("And?")), ["system", "user"]);
        conversation.set_system("");
        assert_eq!(conversation, Conversation::new(None));
    }
}
