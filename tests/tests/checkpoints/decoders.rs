//! From decoder folders to graphs: both spellings of config.json, what is refused, and what goes along with the weights.

use std::fs;

use proptest::prelude::*;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use warpweft_models::{Imported, import};
use warpweft_plan::{Assets, OutputKind};
use warpweft_tests::{Copy, Tensors, demo, fixture, says, worst};

/// Layers, vocabulary, positions, ends of text.
type Facts = (u32, u32, u32, &'static [u32]);

/// Fixture and family.
const FIXTURES: [(&str, &str, Facts); 11] = [
    ("gemma2", "gemma2", (4, 640, 8192, &[1])),
    ("gemma3", "gemma3_text", (7, 640, 1024, &[1, 638])),
    ("gpt2", "gpt2", (3, 512, 128, &[511])),
    ("gpt_neox", "gpt_neox", (3, 520, 64, &[511])),
    ("llama", "llama", (4, 512, 2048, &[507, 508, 511])),
    ("llama-sharded", "llama", (4, 640, 4096, &[2])),
    ("llama-yarn", "llama", (3, 517, 256, &[507])),
    ("mistral", "mistral", (4, 640, 32_768, &[2])),
    // Longer sequences have other frequencies.
    ("phi3", "phi3", (4, 640, 64, &[635])),
    ("qwen2", "qwen2", (4, 520, 32_768, &[511])),
    ("qwen3", "qwen3", (4, 512, 40_960, &[511])),
];

/// The values of a weight that the importer made.
fn generated(model: &Imported, name: &str) -> Vec<f32> {
    model.weights.get(name).unwrap().bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn every_fixture_is_imported() {
    for (name, family, (layers, vocab_size, max_positions, eos_ids)) in FIXTURES {
        let model = import(&fixture(name)).unwrap();
        let info = &model.info;
        assert_eq!((info.family.as_str(), info.layers, info.vocab_size), (family, layers, vocab_size), "{name}");
        assert_eq!((info.max_positions, info.eos_ids.as_slice()), (max_positions, eos_ids), "{name}");
        let outputs: Vec<&str> = model.graph.outputs().iter().map(|o| o.name.as_str()).collect();
        assert_eq!(outputs, ["hidden", "logits", "next", "candidates"]);
        assert_eq!(model.graph.declarations().caches.len(), 2 * layers as usize);
        for weight in &model.graph.declarations().weights {
            let value = model.weights.get(&weight.name).unwrap();
            assert_eq!((value.dtype, value.shape), (weight.dtype, weight.shape.as_slice()), "{}", weight.name);
        }
        assert!((0..layers).all(|i| model.graph.nodes().iter().any(|node| node.layer == Some(i))));
        for text in [Assets::TOKENIZER, Assets::TOKENIZER_CONFIG, Assets::GENERATION_CONFIG] {
            assert!(model.assets.texts.contains_key(text), "{name}: {text}");
        }
    }
}

#[test]
fn the_demo_is_imported() {
    let model = import(&demo().join("model")).unwrap();
    let info = &model.info;
    assert_eq!(
        (info.layers, info.vocab_size, info.max_positions, info.eos_ids.as_slice()),
        (8, 4096, 512, &[4092][..])
    );
}

#[test]
fn both_spellings_are_the_same_model() {
    let newer = |name: &str, parameters: Value| {
        Copy::of(name).json("config.json", move |config| {
            let fields = config.as_object_mut().unwrap();
            for field in ["rope_theta", "rope_scaling", "torch_dtype", "rotary_pct", "rotary_emb_base"] {
                fields.remove(field);
            }
            fields.remove("original_max_position_embeddings");
            config["dtype"] = json!("float32");
            config["rope_parameters"] = parameters;
        })
    };
    let scaling = |name: &str| -> Value {
        let config: Value =
            serde_json::from_str(&fs::read_to_string(fixture(name).join("config.json")).unwrap()).unwrap();
        config["rope_scaling"].clone()
    };
    let mut llama = scaling("llama");
    llama["rope_theta"] = json!(500_000.0);
    let mut phi3 = scaling("phi3");
    phi3["rope_theta"] = json!(10_000.0);
    phi3["rope_type"] = json!("longrope");
    phi3["partial_rotary_factor"] = json!(1.0);
    let phi3_copy = newer("phi3", phi3).set("original_max_position_embeddings", json!(64));
    let mut yarn = scaling("llama-yarn");
    yarn["rope_type"] = json!("yarn");
    let neox = json!({"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.25});
    let plain = |theta: f64| json!({"rope_type": "default", "rope_theta": theta});
    for (name, copy) in [
        ("llama", newer("llama", llama)),
        ("llama-yarn", newer("llama-yarn", yarn)),
        ("phi3", phi3_copy),
        ("gpt_neox", newer("gpt_neox", neox)),
        ("mistral", newer("mistral", plain(10_000.0))),
        ("qwen3", newer("qwen3", plain(1_000_000.0))),
    ] {
        let (old, new) = (import(&fixture(name)).unwrap(), copy.import());
        assert_eq!(old.graph, new.graph, "{name}");
        assert_eq!(generated(&old, "rotary frequencies"), generated(&new, "rotary frequencies"), "{name}");
    }
    let older = Copy::of("gemma3").json("config.json", |config| {
        let fields = config.as_object_mut().unwrap();
        fields.remove("rope_parameters");
        fields.remove("layer_types");
        fields.insert("rope_scaling".into(), json!({"rope_type": "linear", "factor": 8.0}));
        fields.insert("rope_theta".into(), json!(1_000_000.0));
        fields.insert("rope_local_base_freq".into(), json!(10_000.0));
        fields.insert("sliding_window_pattern".into(), json!(6));
    });
    let (old, new) = (older.import(), import(&fixture("gemma3")).unwrap());
    assert_eq!(old.graph, new.graph);
    for reach in ["full", "sliding"] {
        let name = format!("rotary frequencies of {reach}_attention");
        assert_eq!(generated(&old, &name), generated(&new, &name));
    }
}

#[test]
fn frequencies_are_those_of_transformers() {
    let cases: Value = serde_json::from_str(&fs::read_to_string(fixture("rope.json")).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let copy = Copy::of("llama").json("config.json", |config| {
            let fields = config.as_object_mut().unwrap();
            fields.remove("rope_theta");
            fields.remove("rope_scaling");
            fields.extend(case["config"].as_object().unwrap().clone());
        });
        let model = copy.import();
        let expected: Vec<f32> =
            case["frequencies"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        let ratios: Vec<f32> = generated(&model, "rotary frequencies")
            .iter()
            .zip(&expected)
            .map(|(found, expected)| found / expected)
            .collect();
        assert!(worst(&ratios, &[1.0; 8]) < 1e-6, "{}: {ratios:?}", case["config"]);
        let scale = case["scale"].as_f64().unwrap() as f32;
        assert!(model.graph.to_string().contains(&format!(" {scale:?})")), "{}: scale {scale}", case["config"]);
    }
}

#[test]
fn positions_end_where_frequencies_change() {
    let positions = |copy: Copy| copy.import().info.max_positions;
    let long = |original: u32| {
        json!({
            "rope_type": "longrope", "short_factor": vec![1.0; 8], "long_factor": vec![2.0; 8],
            "original_max_position_embeddings": original
        })
    };
    assert_eq!(positions(Copy::of("llama").set("rope_scaling", long(300))), 300);
    assert_eq!(positions(Copy::of("llama").set("rope_scaling", long(4096))), 2048);
    let dynamic = json!({"rope_type": "dynamic", "factor": 4.0});
    assert_eq!(positions(Copy::of("llama").set("rope_scaling", dynamic)), 2048);
}

#[test]
fn windows_are_read_as_transformers_reads_them() {
    let masks = |copy: Copy| {
        let text = copy.import().graph.to_string();
        text.lines().filter(|line| line.contains("(band-mask ")).map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    let windows = |copy: Copy| {
        masks(copy).iter().map(|mask| mask.split("(band-mask ").nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let without = |name: &str, field: &str| {
        let field = field.to_owned();
        Copy::of(name).json("config.json", move |config| drop(config.as_object_mut().unwrap().remove(&field)))
    };
    assert_eq!(windows(Copy::of("mistral")), ["15 0 context)"]);
    assert_eq!(windows(without("mistral", "sliding_window")), ["4095 0 context)"]);
    assert_eq!(windows(Copy::of("mistral").set("sliding_window", Value::Null)), ["-1 0 context)"]);
    // A window that no sequence fills hides nothing.
    assert_eq!(windows(Copy::of("mistral").set("sliding_window", json!(32_768))), ["-1 0 context)"]);
    assert_eq!(windows(Copy::of("qwen2")), ["-1 0 context)"]);
    let sliding = Copy::of("qwen2").set("use_sliding_window", json!(true)).set("sliding_window", json!(8));
    assert_eq!(windows(sliding), ["-1 0 context)"]);
    let sliding = Copy::of("qwen3").set("use_sliding_window", json!(true)).set("sliding_window", json!(8));
    assert_eq!(windows(sliding.set("max_window_layers", json!(2))), ["-1 0 context)", "7 0 context)"]);
    assert_eq!(windows(Copy::of("gemma2")), ["15 0 context)", "-1 0 context)"]);
    assert_eq!(windows(Copy::of("phi3").set("sliding_window", json!(8))), ["7 0 context)"]);
}

#[test]
fn other_models_under_known_names_are_refused() {
    let full = "full_attention";
    let cases = [
        (
            "llama",
            "rope_scaling",
            json!({"rope_type": "ntk"}),
            vec!["rope_scaling.rope_type", "\"ntk\"", "llama3, yarn"],
        ),
        ("llama", "rope_scaling", json!({"type": "mrope"}), vec!["rope_scaling.type", "\"mrope\""]),
        ("llama", "rope_scaling", json!({"type": "linear"}), vec!["rope_scaling.factor", "nothing"]),
        ("llama", "rope_scaling", json!({"type": "llama3", "factor": 2.0}), vec!["low_freq_factor"]),
        ("llama", "rope_scaling", json!({"type": "longrope"}), vec!["short_factor", "a list of 8"]),
        ("llama", "rope_scaling", json!([1]), vec!["rope_scaling", "an object"]),
        ("llama", "rope_theta", json!(-1), vec!["rope_theta", "positive"]),
        ("llama", "num_key_value_heads", json!(3), vec!["num_key_value_heads", "divisor of the 4"]),
        ("llama", "head_dim", json!(15), vec!["head_dim", "in pairs"]),
        ("llama", "head_dim", json!(1 << 20), vec!["head_dim", "at most"]),
        ("llama", "hidden_act", json!("mish"), vec!["hidden_act", "silu"]),
        ("llama-yarn", "rope_theta", json!(1e-300), vec!["finite"]),
        ("gemma2", "use_bidirectional_attention", json!(true), vec!["use_bidirectional_attention", "false"]),
        ("gemma2", "layer_types", json!([full]), vec!["layer_types", "a list of 4"]),
        ("gemma2", "attn_logit_softcapping", json!(0), vec!["attn_logit_softcapping", "positive"]),
        ("gemma3", "attn_logit_softcapping", json!(5.0), vec!["attn_logit_softcapping", "null"]),
        ("gemma3", "sliding_window", json!(0), vec!["sliding_window", "1 to"]),
        ("gpt2", "add_cross_attention", json!(true), vec!["add_cross_attention", "false"]),
        ("gpt2", "n_head", json!(5), vec!["n_head", "divisor of the hidden size 64"]),
        ("gpt_neox", "rotary_pct", json!(1.5), vec!["head_dim", "at most the 18"]),
        ("gpt_neox", "num_attention_heads", json!(4), vec!["num_attention_heads", "54"]),
        ("phi3", "rope_scaling", json!({"type": "linear", "factor": 2.0}), vec!["rope_scaling.type", "longrope"]),
        ("qwen3", "layer_types", json!([full, full, full, "sliding_attention"]), vec!["use_sliding_window", "true"]),
        ("qwen2", "model_type", json!("qwen2_moe"), vec!["model_type", "qwen2, qwen3"]),
    ];
    for (name, field, value, parts) in cases {
        says(&Copy::of(name).set(field, value).refusal(), &[&["config.json"], parts.as_slice()].concat());
    }
    let wrong = [json!(0), json!(-1), json!(1.5), json!("64"), json!(u64::MAX)];
    let fields = ["hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size"];
    for name in ["llama", "gemma2", "gemma3", "phi3", "gpt_neox"] {
        for (field, value) in fields.iter().flat_map(|field| wrong.iter().map(move |value| (field, value))) {
            let refusal = Copy::of(name).set(field, value.clone()).refusal();
            says(&refusal, &["config.json", field, "an integer from 1 to"]);
        }
    }
}

#[test]
fn wrong_tensors_are_named_with_both_shapes() {
    let name = "model.layers.2.self_attn.k_proj.weight";
    let missing = Copy::of("llama").tensors(|t| drop(t.remove(name))).refusal();
    says(&missing, &["model.safetensors", name, "missing", "[32, 64]"]);
    let shape = Copy::of("llama").tensors(|t| t.get_mut(name).unwrap().1 = vec![64, 32]).refusal();
    says(&shape, &[name, "found shape [64, 32]", "expected [32, 64]"]);
    let none = Copy::of("llama").tensors(|t| t.clear()).refusal();
    says(&none, &["model.embed_tokens.weight", "missing"]);
    let heads = Copy::of("llama").set("num_key_value_heads", json!(4)).refusal();
    says(&heads, &["layers.0.self_attn.k_proj.weight", "found shape [32, 64]", "expected [64, 64]"]);
    let bias = Copy::of("llama").set("attention_bias", json!(true)).refusal();
    says(&bias, &["layers.0.self_attn.q_proj.bias", "missing", "[64]"]);
    let unread = Copy::of("llama-yarn").set("mlp_bias", json!(false)).refusal();
    says(&unread, &["9 of the file's tensors", "layers.0.mlp.down_proj.bias"]);
    let layers = Copy::of("gpt_neox").set("num_hidden_layers", json!(2)).refusal();
    says(&layers, &["12 of the file's tensors", "gpt_neox.layers.2."]);
    let untied = Copy::of("llama").set("tie_word_embeddings", json!(false)).refusal();
    says(&untied, &["lm_head.weight", "missing", "[512, 64]"]);
    let head_bias = |t: &mut Tensors| drop(t.insert("lm_head.bias".into(), (Dtype::F32, vec![2], vec![0; 8])));
    says(&Copy::of("llama").tensors(head_bias).refusal(), &["lm_head.bias"]);
    let transposed = |t: &mut Tensors| t.get_mut("h.1.mlp.c_fc.weight").unwrap().1 = vec![256, 64];
    says(&Copy::of("gpt2").tensors(transposed).refusal(), &["h.1.mlp.c_fc.weight", "[256, 64]", "expected [64, 256]"]);
}

#[test]
fn base_prefixes_are_found() {
    let bases = [("llama", "model."), ("gemma2", "model."), ("phi3", "model."), ("gpt_neox", "gpt_neox.")];
    for (name, base) in bases {
        let with = import(&fixture(name)).unwrap().graph.to_string();
        let strip = |t: &mut Tensors| {
            let bare = |name: String| name.strip_prefix(base).map(str::to_owned).unwrap_or(name);
            *t = std::mem::take(t).into_iter().map(|(name, tensor)| (bare(name), tensor)).collect();
        };
        let without = Copy::of(name).tensors(strip).import().graph.to_string();
        assert_eq!(with.replace(&format!("\"{base}"), "\""), without);
    }
    let prefix = |t: &mut Tensors| {
        *t = std::mem::take(t).into_iter().map(|(name, tensor)| (format!("transformer.{name}"), tensor)).collect();
    };
    let with = Copy::of("gpt2").tensors(prefix).import().graph.to_string();
    assert_eq!(with.replace("\"transformer.", "\""), import(&fixture("gpt2")).unwrap().graph.to_string());
}

#[test]
fn what_is_not_needed_is_passed_over() {
    let more = |t: &mut Tensors| {
        t.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), (Dtype::F32, vec![8], vec![0; 32]));
        t.insert("model.rotary_emb.inv_freq".into(), (Dtype::F32, vec![8], vec![0; 32]));
        let table = t["model.embed_tokens.weight"].clone();
        t.insert("lm_head.weight".into(), table);
    };
    assert_eq!(Copy::of("llama").tensors(more).import().graph, import(&fixture("llama")).unwrap().graph);
    let renamed = |t: &mut Tensors| {
        let head = t.remove("embed_out.weight").unwrap();
        t.insert("lm_head.weight".into(), head);
    };
    let names =
        |model: &Imported| model.graph.declarations().weights.iter().map(|w| w.name.clone()).collect::<Vec<_>>();
    assert!(names(&Copy::of("gpt_neox").tensors(renamed).import()).contains(&"lm_head.weight".to_owned()));
    let tied = Copy::of("gpt_neox").set("tie_word_embeddings", json!(true)).import();
    assert!(!names(&tied).contains(&"embed_out.weight".to_owned()));
}

#[test]
fn ends_of_text_are_those_of_generation_config() {
    let ids = |copy: &Copy| copy.import().info.eos_ids;
    let file = "generation_config.json";
    let with = |value: Value| Copy::of("llama").json(file, move |config| config["eos_token_id"] = value);
    assert_eq!(ids(&with(json!(9))), [9]);
    assert_eq!(ids(&with(json!([9, 3, 9, 100_000, -1]))), [3, 9]);
    assert_eq!(ids(&with(Value::Null)), [507, 508, 511]);
    says(&with(json!("</s>")).refusal(), &[file, "eos_token_id", "an id or a list of ids"]);
    says(&with(json!([1, "x"])).refusal(), &[file, "eos_token_id", "a list of 2"]);
    let without = Copy::of("llama");
    fs::remove_file(without.path().join(file)).unwrap();
    assert_eq!(ids(&without), [507, 508, 511]);
    assert!(!without.import().assets.texts.contains_key(Assets::GENERATION_CONFIG));
    assert!(ids(&without.set("eos_token_id", Value::Null)).is_empty());
    fs::write(Copy::of("llama").path().join(file), "[]").unwrap();
    let damaged = Copy::of("llama");
    fs::write(damaged.path().join(file), "[]").unwrap();
    says(&damaged.refusal(), &[file, "an object"]);
}

#[test]
fn chat_templates_are_found() {
    let template = |copy: &Copy| copy.import().assets.texts.get(Assets::CHAT_TEMPLATE).cloned();
    let file = "tokenizer_config.json";
    says(&template(&Copy::of("llama")).unwrap(), &["<|start_header_id|>", "add_generation_prompt"]);
    let with = |value: Value| Copy::of("llama").json(file, move |config| config["chat_template"] = value);
    let named = json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
    assert_eq!(template(&with(named)).unwrap(), "d");
    assert_eq!(template(&with(Value::Null)), None);
    says(&with(json!([{"name": "rag", "template": "r"}])).refusal(), &[file, "chat_template", "default"]);
    says(&with(json!(7)).refusal(), &[file, "chat_template", "found 7"]);
    let own = with(json!("config"));
    fs::write(own.path().join("chat_template.jinja"), "file").unwrap();
    assert_eq!(template(&own).unwrap(), "file");
    fs::remove_file(own.path().join(file)).unwrap();
    assert_eq!(template(&own).unwrap(), "file");
}

#[test]
fn embeddings_of_decoders_need_sentence_transformers() {
    assert!(import(&fixture("qwen3")).unwrap().graph.output(OutputKind::Embedding).is_none());
    let copy = Copy::of("qwen3");
    let modules = json!([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]);
    fs::write(copy.path().join("modules.json"), modules.to_string()).unwrap();
    fs::create_dir(copy.path().join("1_Pooling")).unwrap();
    fs::write(copy.path().join("1_Pooling/config.json"), "{\"pooling_mode_mean_tokens\": true}").unwrap();
    assert!(copy.import().graph.output(OutputKind::Embedding).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_number_in_a_config_is_an_error_or_nothing(
        fixture in prop::sample::select(vec!["llama", "llama-yarn", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox", "qwen3"]),
        inside in any::<bool>(),
        field in any::<prop::sample::Index>(),
        number in prop_oneof![any::<i64>().prop_map(Value::from), any::<f64>().prop_map(Value::from), (0u64..200).prop_map(Value::from)],
    ) {
        let copy = Copy::of(fixture).json("config.json", |config| {
            let nested = ["rope_scaling", "rope_parameters"].into_iter().find(|name| config[name].is_object());
            let object = match nested {
                Some(name) if inside => &mut config[name],
                _ => config,
            };
            let fields = object.as_object_mut().unwrap();
            let names: Vec<String> = fields.keys().cloned().collect();
            fields.insert(names[field.index(names.len())].clone(), number);
        });
        // A model of thousands of layers is refused only after the missing tensor is seen.
        let _ = import(copy.path()).map_err(|e| e.to_string());
    }
}
