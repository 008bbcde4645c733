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
    let missing: Vec<usize> = kernels.iter().filter(|k| !built.contains_key(k)).copied().collect();
    compile(device, plan, &missing, built, progress).await
}

#[cfg(not(target_arch = "wasm32"))]
async fn compile(
    device: &Device,
    plan: &Plan,
    missing: &[usize],
    built: &mut HashMap<usize, Pipeline>,
    progress: OnProgress<'_>,
) -> Result<(), RuntimeError> {
    use std::sync::atomic::{AtomicUsize, Ordering};

    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
    let (sender, results) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some(&kernel) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let pipeline = crate::device::block_on(Pipeline::new(device, &plan.kernels[kernel]));
                    let failed = pipeline.is_err();
                    // The receiver is gone only after another kernel failed.
                    if sender.send((kernel, pipeline)).is_err() || failed {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (kernel, pipeline) in results {
            built.insert(kernel, pipeline?);
            let done = missing.iter().filter(|k| built.contains_key(k)).count();
            progress(Progress::Kernels { done, total: missing.len() });
        }
        Ok(())
    })
}

#[cfg(target_arch = "wasm32")]
async fn compile(
    device: &Device,
    plan: &Plan,
    missing: &[usize],
    built: &mut HashMap<usize, Pipeline>,
    progress: OnProgress<'_>,
) -> Result<(), RuntimeError> {
    for (done, &kernel) in missing.iter().enumerate() {
        built.insert(kernel, Pipeline::new(device, &plan.kernels[kernel]).await?);
        progress(Progress::Kernels { done: done + 1, total: missing.len() });
    }
    Ok(())
}
