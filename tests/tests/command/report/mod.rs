//! The page that `compile-model report` writes, in a headless Chromium.

mod browser;

use std::fs;
use std::path::{Path, PathBuf};

use browser::Page;
use tempfile::TempDir;
use warpweft_models::import;
use warpweft_plan::{Assets, OutputKind, Plan, PlanFile, PlanWriter};
use warpweft_tests::{compiled, fixture};

use crate::{run, text};

/// A plan and its page in a folder of their own.
struct Reported {
    folder: TempDir,
    plan: Plan,
}

impl Reported {
    #[track_caller]
    fn of(checkpoint: &Path, targets: &str, options: &[&str]) -> Reported {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.weft");
        let built = run(&["build", text(checkpoint), "-o", text(&file), "--targets", targets]);
        assert_eq!(built.code, 0, "{}", built.err);
        Reported::drawn(folder, &file, options)
    }

    #[track_caller]
    fn drawn(folder: TempDir, file: &Path, options: &[&str]) -> Reported {
        let page = folder.path().join("page.html");
        let written = run(&[&["report", text(file), "-o", text(&page), "--json"], options].concat()).json();
        assert_eq!(written["bytes"].as_u64().unwrap(), fs::metadata(&page).unwrap().len());
        Reported { plan: PlanFile::open(file).unwrap().plan().clone(), folder }
    }

    fn page(&self) -> PathBuf {
        self.folder.path().join("page.html")
    }

    /// The index of a program.
    fn program(&self, target: &str, rows: u32, output: OutputKind) -> usize {
        let found = |p: &warpweft_plan::Program| p.target == target && p.min_rows == rows && p.output.kind == output;
        self.plan.programs.iter().position(found).unwrap()
    }
}

#[test]
fn a_page_leads_from_the_formula_to_kernels_and_their_proofs() {
    let reported = Reported::of(&fixture("gemma2"), "webgpu,subgroup8", &[]);
    let plan = &reported.plan;
    let mut page = Page::open(&reported.page(), "#rows=1&target=subgroup8&output=candidates&step=2");
    let program = &plan.programs[reported.program("subgroup8", 1, OutputKind::Candidates)];
    let kernel = |step: usize| &plan.kernels[program.steps[step].kernel];
    assert_eq!(page.text("h1"), plan.model.name);
    assert_eq!(page.text(".kernel-name"), kernel(2).name);

    // Every step of the layer is a card, and every card covers something of the formula or is within a proof.
    let layer = program.steps.iter().filter(|step| step.layer == Some(0)).count() as u64;
    assert_eq!(page.count("#program .card"), layer);
    assert!(page.count("#formula .node.owned") > layer);
    assert_eq!(page.count("#formula .node.op:not(.owned)"), 0, "what no kernel owns");

    // From a node of the formula to the kernel, its shader, letter by letter, and back.
    page.click("#formula .node.owned[aria-label^='%'][aria-label*='softmax']");
    let name = page.text(".kernel-name");
    assert!(name.contains("attention"), "{name}");
    page.click("#tab-wgsl");
    let shown = plan.kernels.iter().find(|k| k.name == name).unwrap();
    assert_eq!(page.text(".wgsl"), shown.wgsl);
    assert!(page.count(".wgsl .keyword") > 3 && page.count(".wgsl .type") > 3 && page.count(".wgsl .number") > 3);
    assert_eq!(page.count("#program .card.chosen"), 1);
    page.click("#tab-bindings");
    assert_eq!(page.count("#panel tbody tr"), shown.bindings.len() as u64);
    page.click("#tab-meaning");
    assert_eq!(page.text(".meaning"), shown.meaning);
    page.click("#tab-proof");
    assert!(page.count(".proof li") > 2, "a proof of more than its ends");
    assert!(page.count(".proof .badge") > 0 && page.count(".proof ins") > 0);

    // From a card of the program.
    page.click("#program .card");
    assert_eq!(page.text(".kernel-name"), kernel(1).name);

    // The keyboard does what the mouse does.
    page.press("j", "j");
    assert_eq!(page.text(".kernel-name"), kernel(2).name);
    page.value("document.querySelectorAll('#program .card')[3].focus()");
    page.press("Enter", "\r");
    assert_eq!(page.text(".kernel-name"), kernel(4).name);
    page.is_quiet();
}

#[test]
fn programs_are_chosen_on_the_page() {
    let reported = Reported::of(&fixture("qwen3"), "webgpu,subgroup8", &[]);
    let mut page = Page::open(&reported.page(), "");
    for (target, rows, label, output) in [
        ("webgpu", 17, "17–", OutputKind::Logits),
        ("subgroup8", 2, "2–16", OutputKind::Hidden),
        ("webgpu", 1, "1", OutputKind::Candidates),
    ] {
        for (name, value) in [("rows", label), ("target", target), ("output", output.name())] {
            page.value(&format!("document.querySelector(\"input[name='{name}'][value='{value}']\").click()"));
        }
        let program = &reported.plan.programs[reported.program(target, rows, output)];
        let hash = page.value("location.hash").as_str().unwrap().to_owned();
        assert!(hash.contains(&format!("target={target}&output={}", output.name())), "{hash}");
        // Far below, sections are drawn when they come into view.
        page.value("document.getElementById('search').scrollIntoView()");
        page.wait(&format!("document.querySelectorAll('#timeline .slice').length === {}", program.steps.len()));
        page.wait(&format!("document.querySelectorAll('#arena .alive').length === {}", program.steps.len()));
        let layer = program.steps.iter().filter(|step| step.layer == Some(0)).count() as u64;
        assert_eq!(page.count("#program .card"), layer);
        assert!(page.count("#shares tbody tr[data-steps]") > 3);
        assert!(page.count("#growth .applied") > 5);
        page.value("scrollTo(0, 0)");
    }
    page.is_quiet();
}

#[test]
fn a_page_suits_its_reader() {
    let reported = Reported::of(&fixture("bert"), "webgpu", &[]);
    let mut page = Page::open(&reported.page(), "");
    let background = "getComputedStyle(document.body).backgroundColor";
    let mut seen = Vec::new();
    for scheme in ["light", "dark"] {
        for width in [1440, 800, 480] {
            page.prefers(width, scheme);
            let too_wide = page.value("document.documentElement.scrollWidth - innerWidth").as_i64().unwrap();
            assert!(too_wide <= 0, "{too_wide} pixels wider than {width}");
        }
        seen.push(page.value(background));
    }
    assert_ne!(seen[0], seen[1]);
    page.click(".theme");
    assert_eq!(page.value(background), seen[0], "a reader may choose");
    page.is_quiet();
}

#[test]
fn measured_times_stand_beside_the_predicted_ones() {
    for (name, output) in [("qwen3", "candidates"), ("bert", "embedding")] {
        let reported = Reported::of(&fixture(name), "webgpu", &["--measure"]);
        let mut page = Page::open(&reported.page(), &format!("#rows=1&target=webgpu&output={output}&step=1"));
        page.value("document.getElementById('time').scrollIntoView()");
        page.wait("document.querySelectorAll('#timeline .strip').length === 2");
        let times = page.value("page.measured.programs.map((p) => p.steps)");
        let times: Vec<Vec<f64>> = serde_json::from_value(times).unwrap();
        assert_eq!(times.len(), 3, "a program for each range of rows");
        assert!(times.iter().flatten().all(|&t| (0.0..60.0).contains(&t)), "{times:?}");
        assert!(times.iter().all(|steps| steps.iter().sum::<f64>() > 0.0), "{times:?}");
        assert!(page.count("#shares .bar.measured") > 3);
        page.is_quiet();
    }
}

/// A plan whose every text tries to become more than text.
fn hostile(folder: &Path) -> PathBuf {
    const TRICK: &str = "</script><img src=x onerror=alert(1)><script>alert(2)</script><!--{data}";
    let model = import(&fixture("llama")).unwrap();
    let mut made = compiled(&model, &["webgpu"], Default::default());
    let plan = &mut made.plan;
    plan.model.name = TRICK.into();
    plan.model.family = format!("\"'><svg onload=alert(3)>{TRICK}");
    for (i, buffer) in plan.buffers.iter_mut().enumerate() {
        buffer.name = format!("{TRICK} {i}");
    }
    for (i, kernel) in plan.kernels.iter_mut().enumerate() {
        kernel.name = format!("{TRICK} {i}");
        kernel.wgsl = format!("{}\n// {TRICK}", kernel.wgsl);
        kernel.meaning = format!("# {TRICK}\n{}", kernel.meaning);
    }
    let provenance = plan.provenance.as_mut().unwrap();
    for (i, rule) in provenance.rules.iter_mut().enumerate() {
        rule.name = format!("{TRICK} {i}");
    }
    for name in provenance.regions.iter_mut().flat_map(|region| &mut region.weights) {
        *name = format!("{TRICK} {name}");
    }
    let file = folder.join("model.weft");
    let mut writer = PlanWriter::create(&file, plan, &Assets::default()).unwrap();
    for (i, tensor) in plan.tensors.iter().enumerate() {
        writer.tensor(i).unwrap();
        writer.write(&vec![0; tensor.bytes().unwrap() as usize]).unwrap();
    }
    writer.finish().unwrap();
    file
}

#[test]
fn text_of_a_plan_stays_text() {
    let folder = tempfile::tempdir().unwrap();
    let file = hostile(folder.path());
    let reported = Reported::drawn(folder, &file, &[]);
    let mut page = Page::open(&reported.page(), "");
    assert_eq!(page.text("h1"), reported.plan.model.name);
    assert!(page.text(".kernel-name").contains("onerror"));
    page.click("#tab-wgsl");
    assert!(page.text(".wgsl").contains("<script>alert(2)</script>"));
    for part in ["time", "memory", "search"] {
        page.value(&format!("document.getElementById('{part}').scrollIntoView()"));
        page.wait(&format!("document.querySelector('#{part} svg') !== null"));
    }
    page.value("document.querySelector('#program .card').dispatchEvent(new PointerEvent('pointermove'))");
    assert_eq!((page.count("img"), page.count("script")), (0, 3), "the page's own scripts alone");
    assert_eq!(page.count("[onerror], [onload], iframe, object, embed"), 0);
    page.is_quiet();
}

#[test]
fn a_page_is_written_only_where_one_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("model.weft");
    let model = import(&fixture("bert")).unwrap();
    let mut made = compiled(&model, &["webgpu"], Default::default());
    let write = |plan: &Plan, file: &Path| {
        let mut writer = PlanWriter::create(file, plan, &Assets::default()).unwrap();
        for (i, tensor) in plan.tensors.iter().enumerate() {
            writer.tensor(i).unwrap();
            writer.write(&vec![0; tensor.bytes().unwrap() as usize]).unwrap();
        }
        writer.finish().unwrap();
    };
    write(&made.plan, &plan);
    let before = fs::read(&plan).unwrap();
    run(&["report", text(&plan), "-o", text(&plan)]).refuses(2, &["is a plan"]);
    assert!(fs::read(&plan).unwrap() == before);
    let page = folder.path().join("none/page.html");
    run(&["report", text(&plan), "-o", text(&page)]).refuses(1, &["there is no folder"]);
    run(&["report", text(&plan), "-o", "x.html", "--adapter", "0"]).refuses(2, &["--measure"]);
    made.plan.provenance = None;
    write(&made.plan, &plan);
    run(&["report", text(&plan), "-o", text(&folder.path().join("page.html"))])
        .refuses(1, &["where its programs come from", "build"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}
