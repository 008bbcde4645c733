//! Talks with a compiled model that has a chat template.
//!
//! `cargo run --release -p warpweft-runtime --features text --example chat -- qwen3.weft`

use std::io::Write;

use warpweft_runtime::{Message, Model, RuntimeError, Sampling};

fn main() -> Result<(), RuntimeError> {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: chat PLAN");
        std::process::exit(2);
    };
    let mut model = Model::open(path)?;
    let mut session = model.session()?;
    let sampling = Sampling { temperature: 0.7, top_p: 0.9, max_tokens: 1000, ..Sampling::default() };
    let mut messages = Vec::new();
    for line in std::io::stdin().lines().map_while(Result::ok) {
        messages.push(Message::new("user", line));
        let mut answer = String::new();
        for event in session.answer(&mut model, &messages, &sampling)? {
            let text = event?.text;
            print!("{text}");
            let _ = std::io::stdout().flush();
            answer += &text;
        }
        println!();
        messages.push(Message::new("assistant", answer));
    }
    Ok(())
}
