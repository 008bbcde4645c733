//! Every decoder, compiled and run where its turn is, against Hugging Face transformers: logits, greedy tokens, prompts in
//! pieces, sessions in turns, forks and cuts.

use warpweft_compiler::WeightChoice;
use warpweft_models::{Imported, import};
use warpweft_plan::OutputKind;
use warpweft_runtime::{Engine, Finish, Model, Part, Sampling, Scheduler, Session, block_on};
use warpweft_tests::{Reference, Runner, compiled, fixture, plan_file, runners, runners_of, worst};

/// fp32 arithmetic; what a family demands costs far more if it is forgotten.
const LOGITS: f32 = 5e-4;

struct Case {
    name: &'static str,
    imported: Imported,
    prompt: Vec<u32>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

impl Case {
    fn of(name: &'static str) -> Case {
        let reference = Reference::of(name);
        Case {
            name,
            imported: import(&fixture(name)).unwrap(),
            prompt: reference.ids("input_ids"),
            logits: reference.floats("logits"),
            greedy: reference.ids("greedy_ids"),
        }
    }

    fn open(&self, runner: &Runner) -> Model {
        let compiled = compiled(&self.imported, &[&runner.target.name], WeightChoice::Keep);
        runner.open(plan_file(&self.imported, &compiled))
    }

    /// Logits of every row, with the prompt cut in pieces.
    fn logits(&self, engine: &mut Engine, piece: usize) -> (Session, Vec<f32>) {
        let mut session = engine.session().unwrap();
        let mut logits = Vec::new();
        for ids in self.prompt.chunks(piece) {
            let part = Part { session: &mut session, ids };
            logits.extend(block_on(engine.advance(OutputKind::Logits, &mut [part])).unwrap().values);
        }
        (session, logits)
    }

    fn sampling(&self) -> Sampling {
        Sampling { max_tokens: self.greedy.len(), ignore_eos: true, ..Sampling::default() }
    }

    /// What is written after `ids`.
    fn written(&self, model: &mut Model, session: &mut Session, ids: &[u32]) -> Vec<u32> {
        let generation = session.generate_ids(model, ids, &self.sampling()).unwrap();
        generation.map(|event| event.unwrap().token.id).collect()
    }
}

/// Prompts of several sessions, in one queue; each sees a part of the prompt that the others don't.
fn interleaved(case: &Case, engine: &mut Engine) {
    let mut queue = Scheduler::new();
    queue.step_rows = Some(9);
    let lengths = [case.prompt.len(), 5, 20];
    let mut answers = vec![Vec::new(); lengths.len()];
    let mut tickets = Vec::new();
    for (index, &length) in lengths.iter().enumerate() {
        let session = engine.session().unwrap();
        tickets.push((queue.submit(engine, session, case.prompt[..length].to_vec()).unwrap(), index));
    }
    while !queue.is_empty() {
        for done in block_on(queue.step(engine)).unwrap() {
            let index = tickets.iter().find(|(ticket, _)| *ticket == done.ticket).unwrap().1;
            let id = done.result.unwrap().ids[0];
            answers[index].push(id);
            if answers[index].len() < case.greedy.len() {
                tickets.push((queue.submit(engine, done.session, vec![id]).unwrap(), index));
            }
        }
    }
    assert_eq!(answers[0], case.greedy, "{}: in turns", case.name);
    for (answer, &length) in answers.iter().zip(&lengths).skip(1) {
        let mut session = engine.session().unwrap();
        let ids = &case.prompt[..length];
        let alone: Vec<u32> =
            session.generate_ids(engine, ids, &case.sampling()).unwrap().map(|event| event.unwrap().token.id).collect();
        assert_eq!(*answer, alone, "{}: {length} rows in turns", case.name);
    }
}

fn check(name: &'static str) {
    let case = Case::of(name);
    for runner in runners_of(name) {
        let mut model = case.open(&runner);
        let whole = model.logits_ids(&[&case.prompt]).unwrap().values;
        let difference = worst(&whole, &case.logits);
        println!("{name} {runner}: {difference:.1e}");
        assert!(difference <= LOGITS, "{name} {runner}: off by {difference:e}");
        for piece in [1, 7, 16] {
            let (mut session, logits) = case.logits(model.engine_mut(), piece);
            let difference = worst(&logits, &case.logits);
            assert!(difference <= LOGITS, "{name} {runner}, pieces of {piece}: off by {difference:e}");
            // Always possible: whatever the windows, one row more is kept.
            assert_eq!(session.truncate(case.prompt.len() - 1), case.prompt.len() - 1);
            let last = &case.prompt[case.prompt.len() - 1..];
            assert_eq!(case.written(&mut model, &mut session, last), case.greedy, "{name}, pieces of {piece}");
        }
        let mut session = model.session().unwrap();
        assert_eq!(case.written(&mut model, &mut session, &case.prompt), case.greedy, "{name} {runner}");
        // The answer's rows are cut off again, in the session and in a fork of it that goes its own way first.
        let mut fork = session.fork();
        let kept = fork.truncate(case.prompt.len() / 2);
        let mut other = fork.fork();
        case.written(&mut model, &mut other, &[case.prompt[0]]);
        assert_eq!(
            case.written(&mut model, &mut fork, &case.prompt[kept..]),
            case.greedy,
            "{name} {runner}: after a fork"
        );
        let kept = session.truncate(3);
        assert_eq!(case.written(&mut model, &mut session, &case.prompt[kept..]), case.greedy, "{name}: after a cut");
        interleaved(&case, model.engine_mut());
    }
}

warpweft_tests::decoder_fixtures!(check);

#[test]
fn an_answer_ends_and_goes_on() {
    let case = Case::of("llama");
    let runner = runners().remove(0);
    let mut model = case.open(&runner);
    let mut session = model.session().unwrap();
    let sampling = Sampling { max_tokens: 10, ..case.sampling() };
    let mut generation = session.generate_ids(&mut model, &case.prompt, &sampling).unwrap();
    let first: Vec<u32> = generation.by_ref().map(|event| event.unwrap().token.id).collect();
    assert_eq!((first.as_slice(), generation.finish()), (&case.greedy[..10], Some(Finish::Length)));
    drop(generation);
    assert_eq!((session.len(), session.unfed()), (case.prompt.len() + 9, Some(case.greedy[9])));
    // The last token has no row yet; the next call begins with it.
    let mut generation = session.generate_ids(&mut model, &[], &sampling).unwrap();
    let second: Vec<u32> = generation.by_ref().take(4).map(|event| event.unwrap().token.id).collect();
    assert_eq!(second, case.greedy[10..14]);
    generation.cancel();
    assert_eq!((generation.next().is_none(), generation.finish()), (true, Some(Finish::Canceled)));
}
