//! Calibration of the small model in `demo/`, by the numbers that the model then predicts.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use safetensors::SafeTensors;
use warpweft_compiler::formats::Group;
use warpweft_models::import;

use super::work::TEXT;
use super::*;

const INT4: Format = Format::Int4 { group: Group::Of(32), zeros: true };

fn demo(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../demo/rustdoc-lm", name].iter().collect()
}

/// The validation text's ids, which no calibration has seen.
fn validation() -> Vec<u32> {
    let bytes = std::fs::read(demo("valid_ids.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, tensor) = file.tensors().pop().unwrap();
    tensor.data().as_chunks::<8>().0.iter().map(|id| i64::from_le_bytes(*id) as u32).collect()
}

/// Ids that the losses are measured on: half of what there is, for the time it takes.
const VALIDATED: usize = 7_168;

/// Both ways to round the demo model, by the moments of half of the bundled text: one collection for both.
#[test]
fn the_demo_model_keeps_its_predictions() {
    let imported = import(&demo("model")).unwrap();
    let (mut out, mut err) = (Vec::new(), std::io::stderr());
    let mut console = Console::new(&mut out, &mut err, false, true);
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("half.txt");
    std::fs::write(&text, &TEXT[..TEXT.floor_char_boundary(TEXT.len() / 2)]).unwrap();
    let setting = Setting { text: Some(&text), adapter: AdapterChoice::Best, memory: None, without: &[] };
    let mut work = Work::begin(&imported, &setting, &mut console).unwrap();
    let ids = &validation()[..VALIDATED];
    let before = work.loss(ids, None).unwrap();
    let mut calibrated = |wanted| {
        let calibrated = round_and_choose(&mut work, wanted, &mut console).unwrap();
        let after = work.loss(ids, Some(&calibrated.store)).unwrap();
        (calibrated, after - before)
    };
    let (four_bits, loss) = calibrated(Wanted::Formats { matrices: INT4, tables: Some(Format::Int8(Group::Row)) });
    four_calibrated_bits_cost_less_than_nine_parts_in_a_thousand(&four_bits, loss);
    let budget = 1.01f64.ln();
    let (chosen, loss) = calibrated(Wanted::Auto(Limits { loss: Some(budget), bytes: None }));
    chosen_formats_stay_within_the_budget(&chosen, loss, budget);
}

/// `loss` is what the validation text costs more, in nats per token.
fn four_calibrated_bits_cost_less_than_nine_parts_in_a_thousand(calibrated: &Calibrated, loss: f64) {
    let measured = calibrated.measured.unwrap();
    eprintln!("perplexity × {:.5}, measured {measured:.5}", loss.exp());
    assert!(loss.exp() <= 1.009, "{loss}");
    assert!((0.5..=2.0).contains(&(measured / loss)), "{measured} {loss}");
    assert_eq!(calibrated.choices.len(), 57);
}

fn chosen_formats_stay_within_the_budget(calibrated: &Calibrated, loss: f64, budget: f64) {
    let (predicted, measured) = (calibrated.predicted.unwrap(), calibrated.measured.unwrap());
    let bytes = |choice: &Choice| match choice.format {
        Some(format) => choice.candidate.rows * format.row_bytes(choice.candidate.columns as usize) as u64,
        None => choice.candidate.values() * 2,
    };
    let total: u64 = calibrated.choices.iter().map(bytes).sum();
    eprintln!("perplexity × {:.5}, predicted {predicted:.5}, measured {measured:.5}, {total} bytes", loss.exp());
    for choice in &calibrated.choices {
        let format = choice.format.map_or("kept".into(), |f| f.name());
        eprintln!("{} {format} {:.3e} {:.2e}", choice.candidate.name, choice.error, choice.loss.unwrap_or(0.0));
    }
    assert!(loss <= budget, "{loss}");
    assert!((0.5..=2.0).contains(&(predicted / measured)), "{predicted} {measured}");
    // The bundled text is six times as hard for this model as the validation text, and rounding costs more on it.
    assert!((0.5..=3.0).contains(&(predicted / loss)), "{predicted} {loss}");
    // The smallest single format that stays within the budget is int4-g32, with the table as int8.
    let single = |choice: &Choice| {
        let format = if choice.candidate.layer.is_some() { INT4 } else { Format::Int8(Group::Row) };
        choice.candidate.rows * format.row_bytes(choice.candidate.columns as usize) as u64
    };
    let single: u64 = calibrated.choices.iter().map(single).sum();
    assert!(total < single, "{total} bytes, {single} as int4-g32");
}
