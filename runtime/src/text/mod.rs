//! Texts in and out: the plan's own tokenizer, its chat template, and pieces of text as tokens come.

mod chat;
mod clock;
mod stop;
mod stream;
mod template;
mod tokens;

pub use chat::Message;
pub(crate) use stop::Stop;
pub(crate) use stream::Stream;
pub(crate) use tokens::Text;
