//! `compile-model chat`

mod input;
mod talk;

use std::io::{IsTerminal, stdin, stdout};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use warpweft_plan::{Assets, OutputKind, PlanFile};
use warpweft_runtime::{Engine, Fault, Finish, Options, RuntimeError, Sampling, Session};

use super::run::{Choice, check_context, read_prompt};
use crate::CliError;
use crate::args::RunOptions;
use crate::console::Console;
use crate::files;
use crate::interrupt::{self, Section};
use crate::load::{adapter_and_plan, open_on};
use input::{Lines, Piped, Terminal, Typed, message};
use talk::{Conversation, HELP, Said};

/// Talk with a language model that has a chat template.
///
/// Answers appear as they are written. What has been said stays in the cache, so that a turn costs no more than its own
/// tokens. Where stdin is no terminal, each line of it is a message, and the program ends after the last answer.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model chat qwen3.weft
  compile-model chat qwen3.weft --system \"Answer in one sentence.\" --temperature 0.7 --top-p 0.9
  echo \"Why is the sky blue?\" | compile-model chat qwen3.weft
  compile-model chat qwen3.weft --json < questions.txt | jq -r .content

In a conversation:
  /reset, /system TEXT, /save FILE, /help, /quit
  Ctrl-C stops an answer, Ctrl-D leaves.")]
pub(crate) struct Chat {
    /// A plan, a checkpoint folder, or the name of a model on the Hugging Face Hub.
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,

    #[command(flatten)]
    choice: Choice,

    /// Rows (tokens) that the conversation can have; the model's context if that fits.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,

    #[command(flatten)]
    run: RunOptions,
}

pub(crate) fn run(args: &Chat, console: &mut Console<'_>) -> Result<(), CliError> {
    let sampling = args.choice.sampling();
    // What cannot be meant is refused before anything is loaded.
    sampling.check()?;
    let (adapter, plan) = adapter_and_plan(&args.model, &args.run, console)?;
    check_context(args.context, plan.plan())?;
    check_template(args, &plan)?;
    let options = Options { context: args.context, ..args.run.opened_for(OutputKind::Candidates) };
    let mut engine = open_on(&adapter, plan, &options, console)?;
    let session = engine.session()?;
    let conversation = Conversation::new(args.system.as_deref());
    let mut model = Model { engine: &mut engine, session, sampling, conversation };
    let interactive = stdin().is_terminal() && stdout().is_terminal();
    if interactive {
        console.note("/help tells what can be done, Ctrl-D leaves");
        talk(&mut model, &mut Terminal::open()?, true, console)
    } else {
        talk(&mut model, &mut Piped(stdin().lock()), false, console)
    }
}

/// Refuses a language model without a chat template; what no model can do is told when it is opened.
fn check_template(args: &Chat, file: &PlanFile) -> Result<(), CliError> {
    let writes = file.plan().programs.iter().any(|program| program.output.kind == OutputKind::Candidates);
    if !writes || file.assets().texts.contains_key(Assets::CHAT_TEMPLATE) {
        return Ok(());
    }
    let (name, path) = (&file.plan().model.name, args.model.display());
    Err(CliError::Failed(format!(
        "{name} has no chat template, so it does not know what a conversation is; it can continue a text: \
         compile-model run {path} --prompt TEXT"
    )))
}

/// Who answers.
struct Model<'m> {
    engine: &'m mut Engine,
    session: Session,
    sampling: Sampling,
    conversation: Conversation,
}

fn talk(
    model: &mut Model<'_>,
    lines: &mut dyn Lines,
    interactive: bool,
    console: &mut Console<'_>,
) -> Result<(), CliError> {
    loop {
        let text = match message(lines)? {
            Typed::Text(text) => text,
            Typed::Interrupted => {
                console.note("Ctrl-D or /quit leaves");
                continue;
            }
            Typed::End => return Ok(()),
        };
        let said = Said::parse(&text).map_err(CliError::Failed);
        if !matches!(said, Ok(Said::Silence)) {
            lines.remember(&text);
        }
        let done = match said {
            Ok(Said::Quit) => return Ok(()),
            Ok(said) => model.respond(said, console),
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {}
            Err(CliError::Interrupted) if interactive => console.note("(stopped)"),
            Err(error) if interactive && can_go_on(&error) => {
                let text = error.message().unwrap_or_default();
                console.error(&text, error.hint().as_deref()).map_err(CliError::io("write to stderr"))?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the conversation can go on after an error: one that a person can do something about.
fn can_go_on(error: &CliError) -> bool {
    match error {
        CliError::Runtime(error) => matches!(error.fault(), Fault::Input | Fault::Memory),
        CliError::Failed(_) | CliError::Usage(_) | CliError::Io { .. } => true,
        CliError::NotFound { .. }
        | CliError::Checkpoint(_)
        | CliError::Compile(_)
        | CliError::Plan(_)
        | CliError::Hub(_)
        | CliError::Closed
        | CliError::Interrupted => false,
    }
}

impl Model<'_> {
    fn respond(&mut self, said: Said, console: &mut Console<'_>) -> Result<(), CliError> {
        match said {
            Said::Message(question) => self.answer(question, console),
            Said::Silence | Said::Quit => Ok(()),
            Said::Help => {
                console.note(HELP);
                Ok(())
            }
            Said::Reset => {
                self.conversation.reset();
                let _ = self.session.truncate(0);
                console.note("a new conversation begins");
                Ok(())
            }
            Said::System(text) => {
                self.conversation.set_system(&text);
                console.note(if text.is_empty() {
                    "there is no system message now"
                } else {
                    "the system message is set"
                });
                Ok(())
            }
            Said::Save(path) => {
                let text = serde_json::to_string_pretty(&self.conversation.document());
                let text =
                    text.map_err(|error| CliError::Failed(format!("the conversation cannot be written: {error}")))?;
                files::write(&path, (text + "\n").as_bytes())?;
                console.note(&format!("wrote {}", path.display()));
                Ok(())
            }
        }
    }

    /// Writes the answer to a question, and keeps both unless nothing could be written.
    fn answer(&mut self, question: String, console: &mut Console<'_>) -> Result<(), CliError> {
        let _section = Section::enter();
        let (limit, _) = self.engine.context_limit();
        let messages = self.conversation.with(&question);
        let started = self.session.answer(&mut *self.engine, &messages, &self.sampling);
        let mut generation = started.map_err(explained)?;
        let interrupted = read_prompt(&mut generation, console).inspect_err(|_| {
            interrupt::take();
        });
        interrupted?;
        let prompt_tokens = generation.prompt_tokens();
        let (mut text, mut tokens) = (String::new(), 0usize);
        while let Some(event) = generation.next() {
            let event = event.map_err(explained)?;
            tokens += 1;
            text.push_str(&event.text);
            if !console.json {
                console.write(&event.text)?;
            }
            if interrupt::check().is_err() {
                generation.cancel();
            }
        }
        let finish = generation.finish().unwrap_or(Finish::Canceled);
        // The last token has no row yet.
        let rows = generation.session().len() as u64 + 1;
        drop(generation);
        if console.json {
            let (content, finish) = (&text, finish.name());
            console.print_json(&json!({
                "role": "assistant", "content": content, "finish": finish, "prompt_tokens": prompt_tokens, "tokens": tokens,
            }))?;
        } else {
            console.print("")?;
        }
        self.conversation.keep(question, text);
        match finish {
            Finish::Stop => Ok(()),
            Finish::Length if rows > limit => {
                console.note(&format!(
                    "(the context is full: {limit} of {limit} tokens; /reset begins a new conversation)"
                ));
                Ok(())
            }
            Finish::Length => {
                console.note(&format!("(cut after {tokens} tokens; --max-tokens allows more)"));
                Ok(())
            }
            Finish::Canceled => {
                interrupt::take();
                Err(CliError::Interrupted)
            }
        }
    }
}

/// A context or a cache that is full, with what to do about it in a conversation.
fn explained(error: RuntimeError) -> CliError {
    match error {
        RuntimeError::Context { rows, limit, .. } => CliError::Failed(format!(
            "the conversation would have {rows} tokens, but the context has room for {limit}; /reset begins a new one"
        )),
        RuntimeError::CacheFull { needed, free, limit, .. } => CliError::Failed(format!(
            "the conversation needs room for {needed} more tokens, but {free} of {limit} are free; /reset begins a new one"
        )),
        other => other.into(),
    }
}
