//! Sessions, forks, steps and the queue, on a decoder written by hand.

use warpweft_plan::{Assets, OutputKind, Role};
use warpweft_runtime::{
    AdapterChoice, Candidates, Engine, Fault, Model, Options, Part, RuntimeError, Scheduler, Session, StepClock,
    block_on,
};
use warpweft_tests::worst;

use crate::tiny::decoder::{self, ROW_BYTES, VOCAB, greedy, logits, next};

fn engine(options: &Options) -> Engine {
    let options = Options { adapter: AdapterChoice::Best, ..options.clone() };
    block_on(Engine::open(decoder::open(&decoder::plan(), &Assets::default()), &options, &mut |_| ())).unwrap()
}

fn ids(seed: usize, count: usize) -> Vec<u32> {
    (0..count).map(|i| ((seed * 5 + i * 7 + i * i) % VOCAB) as u32).collect()
}

/// Adds rows and returns what may come next.
fn add(engine: &mut Engine, session: &mut Session, ids: &[u32]) -> Result<Candidates, RuntimeError> {
    let mut found = block_on(engine.advance_candidates(&mut [Part { session, ids }]))?;
    Ok(found.remove(0))
}

/// The candidates are those of the scores after the session's rows.
#[track_caller]
fn assert_follows(candidates: &Candidates, session: &Session) {
    let expected = Candidates::of_all(&next(session.ids()));
    assert_eq!(candidates.ids, expected.ids[..decoder::CANDIDATES], "{:?}", session.ids());
    assert!(worst(&candidates.scores, &expected.scores[..decoder::CANDIDATES]) < 1e-3);
    assert!((candidates.log_sum - expected.log_sum).abs() < 1e-3);
}

fn continued(engine: &mut Engine, session: &mut Session, first: Candidates, count: usize) -> Vec<u32> {
    let (mut candidates, mut written) = (first, Vec::new());
    for _ in 0..count {
        written.push(candidates.ids[0]);
        candidates = add(engine, session, &written[written.len() - 1..]).unwrap();
    }
    written
}

#[test]
fn rows_may_come_in_pieces_of_any_size() {
    let mut engine = engine(&Options::default());
    let prompt = ids(1, 70);
    let expected = greedy(&prompt, 20);
    for piece in [1, 7, 16, 32, 33, 70] {
        let mut session = engine.session().unwrap();
        let mut last = None;
        for ids in prompt.chunks(piece) {
            last = Some(add(&mut engine, &mut session, ids).unwrap());
        }
        assert_follows(last.as_ref().unwrap(), &session);
        assert_eq!(continued(&mut engine, &mut session, last.unwrap(), 20), expected, "pieces of {piece}");
        assert_eq!(session.len(), 90);
    }
    assert_eq!(engine.free_rows(), engine.cache_rows());
}

#[test]
fn pieces_but_the_last_end_where_the_caches_have_them() {
    let prompt = ids(1, 70);
    let mut engine = engine(&Options { clock: Some(StepClock::Waits), ..Options::default() });
    let steps = |engine: &Engine| {
        let [submission] = engine.submissions() else { panic!("one step, one submission") };
        assert_eq!(submission.steps.len(), submission.dispatches);
        (submission.dispatches, engine.plan().programs[submission.program].steps.len())
    };
    for piece in [1, 7, 33] {
        let mut session = engine.session().unwrap();
        for ids in prompt[..66].chunks(piece) {
            block_on(engine.append(&mut [Part { session: &mut session, ids }])).unwrap();
            let (run, all) = steps(&engine);
            assert!(0 < run && run < all, "{run} of {all} steps");
        }
        let last = add(&mut engine, &mut session, &prompt[66..]).unwrap();
        assert_eq!(steps(&engine).0, steps(&engine).1);
        assert_follows(&last, &session);
        assert_eq!(continued(&mut engine, &mut session, last, 5), greedy(&prompt, 5), "pieces of {piece}");
    }
    block_on(engine.append(&mut [])).unwrap();
    let mut session = engine.session().unwrap();
    let refused = block_on(engine.append(&mut [Part { session: &mut session, ids: &[] }])).unwrap_err();
    assert!(matches!(refused, RuntimeError::Empty { sequence: 0 }), "{refused}");
    assert!(session.is_empty());
}

#[test]
fn whole_sequences_are_cut_and_leave_nothing_behind() {
    let mut model =
        Model::from_plan(decoder::open(&decoder::plan(), &Assets::default()), &Options::default(), &mut |_| ())
            .unwrap();
    let sequences = [ids(1, 70), ids(2, 1), ids(3, 33)];
    for max_rows in [None, Some(9)] {
        let options = Options { max_rows, ..Options::default() };
        if max_rows.is_some() {
            let file = decoder::open(&decoder::plan(), &Assets::default());
            model = Model::from_plan(file, &options, &mut |_| ()).unwrap();
        }
        let found = model.logits_ids(&sequences).unwrap();
        let expected: Vec<f32> = sequences.iter().flat_map(|ids| logits(ids)).flatten().collect();
        assert_eq!((found.rows, found.width), (104, VOCAB));
        assert!(worst(&found.values, &expected) < 1e-3);
        assert_eq!(model.engine().free_rows(), model.engine().cache_rows());
        assert_eq!(model.engine().submissions().len(), if max_rows.is_some() { 8 + 1 + 4 } else { 3 });
    }
    let wrong = model.logits_ids(&[ids(1, 201)]).unwrap_err();
    assert!(matches!(wrong, RuntimeError::TooLong { rows: 201, limit: 200, .. }), "{wrong}");
}

#[test]
fn one_step_mixes_prompts_and_single_rows() {
    let mut engine = engine(&Options::default());
    let mut sessions: Vec<_> = (0..4).map(|_| engine.session().unwrap()).collect();
    let mut round = |pieces: [Vec<u32>; 4]| {
        let mut parts: Vec<_> = sessions
            .iter_mut()
            .zip(&pieces)
            .filter(|(_, ids)| !ids.is_empty())
            .map(|(session, ids)| Part { session, ids })
            .collect();
        let found = block_on(engine.advance_candidates(&mut parts)).unwrap();
        parts.iter().zip(&found).for_each(|(part, candidates)| assert_follows(candidates, part.session));
    };
    round([ids(1, 31), ids(2, 1), vec![], ids(4, 40)]);
    round([ids(5, 1), ids(6, 1), ids(7, 64), ids(8, 1)]);
    round([ids(9, 1), vec![], ids(10, 1), ids(11, 50)]);
    round([ids(12, 33), ids(13, 2), ids(14, 1), ids(15, 1)]);
    let [submission] = engine.submissions() else { panic!("one step, one submission") };
    assert_eq!((submission.rows, submission.sequences), (37, 4));
}

#[test]
fn forks_share_and_part() {
    let mut engine = engine(&Options::default());
    let mut trunk = engine.session().unwrap();
    add(&mut engine, &mut trunk, &ids(1, 40)).unwrap();
    let held = engine.cache_rows() - engine.free_rows();
    let mut forks: Vec<Session> = (0..3).map(|_| trunk.fork()).collect();
    assert_eq!(engine.cache_rows() - engine.free_rows(), held);
    // All in one step, from one shared page.
    let pieces: Vec<_> = (0..3).map(|i| ids(10 + i, 1 + 30 * i)).collect();
    let mut parts: Vec<_> = forks.iter_mut().zip(&pieces).map(|(session, ids)| Part { session, ids }).collect();
    let found = block_on(engine.advance_candidates(&mut parts)).unwrap();
    found.iter().zip(&forks).for_each(|(candidates, session)| assert_follows(candidates, session));
    let after = add(&mut engine, &mut trunk, &[5]).unwrap();
    assert_follows(&after, &trunk);
    let mut late = forks[0].fork();
    forks.clear();
    let after = add(&mut engine, &mut late, &ids(3, 3)).unwrap();
    assert_follows(&after, &late);
    drop((trunk, late));
    assert_eq!(engine.free_rows(), engine.cache_rows());
}

#[test]
fn a_step_may_have_many_sequences() {
    let mut engine = engine(&Options { context: Some(8000), ..Options::default() });
    let mut trunk = engine.session().unwrap();
    add(&mut engine, &mut trunk, &ids(1, 190)).unwrap();
    let mut forks: Vec<Session> = (0..100).map(|_| trunk.fork()).collect();
    let pieces: Vec<_> = (0..100).map(|i| ids(i, 1 + i % 2)).collect();
    let mut parts: Vec<_> = forks.iter_mut().zip(&pieces).map(|(session, ids)| Part { session, ids }).collect();
    let found = block_on(engine.advance_candidates(&mut parts)).unwrap();
    assert_eq!(found.len(), 100);
    found.iter().zip(&forks).for_each(|(candidates, session)| assert_follows(candidates, session));
}

#[test]
fn a_truncated_session_goes_on_from_there() {
    let mut engine = engine(&Options::default());
    let mut session = engine.session().unwrap();
    add(&mut engine, &mut session, &ids(1, 100)).unwrap();
    for (rows, more) in [(99, 1), (64, 5), (33, 40), (33, 1), (1, 2), (0, 7)] {
        assert_eq!(session.truncate(rows), rows);
        let candidates = add(&mut engine, &mut session, &ids(rows, more)).unwrap();
        assert_eq!(session.len(), rows + more);
        assert_follows(&candidates, &session);
    }
    // Cut in a page that others read.
    let other = session.fork();
    assert_eq!(session.truncate(3), 3);
    let candidates = add(&mut engine, &mut session, &[8, 8]).unwrap();
    assert_follows(&candidates, &session);
    let mut again = other.fork();
    let candidates = add(&mut engine, &mut again, &[1]).unwrap();
    assert_follows(&candidates, &again);
    assert_eq!(session.common(&ids(0, 4)), 3);
}

#[test]
fn the_whole_row_is_there_when_asked_for() {
    let mut engine = engine(&Options::default());
    let mut session = engine.session().unwrap();
    assert!(matches!(block_on(engine.whole_row(&session)), Err(RuntimeError::Empty { .. })));
    for count in [1, 31, 1, 20] {
        let candidates = add(&mut engine, &mut session, &ids(count, count)).unwrap();
        let row = block_on(engine.whole_row(&session)).unwrap();
        assert!(worst(&row, &next(session.ids())) < 1e-3);
        assert_eq!(Candidates::of_all(&row).ids[..4], candidates.ids);
    }
    let candidates = add(&mut engine, &mut session, &[3]).unwrap();
    assert_follows(&candidates, &session);
}

#[test]
fn long_contexts_are_refused_with_both_numbers() {
    let mut engine = engine(&Options::default());
    let mut session = engine.session().unwrap();
    let first = add(&mut engine, &mut session, &ids(1, 199)).unwrap();
    let error = add(&mut engine, &mut session, &[1, 2]).unwrap_err();
    assert_eq!(error.to_string(), "a context of 201 rows, at most 200 are possible (the model has no more positions)");
    assert_eq!(error.fault(), Fault::Input);
    assert_eq!(session.len(), 199);
    continued(&mut engine, &mut session, first, 1);
    assert!(add(&mut engine, &mut session, &[1]).is_err());
    let other = self::engine(&Options::default());
    let mut foreign = other.session().unwrap();
    let wrong: [(&[u32], &str); 2] = [(&[], "no ids"), (&[1, 13], "id 13 is not below the vocabulary's size 13")];
    assert_eq!(session.truncate(10), 10);
    assert_eq!(session.truncate(11), 10);
    for (ids, says) in wrong {
        let error = add(&mut engine, &mut session, ids).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(matches!(add(&mut engine, &mut foreign, &[1]), Err(RuntimeError::Foreign { session: 0 })));
    assert_eq!(session.len(), 10);
    let candidates = add(&mut engine, &mut session, &[1]).unwrap();
    assert_follows(&candidates, &session);
}

#[test]
fn a_full_cache_refuses_and_recovers() {
    let mut engine = engine(&Options { context: Some(100), ..Options::default() });
    assert_eq!((engine.cache_rows(), engine.free_rows()), (128, 128));
    let mut one = engine.session().unwrap();
    let mut two = engine.session().unwrap();
    let error = add(&mut engine, &mut one, &ids(1, 129)).unwrap_err();
    assert_eq!(error.to_string(), "a context of 129 rows, at most 128 are possible (the cache has no more rows)");
    add(&mut engine, &mut one, &ids(1, 70)).unwrap();
    add(&mut engine, &mut two, &ids(2, 32)).unwrap();
    let error = add(&mut engine, &mut two, &[1]).unwrap_err();
    assert_eq!(error.to_string(), "the cache has no room for 32 more rows: 0 of 128 are free");
    assert_eq!((error.fault(), two.len()), (Fault::Memory, 32));
    // The other one still has room in its last page.
    let candidates = add(&mut engine, &mut one, &ids(4, 20)).unwrap();
    assert_follows(&candidates, &one);
    // A step is done for all or for none.
    let mut parts = [Part { session: &mut one, ids: &[1] }, Part { session: &mut two, ids: &[2] }];
    assert!(block_on(engine.advance(OutputKind::Candidates, &mut parts)).is_err());
    assert_eq!((one.len(), two.len(), engine.free_rows()), (90, 32, 0));
    assert_eq!(one.truncate(64), 64);
    let candidates = add(&mut engine, &mut two, &[1]).unwrap();
    assert_follows(&candidates, &two);
}

#[test]
fn the_cache_grows_and_keeps_its_rows() {
    let mut engine = engine(&Options::default());
    let mut sessions: Vec<_> = (0..4).map(|_| engine.session().unwrap()).collect();
    let bytes = |engine: &Engine| engine.account(OutputKind::Candidates, 1).unwrap().cache;
    let before = bytes(&engine);
    for round in 0..2 {
        for (i, session) in sessions.iter_mut().enumerate() {
            let candidates = add(&mut engine, session, &ids(i, 90 + round)).unwrap();
            assert_follows(&candidates, session);
        }
    }
    assert_eq!((before, bytes(&engine)), (512 * ROW_BYTES, 800 * ROW_BYTES));
    assert!(add(&mut engine, &mut sessions[0], &ids(9, 20)).is_err());
}

#[test]
fn memory_bounds_the_cache() {
    let plan = || decoder::open(&decoder::plan(), &Assets::default());
    let open = |memory, context| {
        let options = Options { memory, context, ..Options::default() };
        block_on(Engine::open(plan(), &options, &mut |_| ()))
    };
    let whole = open(None, None).unwrap();
    assert_eq!(whole.cache_rows(), 800);
    let Err(error) = open(Some(20_000), Some(100_000)) else { panic!("it fits") };
    let RuntimeError::Memory { cache, limit, .. } = error else { panic!("{error}") };
    assert_eq!((cache, limit), (100_000 * ROW_BYTES, 20_000));
    assert!(error.to_string().contains("+ cache 9.2 MiB"), "{error}");
    let small = open(Some(100_000), None).unwrap();
    assert!((32..800).contains(&small.cache_rows()), "{}", small.cache_rows());
    let mut plan = decoder::plan();
    let Role::Cache { rows, .. } = &mut plan.buffers[7].role else { panic!("no cache") };
    rows.heads <<= 22;
    plan.buffers[7].bytes = plan.buffers[7].bytes * (1 << 22);
    let file = decoder::open(&plan, &Assets::default());
    let options = Options { context: Some(1 << 30), ..Options::default() };
    assert!(matches!(block_on(Engine::open(file, &options, &mut |_| ())), Err(RuntimeError::Context { .. })));
}

#[test]
fn the_queue_serves_sessions_that_come_and_go() {
    let mut engine = engine(&Options::default());
    let mut queue = Scheduler::new();
    queue.step_rows = Some(16);
    let prompts = [ids(1, 50), ids(2, 3), ids(3, 20), ids(4, 1)];
    let submit = |queue: &mut Scheduler, engine: &Engine, ids: &[u32]| {
        queue.submit(engine, engine.session().unwrap(), ids.to_vec()).unwrap()
    };
    let mut answers: std::collections::BTreeMap<_, (usize, Vec<u32>)> = Default::default();
    let mut tickets = std::collections::HashMap::new();
    for (i, prompt) in prompts.iter().enumerate() {
        tickets.insert(submit(&mut queue, &engine, prompt), i);
        answers.insert(i, (i, Vec::new()));
    }
    let canceled = submit(&mut queue, &engine, &ids(5, 190));
    assert_eq!((queue.len(), queue.rows()), (5, 264));
    let mut steps = 0;
    while answers.values().any(|a| a.1.len() < 12) {
        steps += 1;
        assert!(steps < 200);
        for done in block_on(queue.step(&mut engine)).unwrap() {
            let candidates = done.result.unwrap();
            assert_follows(&candidates, &done.session);
            let index = tickets.remove(&done.ticket).unwrap();
            let written = &mut answers.get_mut(&index).unwrap().1;
            written.push(candidates.ids[0]);
            if written.len() < 12 {
                let id = candidates.ids[0];
                tickets.insert(queue.submit(&engine, done.session, vec![id]).unwrap(), index);
            }
        }
        let last = engine.submissions().last().unwrap();
        assert!(last.rows <= 16, "{last:?}");
        if steps == 12 {
            let session = queue.cancel(canceled).unwrap();
            assert!(session.len() < 190);
            assert!(queue.cancel(canceled).is_none());
        }
    }
    for (prompt, (_, written)) in prompts.iter().zip(answers.values()) {
        assert_eq!(*written, greedy(prompt, 12));
    }
    assert!(queue.is_empty());
    assert_eq!(engine.free_rows(), engine.cache_rows());
    let refused = queue.submit(&engine, engine.session().unwrap(), ids(1, 201)).unwrap_err();
    assert!(matches!(refused.error, RuntimeError::Context { rows: 201, limit: 200, .. }));
}

#[test]
fn a_queue_without_room_sends_the_first_one_back() {
    let mut engine = engine(&Options { context: Some(64), ..Options::default() });
    let mut queue = Scheduler::new();
    let mut held = engine.session().unwrap();
    add(&mut engine, &mut held, &ids(1, 33)).unwrap();
    let first = queue.submit(&engine, engine.session().unwrap(), ids(2, 10)).unwrap();
    queue.submit(&engine, engine.session().unwrap(), ids(3, 10)).unwrap();
    let mut done = block_on(queue.step(&mut engine)).unwrap();
    assert_eq!((done.len(), done[0].ticket, queue.len()), (1, first, 1));
    assert!(matches!(done.remove(0).result, Err(RuntimeError::CacheFull { needed: 32, free: 0, limit: 64, .. })));
    assert_eq!(held.truncate(32), 32);
    let done = block_on(queue.step(&mut engine)).unwrap();
    assert_follows(done[0].result.as_ref().unwrap(), &done[0].session);
}

#[test]
fn an_encoder_has_no_sessions() {
    let file = crate::tiny::open(&crate::tiny::plan());
    let engine = block_on(Engine::open(file, &Options::default(), &mut |_| ())).unwrap();
    let error = engine.session().unwrap_err();
    assert_eq!(error.to_string(), "the plan has no output for sessions; it has hidden, embedding");
}
