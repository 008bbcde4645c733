//! Checkpoint folders that are damaged, that lie, or that are none: each gets an error that says what is wrong.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;
use warpweft_models::Checkpoint;
use warpweft_models::checkpoint::{HeaderError, read_header};
use warpweft_tests::{fixture, says};

/// A safetensors file of that header and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A header with one f32 tensor of 2 × 3 elements.
fn one() -> Vec<u8> {
    file(r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#, &[0; 24])
}

/// A folder with a config and these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// The message with which a folder is refused.
fn refusal(folder: &Path) -> String {
    Checkpoint::open(folder).map(|_| ()).unwrap_err().to_string()
}

fn header_refusal(header: &str, data: &[u8]) -> String {
    read_header(&file(header, data)).unwrap_err().to_string()
}

#[test]
fn good_files_are_read() {
    let entries = read_header(&one()).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].name.as_str(), entries[0].shape.as_slice()), ("a", [2, 3].as_slice()));
    assert_eq!(entries[0].end - entries[0].begin, 24);
    assert_eq!(entries[0].end, one().len() as u64);
    // Numbers without an axis, tensors without elements, every type there is.
    let odd = r#"{"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"e":{"dtype":"F32","shape":[0,4],"data_offsets":[8,8]},
        "b":{"dtype":"BOOL","shape":[3],"data_offsets":[8,11]},"u":{"dtype":"U8","shape":[1],"data_offsets":[11,12]},
        "f":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[12,14]},"h":{"dtype":"F4","shape":[4],"data_offsets":[14,16]}}"#;
    assert_eq!(read_header(&file(odd, &[0; 16])).unwrap().len(), 6);
    assert!(read_header(&file("{}", &[])).unwrap().is_empty());
}

#[test]
fn every_truncation_is_refused() {
    let good = one();
    for length in 0..good.len() {
        assert!(read_header(&good[..length]).is_err(), "{length} bytes");
    }
    assert!(matches!(read_header(&good[..7]), Err(HeaderError::TooShort { file: 7 })));
    assert!(matches!(read_header(&good[..40]), Err(HeaderError::Truncated { file: 40, .. })));
    let message = read_header(&good[..good.len() - 1]).unwrap_err().to_string();
    says(&message, &["\"a\"", "0..24", "23"]);
}

#[test]
fn lying_headers_are_refused() {
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    says(&read_header(&huge).unwrap_err().to_string(), &["18446744073709551615", "100000000"]);
    let a = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let refused = |header: String| header_refusal(&header, &[0; 24]);
    says(&refused(a("F32", "[2,3]", "[0,25]")), &["\"a\"", "0..25", "24"]);
    says(&refused(a("F32", "[2,3]", "[24,0]")), &["\"a\"", "24..0"]);
    says(&refused(a("F32", "[2,3]", "[0,18446744073709551615]")), &["\"a\"", "18446744073709551615"]);
    says(&refused(a("F32", "[2,3]", "[-1,24]")), &["\"a\"", "-1"]);
    says(&refused(a("F32", "[2,4]", "[0,24]")), &["\"a\"", "found 24 bytes", "expected 32", "[2, 4]"]);
    says(&refused(a("F16", "[2,3]", "[0,24]")), &["\"a\"", "found 24 bytes", "expected 12", "F16"]);
    let overflow = "[4294967296,4294967296,4294967296]";
    says(&refused(a("F32", overflow, "[0,24]")), &["\"a\"", "found 24 bytes", "less than 2^64"]);
    says(&refused(a("F4", "[3]", "[0,1]")), &["\"a\"", "whole bytes"]);
    says(&refused(a("F31", "[2,3]", "[0,24]")), &["\"a\"", "F31"]);
    says(&refused(a("F32", "[1,1,1,1,1,1,1,2,3]", "[0,24]")), &["\"a\"", "9 axes"]);
    says(&refused(a("F32", "[2,3]", "[0]")), &["\"a\""]);
    says(&refused(a("F32", "[2.5,3]", "[0,24]")), &["\"a\"", "2.5"]);
    says(&refused(r#"{"a":7}"#.to_owned()), &["\"a\""]);
    says(&refused("[]".to_owned()), &["damaged"]);
    says(&refused("\u{1}".to_owned()), &["damaged"]);
    says(&read_header(&[&1u64.to_le_bytes()[..], &[0xff]].concat()).unwrap_err().to_string(), &["damaged"]);
}

#[test]
fn ranges_must_cover_the_data_once() {
    let two = |first: &str, second: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{first}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{second}}}}}"#
        )
    };
    assert!(read_header(&file(&two("[8,16]", "[0,8]"), &[0; 16])).is_ok());
    says(&header_refusal(&two("[0,8]", "[4,12]"), &[0; 12]), &["\"b\"", "first byte at 4", "expected 8", "\"a\""]);
    says(&header_refusal(&two("[0,8]", "[0,8]"), &[0; 8]), &["\"b\"", "expected 8"]);
    says(&header_refusal(&two("[0,8]", "[12,20]"), &[0; 20]), &["\"b\"", "first byte at 12"]);
    says(&header_refusal(&two("[4,12]", "[12,20]"), &[0; 20]), &["\"a\"", "first byte at 4", "the header"]);
    says(&header_refusal(&two("[0,8]", "[8,16]"), &[0; 17]), &["found 17", "expected 16"]);
    let twice =
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    says(&header_refusal(twice, &[0; 2]), &["\"a\" occurs twice"]);
}

#[test]
fn folders_that_are_none() {
    let here = tempfile::tempdir().unwrap();
    says(&refusal(&here.path().join("absent")), &["absent", "no such folder", "config.json"]);
    says(&refusal(here.path()), &["no config.json"]);
    let full = folder(&[("model.safetensors", &one())]);
    assert!(Checkpoint::open(full.path()).is_ok());
    says(&refusal(&full.path().join("model.safetensors")), &["this is a file", "folder"]);
    let empty = folder(&[]);
    says(&refusal(empty.path()), &["model.safetensors", "download"]);
    let old = folder(&[("pytorch_model.bin", b"x")]);
    says(&refusal(old.path()), &["pytorch_model.bin is not read", "save_pretrained"]);
    let odd = folder(&[]);
    fs::create_dir(odd.path().join("model.safetensors")).unwrap();
    says(&refusal(odd.path()), &["model.safetensors", "found a folder"]);
    let short = folder(&[("model.safetensors", b"")]);
    says(&refusal(short.path()), &["model.safetensors", "found 0 bytes"]);
    let page = folder(&[("model.safetensors", b"<html>404: not found</html>")]);
    says(&refusal(page.path()), &["model.safetensors", "not a safetensors file"]);
}

#[test]
fn shards_are_found_and_checked() {
    let sharded = |map: serde_json::Value| {
        let index = json!({ "metadata": {}, "weight_map": map }).to_string();
        folder(&[("model.safetensors.index.json", index.as_bytes()), ("one.safetensors", &one())])
    };
    let good = sharded(json!({"a": "one.safetensors"}));
    let checkpoint = Checkpoint::open(good.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a"]);
    assert_eq!(checkpoint.tensor("a").unwrap().bytes.len(), 24);
    assert!(checkpoint.tensor("b").is_none());

    let index = "model.safetensors.index.json";
    let missing = refusal(sharded(json!({"a": "one.safetensors", "b": "two.safetensors"})).path());
    says(&missing, &[index, "\"two.safetensors\" is missing"]);
    let absent = refusal(sharded(json!({"a": "one.safetensors", "b": "one.safetensors"})).path());
    says(&absent, &[index, "\"b\" is not in \"one.safetensors\""]);
    for name in ["../one.safetensors", "../../etc/passwd", "/etc/passwd", "x/one.safetensors", "..", ".", "", "a\\b"] {
        says(&refusal(sharded(json!({"a": name})).path()), &[index, "without a folder"]);
    }
    says(&refusal(sharded(json!(["a"])).path()), &[index, "not valid"]);
    let damaged = folder(&[(index, b"{\"weight_map\"")]);
    says(&refusal(damaged.path()), &[index, "not valid JSON"]);
    let cut = folder(&[(index, br#"{"weight_map":{"a":"one.safetensors"}}"#), ("one.safetensors", &one()[..90])]);
    says(&refusal(cut.path()), &["one.safetensors", "cut short"]);
}

/// The bytes of a number in one of the types.
type Cut = fn(f32) -> Vec<u8>;

#[test]
fn values_that_are_no_numbers_are_found() {
    let mut values = vec![0.5f32; 5000];
    let check = |values: &[f32], cut: Cut, dtype: &str| {
        let data: Vec<u8> = values.iter().flat_map(|&x| cut(x)).collect();
        let header = json!({"w": {"dtype": dtype, "shape": [50, 100], "data_offsets": [0, data.len()]}}).to_string();
        let folder = folder(&[("model.safetensors", &file(&header, &data))]);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        checkpoint.tensor("w").unwrap().check_finite().map_err(|e| e.to_string())
    };
    let cuts: [(Cut, &str); 3] = [
        (|x| x.to_le_bytes().to_vec(), "F32"),
        (|x| half::f16::from_f32(x).to_le_bytes().to_vec(), "F16"),
        (|x| half::bf16::from_f32(x).to_le_bytes().to_vec(), "BF16"),
    ];
    for (cut, dtype) in cuts {
        check(&values, cut, dtype).unwrap();
    }
    values[4242] = f32::NAN;
    values[4800] = f32::INFINITY;
    for (cut, dtype) in cuts {
        let message = check(&values, cut, dtype).unwrap_err();
        says(&message, &["model.safetensors", "tensor w", "NaN", "element 4242", "[42, 42]", "[50, 100]", "finite"]);
    }
    values[4242] = 0.0;
    for (cut, dtype) in cuts {
        says(&check(&values, cut, dtype).unwrap_err(), &["inf", "element 4800"]);
    }
}

#[test]
fn a_released_tensor_is_read_again() {
    let checkpoint = Checkpoint::open(&fixture("bert-mlm")).unwrap();
    let names: Vec<&str> = checkpoint.names().collect();
    for name in names {
        let before = checkpoint.tensor(name).unwrap().bytes.to_vec();
        checkpoint.release(name);
        assert_eq!(checkpoint.tensor(name).unwrap().bytes, before);
    }
    checkpoint.release("no such tensor");
}

#[test]
fn shards_hold_the_same_as_the_safetensors_crate_reads() {
    let folder = fixture("xlm-roberta");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let mut seen = 0;
    for shard in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        let bytes = fs::read(folder.join(shard)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, expected) in tensors.tensors() {
            let found = checkpoint.tensor(&name).unwrap();
            assert_eq!(found.bytes, expected.data());
            assert!(found.shape.iter().zip(expected.shape()).all(|(&a, &b)| a == b as u64));
            assert_eq!(found.stored.name(), expected.dtype().to_string());
            found.check_finite().unwrap();
            seen += 1;
        }
    }
    assert_eq!(seen, checkpoint.names().count());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_header(&bytes);
    }

    #[test]
    fn a_changed_byte_never_leads_outside_the_file(at in 0usize..200, with in any::<u8>()) {
        let mut bytes = one();
        let at = at % bytes.len();
        bytes[at] = with;
        if let Ok(entries) = read_header(&bytes) {
            for entry in entries {
                prop_assert!(entry.begin <= entry.end && entry.end <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn any_offsets_are_inside_or_refused(
        tensors in prop::collection::vec((0usize..6, prop::collection::vec(0u64..5, 0..3), 0u64..40, 0u64..40), 0..4),
        length in 0usize..64,
    ) {
        let types = ["F32", "F16", "BF16", "I64", "BOOL", "F4"];
        let members: Vec<String> = tensors
            .iter()
            .enumerate()
            .map(|(i, (dtype, shape, begin, end))| {
                format!(r#""t{i}":{{"dtype":"{}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#, types[*dtype])
            })
            .collect();
        let bytes = file(&format!("{{{}}}", members.join(",")), &vec![0; length]);
        if let Ok(entries) = read_header(&bytes) {
            prop_assert_eq!(entries.iter().map(|e| e.end - e.begin).sum::<u64>(), length as u64);
            prop_assert!(entries.iter().all(|e| e.end <= bytes.len() as u64));
            prop_assert!(safetensors::SafeTensors::deserialize(&bytes).is_ok() || entries.is_empty());
        }
    }
}
