//! The command as a process: streams, the cache, Ctrl-C.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// The command. Where a test moves its caches, that of Mesa's drivers stays where it is: what they compile is not looked at.
fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_compile-model"));
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    if let Some(caches) = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home) {
        command.env("MESA_SHADER_CACHE_DIR", caches);
    }
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A copy of a fixture.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&fixture(name), folder.path());
    folder
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

#[test]
fn exit_codes_and_streams() {
    let help = command().arg("--help").output().unwrap();
    assert_eq!((help.status.code(), help.stderr.len()), (Some(0), 0));
    let usage = command().arg("--nonsense").output().unwrap();
    assert_eq!((usage.status.code(), usage.stdout.len()), (Some(2), 0));
    let failure = command().args(["inspect", "no/such/plan"]).output().unwrap();
    assert_eq!((failure.status.code(), failure.stdout.len()), (Some(1), 0));
    assert!(
        stderr(&failure).starts_with("error: no/such/plan: no such file or folder\nhint: "),
        "{}",
        stderr(&failure)
    );
}

/// Embeds one id with a folder that is compiled on the fly.
fn embed(checkpoint: &Path, caches: &Path) -> Output {
    let output = command()
        .args(["embed", checkpoint.to_str().unwrap(), "--ids", "1,2,3"])
        .env("XDG_CACHE_HOME", caches)
        .env("HOME", caches)
        .env("LOCALAPPDATA", caches)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    output
}

fn plans(caches: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(caches).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(plans(&path));
        } else if path.extension().is_some_and(|extension| extension == "weft") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn a_folder_is_compiled_once() {
    let (caches, checkpoint) = (tempfile::tempdir().unwrap(), copy("bert"));
    let first = embed(checkpoint.path(), caches.path());
    assert!(stderr(&first).contains("compiling"), "{}", stderr(&first));
    let kept = plans(caches.path());
    assert_eq!(kept.len(), 1, "{kept:?}");
    let second = embed(checkpoint.path(), caches.path());
    assert!(!stderr(&second).contains("compiling"), "{}", stderr(&second));
    assert_eq!(first.stdout, second.stdout);
    // A damaged plan is made again.
    let good = fs::read(&kept[0]).unwrap();
    for bad in [&good[..good.len() / 2], b"nonsense".as_slice()] {
        fs::write(&kept[0], bad).unwrap();
        let third = embed(checkpoint.path(), caches.path());
        assert!(stderr(&third).contains("made again"), "{}", stderr(&third));
        assert_eq!(first.stdout, third.stdout);
        assert_eq!(fs::read(&kept[0]).unwrap(), good);
    }
    // The same content elsewhere is the same model; other content is another.
    let elsewhere = copy("bert");
    assert!(!stderr(&embed(elsewhere.path(), caches.path())).contains("compiling"));
    let config = fs::read_to_string(elsewhere.path().join("config.json")).unwrap();
    let config = config.replace("\"layer_norm_eps\": 1e-12", "\"layer_norm_eps\": 1e-1");
    fs::write(elsewhere.path().join("config.json"), config).unwrap();
    let other = embed(elsewhere.path(), caches.path());
    assert!(stderr(&other).contains("compiling") && other.stdout != first.stdout);
    assert_eq!(plans(caches.path()).len(), 2);
}

#[test]
fn a_cache_that_cannot_be_written_is_done_without() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = embed(&fixture("bert"), file.path());
    assert!(stderr(&output).contains("cannot be kept"), "{}", stderr(&output));
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing_behind() {
    let (checkpoint, out) = (large_checkpoint(), tempfile::tempdir().unwrap());
    let build = command()
        .args(["build", checkpoint.path().to_str().unwrap(), "--targets", "webgpu", "-o"])
        .arg(out.path().join("model.weft"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Somewhere in the middle: packing a gibibyte takes longer, and nothing else does.
    std::thread::sleep(Duration::from_millis(250));
    let killed = Command::new("kill").args(["-INT", &build.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = build.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

/// A BERT whose table of words is so large that packing it takes a while. Its file is sparse.
#[cfg(unix)]
fn large_checkpoint() -> TempDir {
    use std::io::Write;
    const ROWS: u64 = 4_000_000;
    let folder = copy("bert");
    let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["vocab_size"] = ROWS.into();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes[8..end]).unwrap();
    let words = header.keys().find(|name| name.contains("word_embeddings")).unwrap().clone();
    let mut at = 0;
    for (name, tensor) in header.iter_mut().filter(|(name, _)| *name != "__metadata__") {
        if *name == words {
            tensor["shape"][0] = ROWS.into();
        }
        let unit = if tensor["dtype"] == "I64" { 8 } else { 4 };
        let count: u64 = tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product();
        tensor["data_offsets"] = vec![at, at + count * unit].into();
        at += count * unit;
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(8 + header.len() as u64 + at).unwrap();
    folder
}

#[test]
fn a_closed_output_is_no_failure() {
    let mut child =
        command().args(["devices", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
}

/// Rates go into the user's configuration, kernels into the plan, which computes what it did.
#[test]
fn an_adapter_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, tuned) = (folder.path().join("plan.weft"), folder.path().join("tuned.weft"));
    let in_folder = |arguments: &[&str]| {
        let mut command = command();
        command.args(arguments).env("XDG_CONFIG_HOME", folder.path()).env("XDG_CACHE_HOME", folder.path());
        command.output().unwrap()
    };
    let checkpoint = fixture("bert");
    let [checkpoint, plan, tuned] = [&checkpoint, &plan, &tuned].map(|path| path.to_str().unwrap());
    let refused = in_folder(&["build", checkpoint, "-o", plan, "--tuned"]);
    assert!(stderr(&refused).contains("run `compile-model tune"), "{}", stderr(&refused));
    let built = in_folder(&["build", checkpoint, "-o", plan]);
    assert_eq!(built.status.code(), Some(0), "{}", stderr(&built));
    let ran = in_folder(&["tune", plan, "-o", tuned, "--seconds", "3", "--json"]);
    assert_eq!(ran.status.code(), Some(0), "{}", stderr(&ran));
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(text.contains("\"bandwidth\"") && text.contains("\"kernels\":[{"), "{text}");
    let rates = fs::read_dir(folder.path().join("warpweft/rates")).unwrap().count();
    assert_eq!(rates, 1);
    let embed = |plan: &str| in_folder(&["embed", plan, "--ids", "2,5,6,3", "--json"]);
    let numbers = |output: &Output| -> Vec<f32> {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let inner = text.split("[[").nth(1).unwrap().split("]]").next().unwrap();
        inner.split(',').map(|number| number.parse().unwrap()).collect()
    };
    let (before, after) = (embed(plan), embed(tuned));
    let (before, after) = (numbers(&before), numbers(&after));
    assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-4) && before.len() == after.len());
    let again = in_folder(&["build", checkpoint, "-o", plan, "--tuned"]);
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
}
