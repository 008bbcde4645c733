//! Continues a text with a compiled language model, as it comes.
//!
//! `cargo run --release -p warpweft-runtime --features text --example generate -- rustdoc-lm.weft "# Error code E0382"`

use std::io::Write;

use warpweft_runtime::{Model, RuntimeError, Sampling};

fn main() -> Result<(), RuntimeError> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(prompt)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: generate PLAN PROMPT");
        std::process::exit(2);
    };
    let mut model = Model::open(path)?;
    let mut session = model.session()?;
    let sampling = Sampling { temperature: 0.7, top_p: 0.9, max_tokens: 200, ..Sampling::default() };
    for event in session.generate(&mut model, &prompt, &sampling)? {
        print!("{}", event?.text);
        let _ = std::io::stdout().flush();
    }
    println!();
    Ok(())
}
