//! Kernels are compiled side by side where there are threads.

use std::collections::{BTreeSet, HashMap};

use warpweft_plan::Plan;

use crate::RuntimeError;
use crate::device::{Device, Pipeline};
use crate::model::{OnProgress, Progress};

/// Compiles `kernels`, except those in `built`, which grows by them.
pub(crate) async fn build(
    device: &Device,
    plan: &Plan,
    kernels: &BTreeSet<usize>,
    built: &mut HashMap<usize, Pipeline>,
    progress: OnProgress<'_>,
) -> Result<(), RuntimeError> {
    if missing(kernels, built).is_empty() {
        return Ok(());
    }
    build_beside(device, plan, kernels, built, progress, async |_: OnProgress<'_>| Ok(())).await
}

/// The same while `work` is done, which is told of first: one waits for a file, the other for a compiler.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) async fn build_beside(
    device: &Device,
    plan: &Plan,
    kernels: &BTreeSet<usize>,
    built: &mut HashMap<usize, Pipeline>,
    progress: OnProgress<'_>,
    work: impl AsyncFnOnce(OnProgress<'_>) -> Result<(), RuntimeError>,
) -> Result<(), RuntimeError> {
    use std::sync::atomic::{AtomicUsize, Ordering};

    let missing = missing(kernels, built);
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
    std::thread::scope(|scope| {
        let (sender, results) = std::sync::mpsc::channel();
        for _ in 0..threads {
            let (sender, next, missing) = (sender.clone(), &next, &missing);
            scope.spawn(move || {
                while let Some(&kernel) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let pipeline = crate::device::block_on(Pipeline::new(device, &plan.kernels[kernel]));
                    let failed = pipeline.is_err();
                    // The receiver is gone only after the work or another kernel failed.
                    if sender.send((kernel, pipeline)).is_err() || failed {
                        return;
                    }
                }
            });
        }
        drop(sender);
        crate::device::block_on(work(progress))?;
        for (done, (kernel, pipeline)) in results.into_iter().enumerate() {
            built.insert(kernel, pipeline?);
            progress(Progress::Kernels { done: done + 1, total: missing.len() });
        }
        Ok(())
    })
}

/// The same one after the other, where there are no threads.
#[cfg(target_arch = "wasm32")]
pub(crate) async fn build_beside(
    device: &Device,
    plan: &Plan,
    kernels: &BTreeSet<usize>,
    built: &mut HashMap<usize, Pipeline>,
    progress: OnProgress<'_>,
    work: impl AsyncFnOnce(OnProgress<'_>) -> Result<(), RuntimeError>,
) -> Result<(), RuntimeError> {
    work(progress).await?;
    let missing = missing(kernels, built);
    for (done, &kernel) in missing.iter().enumerate() {
        built.insert(kernel, Pipeline::new(device, &plan.kernels[kernel]).await?);
        progress(Progress::Kernels { done: done + 1, total: missing.len() });
    }
    Ok(())
}

fn missing(kernels: &BTreeSet<usize>, built: &HashMap<usize, Pipeline>) -> Vec<usize> {
    kernels.iter().filter(|k| !built.contains_key(k)).copied().collect()
}
