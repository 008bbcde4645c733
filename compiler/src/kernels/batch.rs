//! Many operations at once: each distinct one is composed once, on all processors.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::spec::Operation;
use super::{Composed, KernelError, RowRange, lower};
use crate::target::Target;

/// An operation for which a kernel is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// What it computes.
    pub operation: &'a Operation,
    /// What it runs on.
    pub target: &'a Target,
    /// The rows of its result.
    pub rows: RowRange,
}

impl Job<'_> {
    fn is_like(&self, other: &Job<'_>) -> bool {
        self.target.name == other.target.name && self.rows == other.rows && self.operation == other.operation
    }
}

/// The best kernel of each job, in order, as [`lower`] finds it.
///
/// # Errors
/// The first job that has none, and why.
pub fn lower_all(jobs: &[Job<'_>]) -> Result<Vec<Composed>, (usize, KernelError)> {
    let mut distinct: Vec<Job<'_>> = Vec::new();
    let mut index = Vec::with_capacity(jobs.len());
    for job in jobs {
        index.push(distinct.iter().position(|known| known.is_like(job)).unwrap_or_else(|| {
            distinct.push(*job);
            distinct.len() - 1
        }));
    }
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(distinct.len()).max(1);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = distinct.get(at) else { return done };
            done.push((at, lower(job.operation, job.target, job.rows)));
        }
    };
    let mut composed: Vec<(usize, Result<Composed, KernelError>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        // A thread that panicked has a bug that this one is to die of too.
        let join =
            |worker: thread::ScopedJoinHandle<'_, _>| worker.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
        workers.into_iter().flat_map(join).collect()
    });
    composed.sort_unstable_by_key(|(at, _)| *at);
    let kernel = |(job, &at): (usize, &usize)| composed[at].1.clone().map_err(|error| (job, error));
    index.iter().enumerate().map(kernel).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::formats::Format;
    use crate::kernels::spec::{Rows, Term, View};

    #[test]
    fn many_are_as_each_alone_and_errors_name_the_first() {
        let linear = |k, n| Operation::Linear {
            x: View::whole(k),
            n,
            format: Format::F16,
            paired: false,
            term: Term::Acc,
            operands: Vec::new(),
            out: View::whole(n),
            rows: Rows::Tokens,
        };
        let operations: Vec<Operation> = [(64, 32), (32, 64), (64, 32)].map(|(k, n)| linear(k, n)).into();
        let target = Target::named("subgroup8").unwrap();
        let rows = [RowRange { min: 1, max: Some(1) }, RowRange { min: 17, max: None }];
        let jobs: Vec<Job<'_>> = rows
            .into_iter()
            .flat_map(|rows| operations.iter().map(move |operation| Job { operation, target, rows }))
            .collect();
        let all = lower_all(&jobs).unwrap();
        for (job, composed) in jobs.iter().zip(&all) {
            assert_eq!(*composed, lower(job.operation, target, job.rows).unwrap());
        }
        let wrong = Operation::Linear {
            x: View::whole(8),
            n: 8,
            format: Format::F16,
            paired: false,
            term: Term::Acc2,
            operands: Vec::new(),
            out: View::whole(8),
            rows: Rows::Tokens,
        };
        let mut jobs = jobs;
        jobs.insert(2, Job { operation: &wrong, target, rows: rows[0] });
        assert_eq!(lower_all(&jobs).unwrap_err().0, 2);
        assert!(lower_all(&[]).unwrap().is_empty());
    }
}
