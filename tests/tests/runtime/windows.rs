//! Decoders whose layers see only the last rows: what they compute, on an adapter against the reference evaluator, while
//! pages are forgotten and reused; and long prompts.

use serde_json::json;
use warpweft_compiler::WeightChoice;
use warpweft_compiler::graph::Op;
use warpweft_models::Imported;
use warpweft_plan::{Input, OutputKind, Plan, Role};
use warpweft_runtime::{
    Engine, Model, Options, Part, RuntimeError, Sampling, Scheduler, Session, Submission, block_on,
};
use warpweft_tests::{Copy, Decoder, Runner, compiled, plan_file, runners, worst};

/// The greatest difference of scores of sessions of so many rows: what the evaluator's contract says, and what angles of
/// rotation lose, which are as exact as an f32 of their row's number (as transformers' are; the evaluator's are f64).
fn tolerance(rows: usize) -> f32 {
    if rows <= 320 { 1e-4 } else { 1e-4 + rows as f32 * 2e-7 }
}

const VOCAB: usize = 640;
/// Rows of a page.
const PAGE: u64 = 32;

fn ids(seed: usize, count: usize) -> Vec<u32> {
    (0..count).map(|i| (3 + (seed * 37 + i * 101 + i * i * 7) % (VOCAB - 6)) as u32).collect()
}

/// A fixture with so many layers, whose windows are `window` rows, the row itself included.
fn model(name: &str, layers: usize, window: Option<usize>, positions: usize) -> Imported {
    let copy = Copy::of(name).with_layers(layers).set("max_position_embeddings", json!(positions));
    match window {
        Some(rows) => copy.set("sliding_window", json!(rows)).set("sliding_window_size", json!(rows)).import(),
        None => copy.import(),
    }
}

/// The evaluator's logits after each row.
fn expected(model: &Imported, ids: &[u32]) -> Vec<f32> {
    let mut decoder = Decoder::new(model);
    ids.chunks(256).flat_map(|ids| decoder.step(ids).get(OutputKind::Logits).data.clone()).collect()
}

/// Each target in its turn. A window has kernels of its own, which take a driver longer to compile than to run, so tests use
/// the same few windows, each on the same target.
fn runner_of(window: usize) -> Runner {
    let mut runners = runners();
    let turn = window % runners.len();
    runners.swap_remove(turn)
}

fn open(model: &Imported, runner: &Runner, options: &Options) -> Model {
    open_changed(model, runner, options, |_| ())
}

/// The same kernels, but no row is ever forgotten.
fn open_keeping_all(model: &Imported, runner: &Runner) -> Model {
    open_changed(model, runner, &Options::default(), |plan| {
        for buffer in &mut plan.buffers {
            buffer.role = match buffer.role {
                Role::Cache { rows, .. } => Role::Cache { window: None, rows },
                Role::Input(Input::WindowPages) => Role::Input(Input::Pages),
                other => other,
            };
        }
    })
}

fn open_changed(model: &Imported, runner: &Runner, options: &Options, change: impl FnOnce(&mut Plan)) -> Model {
    let mut compiled = compiled(model, &[&runner.target.name], WeightChoice::Keep);
    change(&mut compiled.plan);
    let own = runner.options();
    let options = Options { adapter: own.adapter, target: own.target, ..options.clone() };
    Model::from_plan(plan_file(model, &compiled), &options, &mut |_| ()).unwrap()
}

fn add(engine: &mut Engine, session: &mut Session, ids: &[u32]) -> Vec<f32> {
    block_on(engine.advance(OutputKind::Logits, &mut [Part { session, ids }])).unwrap().values
}

/// Adds rows and compares their scores with those of a whole sequence.
#[track_caller]
fn check(engine: &mut Engine, session: &mut Session, ids: &[u32], expected: &[f32], what: &str) {
    let first = session.len();
    let found = add(engine, session, ids);
    let difference = worst(&found, &expected[first * VOCAB..session.len() * VOCAB]);
    let tolerance = tolerance(session.len());
    assert!(difference <= tolerance, "{what}, {} rows after {first}: off by {difference:e}", ids.len());
}

fn used(engine: &Engine) -> u64 {
    engine.window_rows() - engine.free_window_rows()
}

/// The most rows that one session holds in the caches with windows while a step adds rows.
fn alive(window: usize, rows: usize) -> u64 {
    (window as u64 - 1 + PAGE + PAGE - 1 + rows as u64).next_multiple_of(PAGE)
}

fn windows(plan: &Plan) -> Vec<Option<u32>> {
    let window = |role| match role {
        Role::Cache { window, .. } => Some(window),
        Role::Weight { .. } | Role::Scratch | Role::Input(_) | Role::Output => None,
    };
    plan.buffers.iter().filter_map(|buffer| window(buffer.role)).collect()
}

#[test]
fn caches_are_marked_by_what_reads_them() {
    let target = runners()[0].target.name.clone();
    let of = |model: &Imported| {
        assert!(model.graph.ids().any(|id| matches!(model.graph.node(id).op, Op::Append(_))));
        windows(&compiled(model, &[&target], WeightChoice::Keep).plan)
    };
    assert_eq!(of(&model("mistral", 3, Some(40), 256)), [Some(39); 6]);
    assert_eq!(of(&model("mistral", 3, Some(256), 256)), [None; 6]);
    assert_eq!(of(&model("llama", 2, None, 256)), [None; 4]);
    assert_eq!(of(&model("gemma2", 3, Some(1), 256)), [Some(0), Some(0), None, None, Some(0), Some(0)]);
}

#[test]
fn any_window_and_any_prompt() {
    // Smaller than the prompts, as long as some, longer than all; with borders on those of pages and beside them.
    for (name, windows) in [("mistral", &[1, 32, 33, 90][..]), ("gemma2", &[33, 64])] {
        for &window in windows {
            let model = model(name, 2, Some(window), 512);
            let prompt = ids(window, 80);
            let expected = expected(&model, &prompt);
            let runner = runner_of(window);
            let mut model = open(&model, &runner, &Options::default());
            let engine = model.engine_mut();
            for rows in [1, 31, 32, 33, 64, 65, 80] {
                let what = format!("{name} {runner}, window {window}, prompt {rows}");
                let mut session = engine.session().unwrap();
                check(engine, &mut session, &prompt[..rows], &expected, &what);
                for next in rows..prompt.len().min(rows + 3) {
                    check(engine, &mut session, &prompt[next..next + 1], &expected, &what);
                }
                let left = &prompt[session.len()..];
                left.chunks(7).for_each(|ids| check(engine, &mut session, ids, &expected, &what));
                assert!(used(engine) <= alive(window, 1).max(PAGE * 3), "{what}: {}", used(engine));
            }
            assert_eq!(engine.free_window_rows(), engine.window_rows());
            assert_eq!(engine.free_rows(), engine.cache_rows());
        }
    }
}

/// Three sessions in turns, one of them dropped and begun again all the time, in a pool that has room for them only
/// because they forget.
#[test]
fn forgotten_pages_serve_others() {
    const ROWS: usize = 320;
    for (name, window) in [("mistral", 33), ("gemma2", 64)] {
        let model = model(name, 2, Some(window), 512);
        let prompts = [ids(1, ROWS), ids(2, ROWS), ids(3, ROWS)];
        let expected = prompts.clone().map(|ids| expected(&model, &ids));
        // So many rows all have at once; a model all of whose layers have windows needs no more. The others have rows that
        // last, too.
        let most = 2 * alive(window, 9) + alive(window, 40);
        let context = if name == "mistral" { most as u32 } else { 1024 };
        let runner = runner_of(window);
        let mut model = open(&model, &runner, &Options { context: Some(context), ..Options::default() });
        let engine = model.engine_mut();
        if name == "mistral" {
            assert_eq!((engine.cache_rows(), engine.window_rows()), (most, most));
            assert_eq!(engine.context_limit().0, 512);
        } else {
            assert_eq!((engine.cache_rows(), engine.window_rows()), (1024, 1024));
        }
        let mut sessions = [(); 3].map(|()| engine.session().unwrap());
        let mut highest = 0;
        let what = format!("{name} {runner}, window {window}");
        while sessions[0].len() < ROWS {
            for (i, (session, (prompt, expected))) in sessions.iter_mut().zip(prompts.iter().zip(&expected)).enumerate()
            {
                let at = session.len();
                let count = if i == 2 { 40 } else { [1, 1, 9, 1, 4][at % 5] };
                check(engine, session, &prompt[at..(at + count).min(ROWS)], expected, &what);
                highest = highest.max(used(engine));
                if session.len() == ROWS && i > 0 {
                    *session = engine.session().unwrap();
                }
            }
        }
        assert!(highest <= most, "{what}: {highest} rows");
        let [last, second, third] = sessions;
        drop((second, third));
        assert!((window as u64..=alive(window, 1)).contains(&used(engine)), "{what}: what a row sees is kept");
        drop(last);
        assert_eq!(engine.free_window_rows(), engine.window_rows(), "{what}");
    }
}

#[test]
fn one_session_never_has_more_than_its_window() {
    let window = 20;
    let imported = model("mistral", 2, Some(window), 1024);
    let prompt = ids(5, 700);
    let expected = expected(&imported, &prompt);
    let runner = runners().remove(0);
    // As little as there can be: three pages, of which 700 rows would take 22.
    let mut model = open(&imported, &runner, &Options { context: Some(1), ..Options::default() });
    let engine = model.engine_mut();
    assert_eq!((engine.window_rows(), engine.context_limit().0), (96, 1024));
    let mut keeping = open_keeping_all(&imported, &runner);
    let mut all = keeping.session().unwrap();
    let mut session = engine.session().unwrap();
    block_on(engine.prepare(OutputKind::Logits, &mut |_| ())).unwrap();
    let step = engine.step_rows(OutputKind::Logits);
    assert_eq!(step, 96 - 19 - 63);
    while session.len() < prompt.len() {
        let at = session.len();
        let count = [step, 1, 2][at % 3].min(prompt.len() - at);
        let ids = &prompt[at..at + count];
        let found = add(engine, &mut session, ids);
        assert!(worst(&found, &expected[at * VOCAB..][..count * VOCAB]) <= tolerance(at), "{count} rows after {at}");
        // Where a row lies changes nothing.
        assert_eq!(found, add(keeping.engine_mut(), &mut all, ids), "{count} rows after {at}");
        assert!(used(engine) <= 96);
    }
    assert_eq!(keeping.engine().cache_rows() - keeping.engine().free_rows(), 704);
    // What the last row sees is there to compute it again, and to compute what follows on a cut.
    let next = block_on(engine.whole_row(&session)).unwrap();
    assert!(worst(&next, &expected[699 * VOCAB..]) <= tolerance(700));
    for rows in [699, 690, 680, 669] {
        assert_eq!(session.truncate(rows), rows);
        let next = block_on(engine.whole_row(&session)).unwrap();
        assert!(worst(&next, &expected[(rows - 1) * VOCAB..rows * VOCAB]) <= tolerance(700));
        check(engine, &mut session, &prompt[rows..rows + 1], &expected, "after a cut");
    }
    assert_eq!(session.truncate(400), 0);
    assert_eq!((session.len(), engine.free_window_rows()), (0, 96));
    check(engine, &mut session, &prompt[..step], &expected, "anew");
    // A step of more rows than there are is refused with both numbers.
    let part = Part { session: &mut session, ids: &prompt[..100] };
    let error = block_on(engine.advance(OutputKind::Logits, &mut [part])).unwrap_err();
    assert!(matches!(error, RuntimeError::CacheFull { needed: 96, free: 64, limit: 96, .. }), "{error}");
    assert!(error.to_string().starts_with("the cache of sliding windows has no room for 96 more rows"), "{error}");
    assert_eq!(session.len(), step);
}

#[test]
fn forks_and_cuts() {
    let window = 33;
    for name in ["mistral", "gemma2"] {
        let model = model(name, 2, Some(window), 512);
        let (prompt, other) = (ids(1, 300), ids(9, 60));
        let expected_of = |kept: usize| expected(&model, &[&prompt[..kept], &other].concat());
        let runner = runner_of(window);
        let whole = expected(&model, &prompt);
        let mut opened = open(&model, &runner, &Options::default());
        let engine = opened.engine_mut();
        let mut trunk = engine.session().unwrap();
        check(engine, &mut trunk, &prompt[..200], &whole, name);
        let held = (used(engine), engine.free_rows());
        let mut fork = trunk.fork();
        assert_eq!((used(engine), engine.free_rows()), held);
        // The trunk forgets pages that its fork still needs, and takes others.
        prompt[200..].chunks(10).for_each(|ids| check(engine, &mut trunk, ids, &whole, name));
        check(engine, &mut fork, &other, &expected_of(200), name);
        drop(trunk);
        // Rows 192 .. are kept: 260 - 32 - 32 = 196.
        for (cut, kept) in [(259, 259), (229, 229), (225, 225), (224, 0), (100, 0)] {
            let mut fork = fork.fork();
            assert_eq!(fork.truncate(cut), kept, "{name}");
            let all = [&prompt[..200], &other[..]].concat();
            check(engine, &mut fork, &all[kept..], &expected_of(200), name);
        }
        drop(fork);
        assert_eq!((engine.free_window_rows(), engine.free_rows()), (engine.window_rows(), engine.cache_rows()));
        // A session that has forgotten nothing may be cut anywhere.
        let mut session = engine.session().unwrap();
        check(engine, &mut session, &prompt[..95], &whole, name);
        for cut in [64, 33, 32, 5, 0] {
            assert_eq!(session.truncate(cut), cut);
            check(engine, &mut session, &prompt[cut..cut + 2], &whole, name);
        }
    }
}

/// Prompts that are longer than the pool has rows, in one queue.
#[test]
fn the_queue_takes_what_there_is_room_for() {
    let window = 33;
    let model = model("mistral", 2, Some(window), 512);
    let runner = runner_of(window);
    let mut opened = open(&model, &runner, &Options { context: Some(256), ..Options::default() });
    let prompts = [ids(1, 400), ids(2, 300), ids(3, 350)];
    let sampling = Sampling { max_tokens: 5, ignore_eos: true, ..Sampling::default() };
    let alone: Vec<Vec<u32>> = prompts
        .iter()
        .map(|ids| {
            let mut session = opened.session().unwrap();
            let generation = session.generate_ids(&mut opened, ids, &sampling).unwrap();
            generation.map(|event| event.unwrap().token.id).collect()
        })
        .collect();
    let engine = opened.engine_mut();
    let mut queue = Scheduler::new();
    let mut answers = vec![Vec::new(); prompts.len()];
    let mut tickets = std::collections::HashMap::new();
    for (i, ids) in prompts.iter().enumerate() {
        tickets.insert(queue.submit(engine, engine.session().unwrap(), ids.clone()).unwrap(), i);
    }
    let mut steps = 0;
    while !queue.is_empty() {
        steps += 1;
        assert!(steps < 200);
        for done in block_on(queue.step(engine)).unwrap() {
            let (i, id) = (tickets[&done.ticket], done.result.unwrap().ids[0]);
            answers[i].push(id);
            if answers[i].len() < 5 {
                tickets.insert(queue.submit(engine, done.session, vec![id]).unwrap(), i);
            }
        }
        let together: u64 = engine.submissions().iter().map(|s: &Submission| s.rows).sum();
        assert!(together <= 256 && used(engine) <= 256);
    }
    assert_eq!(answers, alone);
    assert_eq!(used(engine), 0);
}

#[test]
fn memory_is_accounted_for_by_what_windows_need() {
    let runner = runners().remove(0);
    let bytes = |window: Option<usize>| {
        let model = model("gemma2", 2, window, 8192);
        let mut opened = open(&model, &runner, &Options { context: Some(8192), ..Options::default() });
        let engine = opened.engine_mut();
        let (all, windows) = (engine.cache_rows(), engine.window_rows());
        let mut session = engine.session().unwrap();
        ids(1, 3000).chunks(300).for_each(|ids| drop(add(engine, &mut session, ids)));
        (all, windows, engine.account(OutputKind::Logits, 1).unwrap().cache)
    };
    // Keys and values of 2 heads of 24 columns.
    let row = 2 * 48 * 4;
    let (all, windows, cache) = bytes(Some(16));
    assert_eq!((all, windows), (8192, 8192));
    assert_eq!(cache, 4096 * row + 512 * row);
    // The same layers with a window that hides nothing.
    let (all, windows, cache) = bytes(Some(8192));
    assert_eq!((all, windows, cache), (8192, 0, 4096 * row * 2));
}

#[test]
fn a_prompt_of_4096_rows() {
    for (name, window) in [("a window that hides nothing", 4200), ("a window of 700", 700)] {
        let model = model("mistral", 1, Some(window), 4200);
        let prompt = ids(7, 4100);
        let expected = expected(&model, &prompt);
        let runner = runners().remove(0);
        let mut opened = open(&model, &runner, &Options::default());
        let whole = opened.logits_ids(&[&prompt[..4096]]).unwrap().values;
        let difference = worst(&whole, &expected[..4096 * VOCAB]);
        println!("{name}: {difference:.1e}");
        assert!(difference <= tolerance(4096), "{name}: off by {difference:e}");
        let engine = opened.engine_mut();
        let mut session = engine.session().unwrap();
        // Where a row lies changes nothing.
        let mut keeping = (window < 4096).then(|| open_keeping_all(&model, &runner));
        let mut all = keeping.as_ref().map(|keeping| keeping.session().unwrap());
        for ids in prompt[..4096].chunks(1500).chain(prompt[4096..].chunks(1)) {
            let at = session.len();
            let found = add(engine, &mut session, ids);
            let expected = &expected[at * VOCAB..(at + ids.len()) * VOCAB];
            assert!(worst(&found, expected) <= tolerance(4100), "{name}: {} rows after {at}", ids.len());
            if let (Some(keeping), Some(all)) = (&mut keeping, &mut all) {
                assert_eq!(found, add(keeping.engine_mut(), all, ids), "{name}: {} rows after {at}", ids.len());
            }
        }
    }
}
