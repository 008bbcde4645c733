//! The runtime's tokenization against that of Hugging Face's own.

use serde_json::Value;
use warpweft_plan::{Assets, PlanFile, PlanWriter};
use warpweft_runtime::{Model, Options, RuntimeError};
use warpweft_tests::{ENCODERS, fixture};

use crate::tiny;

/// The tiny plan with another tokenizer and length of texts.
fn model(tokenizer: Option<&str>, max_text_tokens: u32) -> Model {
    let mut plan = tiny::plan();
    plan.model.max_positions = 600;
    plan.model.max_text_tokens = max_text_tokens;
    let mut assets = Assets::default();
    if let Some(tokenizer) = tokenizer {
        assets.insert(Assets::TOKENIZER, tokenizer);
    }
    let mut writer = PlanWriter::new(Vec::new(), &plan, &assets).unwrap();
    for (i, tensor) in plan.tensors.iter().enumerate() {
        writer.tensor(i).unwrap();
        writer.write(&vec![0; tensor.bytes().unwrap() as usize]).unwrap();
    }
    let file = PlanFile::from_bytes(writer.into_inner().unwrap()).unwrap();
    Model::from_plan(file, &Options::default(), &mut |_| ()).unwrap()
}

fn read(name: &str, file: &str) -> String {
    std::fs::read_to_string(fixture(name).join(file)).unwrap()
}

#[test]
fn ids_are_those_of_the_reference() {
    let cases: Value = serde_json::from_str(&read("bert", "tokenizer_cases.json")).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    let texts: Vec<&str> = cases.iter().map(|case| case["text"].as_str().unwrap()).collect();
    let expected: Vec<Vec<u32>> = cases.iter().map(|c| serde_json::from_value(c["ids"].clone()).unwrap()).collect();
    let tokenizer = read("bert", "tokenizer.json");
    assert_eq!(model(Some(&tokenizer), 600).tokenize(&texts).unwrap(), expected);
    // A cut keeps the special tokens.
    for limit in [2, 3, 8] {
        for (ids, whole) in model(Some(&tokenizer), limit).tokenize(&texts).unwrap().iter().zip(&expected) {
            let end = whole.len().min(limit as usize) - 1;
            assert_eq!(ids[..end], whole[..end]);
            assert_eq!((ids.len() - 1, ids[end]), (end, whole[whole.len() - 1]));
        }
    }
}

#[test]
fn every_tokenizer_is_read() {
    for name in ENCODERS {
        let mut model = model(Some(&read(name, "tokenizer.json")), 600);
        let long = "word ".repeat(5000);
        let ids = model.tokenize(&["", "a text", &long]).unwrap();
        assert_eq!((ids[0].len(), ids[2].len()), (2, 600), "{name}");
        assert!(ids[1].len() > 2 && [ids[1][0], ids[1][ids[1].len() - 1]] == ids[0][..], "{name}: {ids:?}");
    }
}

#[test]
fn missing_and_broken_tokenizers_are_errors() {
    let missing = model(None, 600).embed(&["a"]).unwrap_err();
    assert_eq!(missing.to_string(), "the plan's tokenizer: it has no tokenizer");
    for broken in ["", "{}", "[1]"] {
        assert!(matches!(model(Some(broken), 600).embed(&["a"]), Err(RuntimeError::Tokenizer(_))));
    }
    let short = model(Some(tiny::TOKENIZER), 1).embed(&["a"]).unwrap_err();
    assert!(short.to_string().contains("adds 2 tokens"), "{short}");
}
