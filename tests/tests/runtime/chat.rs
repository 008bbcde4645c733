//! Texts of decoders: ids, chat templates and answers, as Hugging Face has them.

use serde_json::Value;
use warpweft_plan::Assets;
use warpweft_runtime::{Finish, Message, Model, Options, RuntimeError, Sampling};
use warpweft_tests::fixture;

use crate::tiny::decoder;

const NAMES: [&str; 8] = ["llama", "llama-sharded", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "gpt2"];

fn open(assets: &Assets, vocab_size: u32) -> Model {
    let mut plan = decoder::plan();
    plan.model.vocab_size = vocab_size;
    Model::from_plan(decoder::open(&plan, assets), &Options::default(), &mut |_| ()).unwrap()
}

/// The hand-written decoder with the texts of a fixture.
fn model(name: &str) -> Model {
    let mut assets = Assets::default();
    for (key, file) in [(Assets::TOKENIZER, "tokenizer.json"), (Assets::TOKENIZER_CONFIG, "tokenizer_config.json")] {
        assets.insert(key, std::fs::read_to_string(fixture(name).join(file)).unwrap());
    }
    open(&assets, decoder::VOCAB as u32)
}

fn cases(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(name).join("tokenizer_cases.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn ids_are_those_of_the_reference() {
    for name in NAMES {
        let mut model = model(name);
        for case in cases(name)["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let engine = model.engine_mut();
            assert_eq!(engine.encode(text, true).unwrap(), ids(&case["ids"]), "{name}: {text:?}");
            assert_eq!(engine.encode(text, false).unwrap(), ids(&case["ids_no_special"]), "{name}: {text:?}");
            let all = ids(&case["ids"]);
            assert_eq!(engine.decode(&all, false).unwrap(), case["decoded"].as_str().unwrap(), "{name}");
            assert_eq!(engine.decode(&all, true).unwrap(), case["decoded_with_special"].as_str().unwrap(), "{name}");
        }
    }
}

#[test]
fn chats_are_those_of_the_reference() {
    for name in NAMES {
        let mut model = model(name);
        for case in cases(name)["chat"].as_array().unwrap() {
            let list = case["messages"].as_array().unwrap().iter();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let messages: Vec<_> = list.map(|m| Message::new(text(&m["role"]), text(&m["content"]))).collect();
            let prompted = case["add_generation_prompt"].as_bool().unwrap();
            let rendered = model.engine_mut().render_chat(&messages, prompted);
            match case["error"].as_str() {
                Some(expected) => {
                    let error = rendered.unwrap_err();
                    assert_eq!(error.to_string(), format!("the chat template: {expected}"), "{name}");
                }
                None => {
                    assert_eq!(rendered.as_deref().unwrap(), case["text"].as_str().unwrap(), "{name}");
                    let found = model.engine_mut().encode(&rendered.unwrap(), false).unwrap();
                    assert_eq!(found, ids(&case["ids"]), "{name}");
                }
            }
        }
    }
    let none = model("gpt2").engine_mut().render_chat(&[], true).unwrap_err();
    assert_eq!(none.to_string(), "the chat template: it has none");
}

/// A tokenizer of the hand-written decoder's ids: letters, and one token that ends a text.
const LETTERS: &str = r#"{
  "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
  "added_tokens": [{"id": 12, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
  "pre_tokenizer": {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": false},
  "decoder": {"type": "Fuse"},
  "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5, "g": 6, "h": 7, "i": 8, "j": 9, "k": 10, "l": 11, "<end>": 12}, "unk_token": "a"}
}"#;

fn letters() -> Model {
    let mut assets = Assets::default();
    assets.insert(Assets::TOKENIZER, LETTERS);
    assets.insert(
        Assets::CHAT_TEMPLATE,
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}k{% endif %}",
    );
    open(&assets, decoder::VOCAB as u32)
}

fn text(ids: &[u32]) -> String {
    ids.iter().filter(|&&id| id < 12).map(|&id| char::from(b'a' + id as u8)).collect()
}

#[test]
fn texts_go_on_token_by_token() {
    let mut model = letters();
    let mut session = model.session().unwrap();
    let sampling = Sampling { max_tokens: 12, ignore_eos: true, ..Sampling::default() };
    let prompt: Vec<u32> = (0..9).collect();
    let expected = decoder::greedy(&prompt, 24);
    for turn in 0..2 {
        let given = if turn == 0 { "abcdefghi" } else { "" };
        let events: Vec<_> =
            session.generate(&mut model, given, &sampling).unwrap().map(|event| event.unwrap()).collect();
        let wanted = &expected[12 * turn..][..12];
        assert_eq!(events.iter().map(|e| e.token.id).collect::<Vec<_>>(), wanted);
        assert_eq!(events.iter().map(|e| e.text.as_str()).collect::<String>(), text(wanted));
        assert_eq!(events[11].finish, Some(Finish::Length));
        assert!(events.iter().all(|e| e.token.log_probability < 0.0));
    }
}

#[test]
fn answers_end_at_stop_texts_and_ids() {
    let mut model = letters();
    let prompt = "abcdefghi";
    let start: Vec<u32> = (0..9).collect();
    let all = decoder::greedy(&start, 40);
    let sampling = Sampling { max_tokens: 40, ignore_eos: true, ..Sampling::default() };
    // Two letters that first stand together at the third place or later.
    let pairs = all.windows(2).enumerate();
    let (at, pair) =
        pairs.skip(2).find(|(i, pair)| !pair.contains(&12) && !text(&all[..i + 1]).contains(&text(pair))).unwrap();
    let stop = vec!["zzz".to_owned(), text(pair)];
    let mut session = model.session().unwrap();
    let mut generation = session.generate(&mut model, prompt, &Sampling { stop, ..sampling.clone() }).unwrap();
    let shown: String = generation.by_ref().map(|event| event.unwrap().text).collect();
    assert_eq!((shown, generation.finish()), (text(&all[..at]), Some(Finish::Stop)));
    drop(generation);
    // A prompt after which the text soon ends.
    let ending =
        (0..13 * 13).map(|i| vec![i % 13, i / 13, 3]).find(|ids| decoder::greedy(ids, 30).contains(&12)).unwrap();
    let written = decoder::greedy(&ending, 30);
    let count = written.iter().position(|&id| id == 12).unwrap() + 1;
    let mut session = model.session().unwrap();
    let sampling = Sampling { ignore_eos: false, ..sampling };
    let events: Vec<_> =
        session.generate_ids(&mut model, &ending, &sampling).unwrap().map(|event| event.unwrap()).collect();
    assert_eq!(events.iter().map(|e| e.token.id).collect::<Vec<_>>(), written[..count]);
    assert_eq!(events[count - 1].finish, Some(Finish::Stop));
    assert_eq!(events.iter().map(|e| e.text.as_str()).collect::<String>(), text(&written[..count]));
}

#[test]
fn seeds_repeat_and_rare_tokens_need_the_whole_row() {
    let mut model = letters();
    let mut run = |seed, temperature| -> Vec<u32> {
        let sampling =
            Sampling { temperature, seed: Some(seed), max_tokens: 60, ignore_eos: true, ..Sampling::default() };
        let mut session = model.session().unwrap();
        session.generate(&mut model, "abc", &sampling).unwrap().map(|event| event.unwrap().token.id).collect()
    };
    // So hot that the four candidates seldom decide.
    let hot = run(1, 5.0);
    assert_eq!(hot, run(1, 5.0));
    assert_ne!(hot, run(2, 5.0));
    assert!((0..12).all(|id| hot.contains(&id)), "{hot:?}");
    let biased = Sampling { logit_bias: vec![(11, 100.0)], max_tokens: 3, ..Sampling::default() };
    let mut session = model.session().unwrap();
    let found: String =
        session.generate(&mut model, "abc", &biased).unwrap().map(|event| event.unwrap().text).collect();
    assert_eq!(found, "lll");
}

#[test]
fn a_conversation_keeps_its_rows() {
    let mut model = letters();
    let mut session = model.session().unwrap();
    let sampling = Sampling { max_tokens: 4, ignore_eos: true, ..Sampling::default() };
    let mut messages = vec![Message::new("user", "abcdef")];
    let mut generation = session.answer(&mut model, &messages, &sampling).unwrap();
    let said: String = generation.by_ref().map(|event| event.unwrap().text).collect();
    assert_eq!(generation.prompt_tokens(), 7);
    drop(generation);
    let first: Vec<u32> = (0..6).chain([10]).collect();
    assert_eq!(said, text(&decoder::greedy(&first, 4)));
    messages.push(Message::new("assistant", format!("k{said}")));
    messages.push(Message::new("user", "ab"));
    let generation = session.answer(&mut model, &messages, &sampling).unwrap();
    // All but the last token of the first answer have rows.
    assert_eq!(generation.prompt_tokens(), said.len() - 3 + 2 + 1);
}

#[test]
fn trouble_leaves_the_session_sound() {
    let mut model = letters();
    let mut session = model.session().unwrap();
    let sampling = Sampling { max_tokens: 300, ignore_eos: true, ..Sampling::default() };
    let long = "abc".repeat(70);
    assert!(matches!(
        session.generate(&mut model, &long, &sampling),
        Err(RuntimeError::Context { rows: 210, limit: 200, .. })
    ));
    assert!(matches!(session.generate(&mut model, "", &sampling), Err(RuntimeError::Empty { .. })));
    let wrong = Sampling { top_p: 2.0, ..Sampling::default() };
    let error = session.generate(&mut model, "abc", &wrong).err().unwrap();
    assert_eq!(error.to_string(), "top_p is 2, it must be above 0, at most 1");
    // The answer fills the context and ends there.
    let mut generation = session.generate(&mut model, "abc", &sampling).unwrap();
    assert_eq!((generation.by_ref().count(), generation.finish()), (198, Some(Finish::Length)));
    drop(generation);
    assert_eq!(session.len(), 200);
    let plain = open(&Assets::default(), decoder::VOCAB as u32);
    let mut plain = plain;
    let mut session = plain.session().unwrap();
    assert!(matches!(session.generate(&mut plain, "abc", &sampling), Err(RuntimeError::Tokenizer(_))));
    let few = Sampling { max_tokens: 3, ..Sampling::default() };
    let events: Vec<_> = session.generate_ids(&mut plain, &[1, 2], &few).unwrap().map(|event| event.unwrap()).collect();
    assert!(events.iter().all(|event| event.text.is_empty()) && events.len() == 3);
}
