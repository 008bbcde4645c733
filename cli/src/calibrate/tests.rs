//! Calibration of the small model in `demo/`, by the numbers that the model then predicts.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use safetensors::SafeTensors;
use warpweft_compiler::formats::Group;
use warpweft_compiler::{Options as CompileOptions, compile};
use warpweft_models::import;
use warpweft_plan::{OutputKind, PlanFile, PlanWriter};
use warpweft_runtime::{Options, block_on, choose};

use super::divergence::Distance;
use super::subject::Subject;
use super::work::TEXT;
use super::*;
use crate::compile::{adapter_target, pack};
use crate::load::open_on;

const INT4: Format = Format::Int4 { group: Group::Of(32), zeros: true };

/// Tokens of a chunk of the validation text, each scored on its own but for its first token.
const CHUNK: usize = 512;
/// Chunks by which the losses of int4 and of chosen formats are judged.
const CHUNKS: [usize; 2] = [7, 11];

fn demo(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../demo/rustdoc-lm", name].iter().collect()
}

/// The numbers of eight bytes in a tensor of one of the model's files; of the first tensor if none is named.
fn numbers(file: &str, tensor: Option<&str>) -> Vec<[u8; 8]> {
    let bytes = std::fs::read(demo(file)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let name = tensor.unwrap_or_else(|| file.names()[0]);
    file.tensor(name).unwrap().data().as_chunks::<8>().0.to_vec()
}

/// Both ways to round the demo model: to one format, by the moments of a quarter of the bundled text, whose words it hardly knows;
/// and to formats chosen by text like that which it is to read. Both are judged by the second half of the validation text.
#[test]
fn the_demo_model_keeps_its_predictions() {
    let imported = import(&demo("model")).unwrap();
    let (mut out, mut err) = (Vec::new(), std::io::stderr());
    let mut console = Console::new(&mut out, &mut err, false, true);
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("quarter.txt");
    std::fs::write(&text, &TEXT[..TEXT.floor_char_boundary(TEXT.len() / 4)]).unwrap();
    let setting = Setting { text: Some(&text), adapter: AdapterChoice::Best, memory: None, without: &[] };
    let mut work = Work::begin(&imported, &setting, &mut console).unwrap();

    let valid: Vec<u32> =
        numbers("valid_ids.safetensors", None).into_iter().map(|id| i64::from_le_bytes(id) as u32).collect();
    let losses: Vec<f64> =
        numbers("reference.safetensors", Some("chunk_nll_sum")).into_iter().map(f64::from_le_bytes).collect();
    let (known, ids) = valid.split_at(valid.len() / 2 / CHUNK * CHUNK);
    let losses = &losses[known.len() / CHUNK..];
    let mut calibrated = |work: &mut Work<'_, '_>, wanted, chunks: usize| {
        let calibrated = round_and_choose(work, wanted, &mut console).unwrap();
        let before = losses[..chunks].iter().sum::<f64>() / (chunks * (CHUNK - 1)) as f64;
        let after = work.loss(&ids[..chunks * CHUNK], &calibrated.store).unwrap();
        (calibrated, after - before)
    };

    let (four_bits, loss) =
        calibrated(&mut work, Wanted::Formats { matrices: INT4, tables: Some(Format::Int8(Group::Row)) }, CHUNKS[0]);
    four_calibrated_bits_cost_less_than_nine_parts_in_a_thousand(&four_bits, loss);
    let budget = 1.01f64.ln();
    let auto = Wanted::Auto(Limits { loss: Some(budget), bytes: None });
    work.read_again(known).unwrap();
    let (chosen, loss) = calibrated(&mut work, auto, CHUNKS[1]);
    chosen_formats_stay_within_the_budget(&chosen, loss, budget);
    kernels_predict_what_decoded_weights_do(&mut work, &chosen, &ids[..CHUNK], &mut console);
}

fn told(what: &str, calibrated: &Calibrated, loss: f64) {
    let (predicted, measured) = (calibrated.predicted, calibrated.measured);
    eprintln!(
        "{what}: perplexity × {:.5}, {loss:.5} nats, predicted {predicted:.5?}, measured {measured:.5?}",
        loss.exp()
    );
    for choice in calibrated.choices.iter().filter(|_| predicted.is_some()) {
        let format = choice.format.map_or("kept".into(), |f| f.name());
        eprintln!("{} {format} {:.3e} {:.2e}", choice.candidate.name, choice.error, choice.loss.unwrap_or(0.0));
    }
}

/// `loss` is what the validation text costs more, in nats per token.
fn four_calibrated_bits_cost_less_than_nine_parts_in_a_thousand(calibrated: &Calibrated, loss: f64) {
    told("int4", calibrated, loss);
    let measured = calibrated.measured.unwrap();
    assert!(loss.exp() <= 1.009, "{loss}");
    assert!((0.5..=2.0).contains(&(measured / loss)), "{measured} {loss}");
    assert_eq!(calibrated.choices.len(), 57);
}

fn chosen_formats_stay_within_the_budget(calibrated: &Calibrated, loss: f64, budget: f64) {
    let bytes = |choice: &Choice| match choice.format {
        Some(format) => choice.candidate.rows * format.row_bytes(choice.candidate.columns as usize) as u64,
        None => choice.candidate.values() * 2,
    };
    let total: u64 = calibrated.choices.iter().map(bytes).sum();
    told(&format!("auto, {total} bytes"), calibrated, loss);
    let (predicted, measured) = (calibrated.predicted.unwrap(), calibrated.measured.unwrap());
    assert!(loss <= budget, "{loss}");
    for told in [predicted, measured] {
        assert!((0.5..=2.0).contains(&(told / loss)), "{told} {loss}");
    }
    // The smallest single format that stays within the budget is int4-g32, with the table as int8.
    let single = |choice: &Choice| {
        let format = if choice.candidate.layer.is_some() { INT4 } else { Format::Int8(Group::Row) };
        choice.candidate.rows * format.row_bytes(choice.candidate.columns as usize) as u64
    };
    let single: u64 = calibrated.choices.iter().map(single).sum();
    assert!(total < single, "{total} bytes, {single} as int4-g32");
}

/// What is measured is the model with decoded weights, rounded to the checkpoint's bf16; a plan's kernels decode codes themselves,
/// to f32.
fn kernels_predict_what_decoded_weights_do(
    work: &mut Work<'_, '_>,
    calibrated: &Calibrated,
    ids: &[u32],
    console: &mut Console<'_>,
) {
    let decoded = work.predictions(ids, &calibrated.store).unwrap();
    let adapter = block_on(choose(&AdapterChoice::Best)).unwrap();
    let options = CompileOptions { targets: vec![adapter_target(&adapter).unwrap()], ..CompileOptions::default() };
    let Imported { graph, info, weights, assets } = work.imported;
    let graph = calibrated.declare(&graph.only(&[OutputKind::Logits])).unwrap();
    let compiled = compile(&graph, info, &options, &mut |_| ()).unwrap();
    let mut writer = PlanWriter::new(Vec::new(), &compiled.plan, assets).unwrap();
    pack(&compiled, &Quantized { weights, store: &calibrated.store }, &mut writer, console).unwrap();
    let file = PlanFile::from_bytes(writer.into_inner().unwrap()).unwrap();
    let options = Options { output: Some(OutputKind::Logits), lazy: true, ..Options::default() };
    let engine = open_on(&adapter, file, &options, console).unwrap();
    let mut plan = Subject::of(work.imported, engine, compiled.packing);
    let Distance { divergence, growth } = decoded.distance(&mut plan, ids.len()).unwrap();
    eprintln!("kernels: {divergence:.2e} nats from what was measured, loss {growth:+.2e}");
    // Nothing beside what rounding cost; and a difference of losses is as uncertain as the divergence lets it be.
    assert!(divergence < calibrated.measured.unwrap() / 100.0, "{divergence}");
    assert!(growth.abs() < 4.0 * (2.0 * divergence / ids.len() as f64).sqrt() + divergence, "{growth} {divergence}");
}
