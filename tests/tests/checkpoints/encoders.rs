//! From checkpoint folders to graphs: what is accepted, and what each wrong folder is told.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use warpweft_compiler::weights::WeightSource;
use warpweft_models::{Imported, families, import};
use warpweft_plan::{DType, OutputKind};
use warpweft_tests::{Copy, Tensors, fixture, says};

const FIXTURES: [(&str, &str, u32, u32, u32, bool); 6] = [
    ("bert", "bert", 3, 512, 64, false),
    ("bert-mlm", "bert", 2, 509, 64, true),
    ("roberta", "roberta", 2, 485, 64, true),
    ("xlm-roberta", "xlm-roberta", 2, 301, 128, true),
    ("distilbert", "distilbert", 3, 509, 64, true),
    ("modernbert", "modernbert", 5, 485, 128, true),
];

/// See `decoders.rs`.
const DECODERS: [&str; 9] = ["gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "phi3", "qwen2", "qwen3"];

#[test]
fn every_fixture_is_imported() {
    for (name, family, layers, vocab_size, max_positions, head) in FIXTURES {
        let model = import(&fixture(name)).unwrap();
        let info = &model.info;
        assert_eq!((info.name.as_str(), info.family.as_str()), (name, family));
        assert_eq!((info.layers, info.vocab_size, info.max_positions), (layers, vocab_size, max_positions), "{name}");
        assert!(model.graph.output(OutputKind::Hidden).is_some());
        assert!(model.graph.output(OutputKind::Embedding).is_some());
        assert_eq!(model.graph.output(OutputKind::Logits).is_some(), head, "{name}");
        assert!(model.assets.tokenizer().is_some());
        for weight in &model.graph.declarations().weights {
            let value = model.weights.get(&weight.name).unwrap();
            assert_eq!((value.dtype, value.shape), (weight.dtype, weight.shape.as_slice()), "{}", weight.name);
            let elements: u64 = weight.shape.iter().product();
            assert_eq!(value.bytes.len() as u64, value.dtype.row_bytes(elements));
            model.weights.release(&weight.name);
        }
        assert!(model.graph.nodes().iter().filter_map(|n| n.layer).all(|layer| layer < layers));
    }
    let encoders = families().filter(|family| !DECODERS.contains(family));
    assert!(encoders.eq(["bert", "distilbert", "modernbert", "roberta", "xlm-roberta"]));
}

#[test]
fn types_are_kept() {
    for (name, dtype) in [("distilbert", DType::F16), ("xlm-roberta", DType::BF16), ("roberta", DType::F32)] {
        let model = import(&fixture(name)).unwrap();
        assert!(model.graph.declarations().weights.iter().all(|w| w.dtype == dtype));
    }
}

#[test]
fn unknown_families_are_told_the_known() {
    let refusal = Copy::of("roberta").set("model_type", json!("retnet")).refusal();
    says(&refusal, &["config.json", "model_type", "\"retnet\"", "bert, distilbert, gemma2, ", "roberta, xlm-roberta"]);
    says(&Copy::of("roberta").set("model_type", Value::Null).refusal(), &["model_type", "null", "xlm-roberta"]);
    says(&Copy::of("roberta").set("model_type", json!(7)).refusal(), &["model_type", "found 7", "a text"]);
}

#[test]
fn absurd_sizes_are_refused() {
    let huge = json!(1_000_000_000_000u64);
    let wrong = [json!(0), json!(-1), json!(1.5), json!("64"), json!(null), huge, json!([]), json!(u64::MAX)];
    let fields = ["hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size"];
    for (fixture, fields) in [
        ("bert-mlm", [fields.as_slice(), &["max_position_embeddings"]].concat()),
        ("modernbert", [fields.as_slice(), &["max_position_embeddings"]].concat()),
        ("distilbert", vec!["dim", "n_heads", "n_layers", "hidden_dim", "vocab_size", "max_position_embeddings"]),
    ] {
        for field in fields {
            for value in &wrong {
                let refusal = Copy::of(fixture).set(field, value.clone()).refusal();
                says(&refusal, &["config.json", field, "an integer from 1 to"]);
            }
        }
    }
    says(&Copy::of("bert-mlm").set("num_attention_heads", json!(7)).refusal(), &["num_attention_heads", "7", "60"]);
    let eps = Copy::of("bert-mlm").set("layer_norm_eps", json!(-1.0)).refusal();
    says(&eps, &["layer_norm_eps", "-1.0", "positive"]);
    let positions = Copy::of("roberta").set("max_position_embeddings", json!(2)).refusal();
    says(&positions, &["max_position_embeddings", "found 2", "more than 2"]);
    says(&Copy::of("roberta").set("pad_token_id", json!(u64::MAX)).refusal(), &["pad_token_id"]);
    says(&Copy::of("modernbert").set("num_attention_heads", json!(64)).refusal(), &["num_attention_heads", "even"]);
}

#[test]
fn other_models_under_known_names_are_refused() {
    let cases = [
        ("bert-mlm", "position_embedding_type", json!("relative_key"), "absolute"),
        ("bert-mlm", "is_decoder", json!(true), "false"),
        ("bert-mlm", "hidden_act", json!("mish"), "gelu"),
        ("modernbert", "rope_scaling", json!({"type": "linear"}), "null"),
        ("modernbert", "layer_types", json!(["full_attention"]), "a list of 5"),
        ("modernbert", "layer_types", json!(["x", "x", "x", "x", "x"]), "full_attention and sliding_attention"),
        ("modernbert", "rope_parameters", json!({"full_attention": {"rope_type": "yarn"}}), "default"),
        ("modernbert", "rope_parameters", json!({"full_attention": {"rope_theta": 0}}), "positive"),
    ];
    for (fixture, field, value, expected) in cases {
        let refusal = Copy::of(fixture).set(field, value).refusal();
        says(&refusal, &["config.json", field.split('.').next().unwrap(), expected]);
    }
    let nested = Copy::of("modernbert").set("rope_parameters", json!({"full_attention": {"rope_theta": 0}})).refusal();
    says(&nested, &["rope_parameters.full_attention.rope_theta"]);
}

#[test]
fn damaged_json_is_named() {
    for file in ["config.json", "tokenizer.json"] {
        let copy = Copy::of("roberta");
        fs::write(copy.path().join(file), "{\"a\":").unwrap();
        says(&copy.refusal(), &[file, "not valid JSON"]);
        fs::write(copy.path().join(file), "[]").unwrap();
        says(&copy.refusal(), &[file, "an object"]);
        fs::remove_file(copy.path().join(file)).unwrap();
        fs::create_dir(copy.path().join(file)).unwrap();
        says(&copy.refusal(), &[file, "found a folder"]);
    }
    let copy = Copy::of("roberta");
    fs::remove_file(copy.path().join("config.json")).unwrap();
    says(&copy.refusal(), &["no config.json"]);
    let copy = Copy::of("roberta");
    fs::remove_file(copy.path().join("tokenizer.json")).unwrap();
    assert!(copy.import().assets.tokenizer().is_none());
}

#[test]
fn wrong_tensors_are_named_with_both_shapes() {
    let name = "roberta.encoder.layer.1.intermediate.dense.weight";
    let missing = Copy::of("roberta").tensors(|t| drop(t.remove(name))).refusal();
    says(&missing, &["model.safetensors", name, "missing", "[150, 72]"]);
    let none = Copy::of("roberta").tensors(|t| t.clear()).refusal();
    says(&none, &["embeddings.word_embeddings.weight", "missing", "[485, 72]"]);
    let shape = Copy::of("roberta").tensors(|t| t.get_mut(name).unwrap().1 = vec![72, 150]).refusal();
    says(&shape, &["model.safetensors", name, "found shape [72, 150]", "expected [150, 72]"]);
    let config = Copy::of("roberta").set("intermediate_size", json!(151)).refusal();
    says(&config, &["intermediate.dense.weight", "found shape [150, 72]", "expected [151, 72]"]);
    let dtype = Copy::of("roberta").tensors(|t| t.get_mut(name).unwrap().0 = Dtype::I32).refusal();
    says(&dtype, &[name, "found type I32", "F32, F16 or BF16"]);
    let more = |t: &mut Tensors| {
        t.insert("roberta.encoder.layer.2.adapter.weight".into(), (Dtype::F32, vec![3, 2], vec![0; 24]));
        t.insert("zzz".into(), (Dtype::I64, vec![], vec![0; 8]));
    };
    let unused = Copy::of("roberta").tensors(more).refusal();
    says(&unused, &["model.safetensors", "2 of the file's tensors", "layer.2.adapter.weight", "[3, 2]"]);
    let layers = Copy::of("roberta").set("num_hidden_layers", json!(1)).refusal();
    says(&layers, &["16 of the file's tensors", "roberta.encoder.layer.1."]);
}

#[test]
fn values_are_checked_when_they_are_read() {
    let name = "roberta.encoder.layer.1.intermediate.dense.weight";
    let nan = |t: &mut Tensors| t.get_mut(name).unwrap().2[4 * 73..4 * 74].copy_from_slice(&f32::NAN.to_le_bytes());
    let model = Copy::of("roberta").tensors(nan).import();
    let message = model.weights.get(name).unwrap_err().to_string();
    says(&message, &["model.safetensors", name, "NaN", "element 73", "[1, 1]"]);
    says(&model.weights.get("absent").unwrap_err().to_string(), &["absent"]);
}

#[test]
fn base_prefixes_are_found() {
    for (fixture, base) in [("bert-mlm", "bert."), ("distilbert", "distilbert."), ("modernbert", "model.")] {
        let with = import(&self::fixture(fixture)).unwrap().graph.to_string();
        let strip = |t: &mut Tensors| {
            *t = std::mem::take(t)
                .into_iter()
                .map(|(name, tensor)| (name.strip_prefix(base).unwrap_or(&name).to_owned(), tensor))
                .collect();
        };
        let without = Copy::of(fixture).tensors(strip).import().graph.to_string();
        assert_eq!(with.replace(&format!("\"{base}"), "\""), without);
    }
}

#[test]
fn heads_may_be_absent_or_untied() {
    let headless = Copy::of("modernbert").tensors(|t| drop(t.remove("decoder.bias"))).import();
    assert!(headless.graph.output(OutputKind::Logits).is_none());
    let untied = Copy::of("bert-mlm").set("tie_word_embeddings", json!(false));
    says(&untied.refusal(), &["cls.predictions.decoder.weight", "missing", "[509, 60]"]);
    let decoder = |t: &mut Tensors| {
        let table = t["bert.embeddings.word_embeddings.weight"].clone();
        t.insert("cls.predictions.decoder.weight".into(), table);
        let bias = t.remove("cls.predictions.bias").unwrap();
        t.insert("cls.predictions.decoder.bias".into(), bias);
    };
    let untied = untied.tensors(decoder).import().graph;
    let names: Vec<&str> = untied.declarations().weights.iter().map(|w| w.name.as_str()).collect();
    assert!(names.contains(&"cls.predictions.decoder.weight") && names.contains(&"cls.predictions.decoder.bias"));
}

#[test]
fn both_spellings_of_modernbert_are_the_same_model() {
    let old = import(&fixture("modernbert")).unwrap();
    let new = Copy::of("modernbert").json("config.json", |config| {
        let fields = config.as_object_mut().unwrap();
        for field in ["global_attn_every_n_layers", "global_rope_theta", "local_rope_theta", "torch_dtype"] {
            fields.remove(field);
        }
        let (full, sliding) = ("full_attention", "sliding_attention");
        config["layer_types"] = json!([full, sliding, sliding, full, sliding]);
        config["rope_parameters"] = json!({
            full: {"rope_type": "default", "rope_theta": 160_000.0},
            sliding: {"rope_type": "default", "rope_theta": 10_000.0},
        });
    });
    let new = new.import();
    assert_eq!(old.graph, new.graph);
    for reach in ["full", "sliding"] {
        let name = format!("rotary frequencies of {reach}_attention");
        assert_eq!(old.weights.get(&name).unwrap().bytes, new.weights.get(&name).unwrap().bytes);
    }
    let one_base = Copy::of("modernbert").set("local_rope_theta", Value::Null).import();
    let [full, sliding] = ["full", "sliding"].map(|reach| format!("rotary frequencies of {reach}_attention"));
    assert_eq!(one_base.weights.get(&full).unwrap().bytes, one_base.weights.get(&sliding).unwrap().bytes);
    assert_ne!(old.weights.get(&full).unwrap().bytes, old.weights.get(&sliding).unwrap().bytes);
}

#[test]
fn sentence_transformers_files_are_read() {
    let text = |copy: &Copy| copy.import().graph.to_string();
    let model = import(&fixture("bert")).unwrap();
    assert_eq!(model.info.max_text_tokens, 48);
    says(&model.graph.to_string(), &["mean-pool", "l2-norm"]);
    assert!(!text(&Copy::of("roberta")).contains("l2-norm"));
    let pooling = |mode: &str| {
        let (mode, file) = (mode.to_owned(), "1_Pooling/config.json");
        Copy::of("bert").json(file, move |config| {
            config["pooling_mode_mean_tokens"] = json!(false);
            config[mode] = json!(true);
        })
    };
    says(&text(&pooling("pooling_mode_cls_token")), &["first-row"]);
    says(&text(&pooling("pooling_mode_max_tokens")), &["max-pool"]);
    let last = pooling("pooling_mode_lasttoken").refusal();
    says(&last, &["config.json", "pooling_mode_lasttoken", "mean, cls and max"]);
    says(&pooling("other").refusal(), &["pooling_mode_mean_tokens", "true"]);
    let two = Copy::of("bert").json("1_Pooling/config.json", |c| c["pooling_mode_cls_token"] = json!(true));
    says(&two.refusal(), &["pooling_mode", "only one"]);
    let word = |word: &str| {
        let word = json!({"pooling_mode": word, "word_embedding_dimension": 64});
        Copy::of("bert").json("1_Pooling/config.json", move |config| *config = word)
    };
    says(&text(&word("cls")), &["first-row"]);
    says(&word("lasttoken").refusal(), &["pooling_mode", "\"lasttoken\"", "mean, cls, max"]);
    let width = Copy::of("bert").json("1_Pooling/config.json", |c| c["word_embedding_dimension"] = json!(65));
    says(&width.refusal(), &["word_embedding_dimension", "found 65", "64"]);

    let dense = json!({"type": "sentence_transformers.models.Dense", "path": "2_Dense"});
    let dense = Copy::of("bert").json("modules.json", |modules| modules[2] = dense);
    says(&dense.refusal(), &["modules.json", "module 2.type", "Dense", "Normalize"]);
    let plain = Copy::of("bert").json("modules.json", |modules| drop(modules.as_array_mut().unwrap().pop()));
    assert!(!text(&plain).contains("l2-norm"));
    for path in ["../elsewhere", "/etc", "a/../../b"] {
        let outside = Copy::of("bert").json("modules.json", |modules| modules[1]["path"] = json!(path));
        says(&outside.refusal(), &["modules.json", "module 1.path", "inside"]);
    }
    let nowhere = Copy::of("bert").json("modules.json", |modules| modules[1]["path"] = json!("9_Pooling"));
    says(&nowhere.refusal(), &["9_Pooling", "no config.json"]);
    let none = Copy::of("bert").json("modules.json", |modules| *modules = json!({}));
    says(&none.refusal(), &["modules.json", "a list"]);
}

#[test]
fn text_length_is_that_of_sentence_transformers() {
    let length = |copy: Copy| copy.import().info.max_text_tokens;
    let settings = "sentence_bert_config.json";
    assert_eq!(length(Copy::of("bert").json(settings, |s| s["max_seq_length"] = json!(1000))), 64);
    let silent = Copy::of("bert").json(settings, |s| s["max_seq_length"] = Value::Null);
    assert_eq!(length(silent), 64);
    let tokenizer = Copy::of("bert").json("tokenizer_config.json", |c| c["model_max_length"] = json!(20));
    fs::remove_file(tokenizer.path().join(settings)).unwrap();
    assert_eq!(length(tokenizer), 20);
    let endless = Copy::of("bert").json("tokenizer_config.json", |c| c["model_max_length"] = json!(1e30));
    fs::remove_file(endless.path().join(settings)).unwrap();
    assert_eq!(length(endless), 64);
    let zero = Copy::of("bert").json(settings, |s| s["max_seq_length"] = json!(0)).refusal();
    says(&zero, &[settings, "max_seq_length", "found 0"]);
    // The fixture's tokenizer lower-cases, so doing it before changes nothing; another's would.
    let lower = Copy::of("bert").json(settings, |s| s["do_lower_case"] = json!(true));
    assert_eq!(lower.import().info.max_text_tokens, 48);
    let cased = lower.json("tokenizer.json", |t| t["normalizer"]["lowercase"] = json!(false));
    says(&cased.refusal(), &[settings, "do_lower_case", "tokenizer.json"]);
}

#[test]
fn deeper_models_have_the_same_layers() {
    for name in ["bert-mlm", "distilbert"] {
        let (shallow, deep) = (import(&fixture(name)).unwrap(), Copy::of(name).with_layers(24).import());
        assert_eq!(deep.info.layers, 24);
        let count =
            |model: &Imported, layer: u32| model.graph.nodes().iter().filter(|node| node.layer == Some(layer)).count();
        assert_eq!(count(&deep, 23), count(&shallow, 1));
    }
}

/// Imports a folder and reads all its weights.
fn import_whole(folder: &Path) -> Result<(), String> {
    let model = import(folder).map_err(|e| e.to_string())?;
    for weight in &model.graph.declarations().weights {
        model.weights.get(&weight.name).map_err(|e| e.to_string())?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_changed_byte_is_an_error_or_nothing(
        file in prop::sample::select(vec!["config.json", "modules.json", "1_Pooling/config.json", "model.safetensors"]),
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
    ) {
        let copy = Copy::of("bert");
        let path = copy.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        // Of the weights, the header.
        let at = at.index(bytes.len().min(6000));
        bytes[at] = with;
        fs::write(&path, bytes).unwrap();
        if let Err(message) = import_whole(copy.path()) {
            prop_assert!(!message.is_empty());
        }
    }

    #[test]
    fn any_number_in_a_config_is_an_error_or_nothing(
        fixture in prop::sample::select(vec!["bert-mlm", "roberta", "distilbert", "modernbert"]),
        field in any::<prop::sample::Index>(),
        number in prop_oneof![any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from), (0u64..200).prop_map(Value::from)],
    ) {
        let copy = Copy::of(fixture).json("config.json", |config| {
            let fields = config.as_object_mut().unwrap();
            let names: Vec<String> = fields.keys().cloned().collect();
            fields.insert(names[field.index(names.len())].clone(), number);
        });
        let _ = import_whole(copy.path());
    }
}
