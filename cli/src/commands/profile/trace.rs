//! The trace format that Chrome and Perfetto open: complete events (`"ph": "X"`), times in microseconds.
//!
//! Two tracks: what this process did (a submission; in it, submitting and waiting), and what the device did (a submission;
//! in it, layers; in them, dispatches). The device's clock and this process's have no common zero: a submission's first
//! dispatch is drawn where the commands were with the driver, or earlier where the dispatches would not be over in time.

use serde::Serialize;
use serde_json::{Map, Value, json};
use warpweft_compiler::target::Rates;
use warpweft_plan::Plan;

use super::runs::Run;
use crate::work::Flops;

/// The tracks.
const CPU: u32 = 1;
const DEVICE: u32 = 2;

#[derive(Serialize)]
pub(super) struct Trace {
    #[serde(rename = "displayTimeUnit")]
    unit: &'static str,
    #[serde(rename = "traceEvents")]
    events: Vec<Event>,
}

#[derive(Serialize)]
struct Event {
    name: String,
    cat: &'static str,
    ph: &'static str,
    pid: u32,
    tid: u32,
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    args: Map<String, Value>,
}

pub(super) fn trace(plan: &Plan, runs: &[Run], rates: Option<&Rates>) -> Trace {
    let mut events = vec![
        name("process_name", 0, &plan.model.name),
        name("thread_name", CPU, "CPU: submit and wait"),
        name("thread_name", DEVICE, "GPU: dispatches"),
    ];
    let flops = Flops::new(plan);
    for (at, run) in runs.iter().enumerate() {
        events.extend(cpu(at, run));
        events.extend(device(plan, run, &flops, rates));
    }
    Trace { unit: "ms", events }
}

fn name(kind: &str, tid: u32, name: &str) -> Event {
    let args = arguments(json!({ "name": name }));
    Event { name: kind.into(), cat: "__metadata", ph: "M", pid: 1, tid, ts: 0.0, dur: None, args }
}

fn arguments(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// An event from `start` to `end`, in seconds.
fn event(tid: u32, cat: &'static str, name: String, (start, end): (f64, f64), args: Value) -> Event {
    // Rounded to nanoseconds at both ends, so that what touches still touches.
    let [ts, until] = [start, end].map(|t| (t * 1e9).round() / 1e3);
    let dur = Some(((until - ts) * 1e3).round() / 1e3);
    Event { name, cat, ph: "X", pid: 1, tid, ts, dur, args: arguments(args) }
}

fn cpu(at: usize, run: &Run) -> [Event; 3] {
    let submission = &run.submission;
    let end = run.start + submission.seconds;
    let submitted = run.start + submission.submitting.min(submission.seconds);
    let args = json!({ "submission": at, "rows": submission.rows, "sequences": submission.sequences,
        "context": submission.context, "program": submission.program });
    [
        event(CPU, "submission", run.phase.name().into(), (run.start, end), args),
        event(CPU, "submit", "submit".into(), (run.start, submitted), json!({})),
        event(CPU, "wait", "wait".into(), (submitted, end), json!({})),
    ]
}

fn device(plan: &Plan, run: &Run, flops: &Flops, rates: Option<&Rates>) -> Vec<Event> {
    let submission = &run.submission;
    let Some(program) = plan.programs.get(submission.program).filter(|_| !submission.steps.is_empty()) else {
        return Vec::new();
    };
    let sizes = submission.sizes();
    let span = submission.steps.iter().map(|t| t.start + t.seconds).fold(0.0, f64::max);
    let first = run.start + submission.submitting.min((submission.seconds - span).max(0.0));
    let name = format!("{} for {}", program.output.kind.name(), program.target);
    let args = json!({ "rows": submission.rows, "dispatches": submission.dispatches });
    let mut events = vec![event(DEVICE, "program", name, (first, first + span), args)];
    let steps: Vec<_> = program.steps.iter().zip(&submission.steps).enumerate().collect();
    for part in steps.chunk_by(|a, b| a.1.0.layer == b.1.0.layer) {
        let (Some((_, (step, begin))), Some((_, (_, end)))) = (part.first(), part.last()) else { continue };
        if let Some(layer) = step.layer {
            let span = (first + begin.start, first + end.start + end.seconds);
            events.push(event(DEVICE, "layer", format!("layer {layer}"), span, json!({ "layer": layer })));
        }
        for (index, (step, time)) in part {
            let kernel = &plan.kernels[step.kernel];
            let args = json!({
                "kernel": kernel.name,
                "step": index,
                "layer": step.layer,
                "bytes": step.bytes.eval(sizes),
                "flops": flops.of_step(step, sizes),
                "predicted_us": rates.map(|rates| rates.step(plan, step, sizes) * 1e6),
            });
            let span = (first + time.start, first + time.start + time.seconds);
            events.push(event(DEVICE, "dispatch", kernel.name.clone(), span, args));
        }
    }
    events
}
