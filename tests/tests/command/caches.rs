//! Formats of caches through the command.

use serde_json::{Value, json};
use warpweft_tests::{Reference, fixture};

use crate::{Built, list, run, text};

/// Bytes of a row of all caches of the llama fixture: four layers, keys and values, two heads of 16 columns.
const ROWS: [(&str, u64); 4] =
    [("f32", 4 * 2 * 2 * 64), ("f16", 4 * 2 * 2 * 32), ("int8", 4 * 2 * 2 * 32), ("fp8", 4 * 2 * 2 * 32)];

fn folder() -> String {
    text(&fixture("llama")).to_owned()
}

#[test]
fn caches_are_chosen_when_a_model_is_compiled() {
    let built = Built::of_fixture("llama");
    let other = text(&built.file("other.weft")).to_owned();
    for (format, row_bytes) in ROWS {
        let arguments = ["build", &folder(), "-o", &other, "--targets", "webgpu", "--cache", format];
        assert_eq!(run(&arguments).code, 0);
        let cache = run(&["inspect", &other, "--json"]).json()["cache"].clone();
        assert_eq!(cache, json!({"format": format, "row_bytes": row_bytes}));
        warpweft_tests::says(&run(&["inspect", &other]).out, &["cache", &format!("a token in {format}")]);
        let need = run(&["fit", &folder(), "--memory", "4GiB", "--cache", format, "--json"]).json();
        assert_eq!(need["need"]["cache_per_token"], row_bytes);
    }
    // 16-bit floats unless something else is asked for, and nothing for encoders.
    assert_eq!(run(&["build", &folder(), "-o", &other, "--targets", "webgpu"]).code, 0);
    assert_eq!(run(&["inspect", &other, "--json"]).json()["cache"]["format"], "f16");
    let encoder = Built::of_fixture("bert");
    assert_eq!(run(&["inspect", text(&encoder.plan()), "--json"]).json()["cache"], Value::Null);
    // A plan has what it was made with.
    for command in [&["run", &other, "--ids", "1"][..], &["bench", &other], &["fit", &other]] {
        run(&[command, &["--cache", "int8"]].concat()).refuses(2, &["--cache int8 is for checkpoints", "build"]);
    }
    run(&["build", &folder(), "-o", &other, "--cache", "f8"]).refuses(2, &["f8", "f32, f16, int8, fp8"]);
}

#[test]
fn folders_are_compiled_with_the_cache_that_is_asked_for() {
    let ids = list(&Reference::of("llama").ids("input_ids"));
    let shape = ["--prompt-tokens", "20", "--new-tokens", "4", "--repeat", "1", "--warmup", "0", "--json"];
    let bytes = |format: &str| {
        let report = run(&[&["bench", &folder(), "--cache", format], &shape[..]].concat()).json();
        report["cache_bytes_per_token"].as_f64().unwrap()
    };
    // Halfway there are 22 rows.
    assert_eq!([bytes("f32"), bytes("f16")], [22.0 * 1024.0, 22.0 * 512.0]);
    let ids_written = |format: &str| {
        run(&["run", &folder(), "--ids", &ids, "-n", "8", "--ignore-eos", "--cache", format, "--json"]).json()["ids"]
            .clone()
    };
    assert_eq!(ids_written("f16"), json!(Reference::of("llama").ids("greedy_ids")[..8]));
    assert_eq!(ids_written("f32"), ids_written("f16"));
}
