//! Who may know whom: read from what cargo resolves.
#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::process::Command;

use serde_json::Value;

/// Names of all packages that `package` can reach with all its features, through normal and build dependencies.
fn reach(package: &str) -> HashSet<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    // What other platforms need was never downloaded on a fresh machine.
    let arguments =
        ["metadata", "--format-version", "1", "--offline", "--all-features", "--filter-platform", "host-tuple"];
    let output = Command::new(cargo).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let names: HashMap<_, _> = list(&metadata["packages"]).iter().map(|p| (text(&p["id"]), text(&p["name"]))).collect();
    let shipped = |dependency: &Value| list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev");
    let edges: HashMap<_, Vec<_>> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|n| (text(&n["id"]), list(&n["deps"]).iter().filter(|d| shipped(d)).map(|d| text(&d["pkg"])).collect()))
        .collect();
    let mut todo: Vec<_> = names.iter().filter(|(_, name)| *name == package).map(|(id, _)| id.clone()).collect();
    assert_eq!(todo.len(), 1, "{package}");
    let mut seen = HashSet::new();
    while let Some(id) = todo.pop() {
        if seen.insert(id.clone()) {
            todo.extend(edges[&id].iter().cloned());
        }
    }
    seen.iter().map(|id| names[id].clone()).collect()
}

#[test]
fn the_runtime_knows_no_compiler() {
    let reached = reach("warpweft-runtime");
    assert!(reached.contains("warpweft-plan") && reached.contains("wgpu"));
    for never in ["warpweft-compiler", "warpweft-models", "compile-model", "egg"] {
        assert!(!reached.contains(never), "{never}");
    }
}

#[test]
fn the_plan_knows_no_one() {
    let reached = reach("warpweft-plan");
    for never in ["warpweft-runtime", "warpweft-compiler", "warpweft-models", "compile-model", "egg", "wgpu", "naga"] {
        assert!(!reached.contains(never), "{never}");
    }
}

#[test]
fn the_compiler_knows_no_device() {
    let reached = reach("warpweft-compiler");
    assert!(reached.contains("egg") && reached.contains("warpweft-plan"));
    for never in ["wgpu", "warpweft-runtime", "warpweft-models"] {
        assert!(!reached.contains(never), "{never}");
    }
}
