//! Embeds texts with a compiled model and prints how alike they are.
//!
//! `cargo run --release -p warpweft-runtime --features text --example embed -- minilm.weft "a cat" "a kitten" "a tax form"`

use warpweft_runtime::{Model, Options, Progress, RuntimeError};

fn main() -> Result<(), RuntimeError> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), texts) = (arguments.next(), arguments.collect::<Vec<_>>()) else {
        eprintln!("usage: embed PLAN TEXT...");
        std::process::exit(2);
    };
    let mut model = Model::open_with(path, &Options::default(), &mut |progress| match progress {
        Progress::Device { adapter, notice } => eprintln!("{}", notice.unwrap_or(adapter)),
        Progress::Weights { done, total } => eprintln!("weights: {} of {} MiB", done >> 20, total >> 20),
        _ => (),
    })?;
    let vectors = model.embed(&texts)?.vectors;
    for (text, a) in texts.iter().zip(vectors.iter()) {
        let products = vectors.iter().map(|b| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>());
        println!("{text}: {:.3?}", products.collect::<Vec<_>>());
    }
    Ok(())
}
