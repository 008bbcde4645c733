//! From a checkpoint folder to a plan.

use std::path::Path;
use std::time::{Duration, Instant};

use warpweft_compiler::target::Target;
use warpweft_compiler::weights::WeightSource;
use warpweft_compiler::{Compiled, Options, PackError, PhaseReport, compile};
use warpweft_models::{CheckpointError, Imported, import, import_config};
use warpweft_plan::{PlanFile, PlanWriter};
use warpweft_runtime::{Adapter, RuntimeError};

use crate::CliError;
use crate::calibrate::{Calibrated, Quantized};
use crate::console::Console;
use crate::hub;
use crate::interrupt::{self, Section};
use crate::progress::Unit;
use crate::quantized;

/// The targets that a list names: `all`, or names separated by commas.
///
/// # Errors
/// [`CliError::Usage`] for a name that no target has.
pub fn choose_targets(list: &str) -> Result<Vec<&'static Target>, CliError> {
    if list.trim() == "all" {
        return Ok(Target::all().iter().collect());
    }
    let mut targets: Vec<&'static Target> = Vec::new();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let Some(target) = Target::named(name) else {
            let known: Vec<&str> = Target::all().iter().map(|t| t.name.as_str()).collect();
            return Err(CliError::Usage(format!(
                "there is no target {name:?}; expected all, or some of {}",
                known.join(", ")
            )));
        };
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    if targets.is_empty() { Err(CliError::Usage("--targets names no target".into())) } else { Ok(targets) }
}

/// The target that asks for the most of what an adapter can do.
///
/// # Errors
/// [`RuntimeError::NoTier`] if the adapter cannot even run the floor.
pub fn adapter_target(adapter: &Adapter) -> Result<&'static Target, CliError> {
    let fits = |target: &&Target| adapter.lacks(&target.tier()).is_none();
    let best = Target::all().iter().filter(fits).max_by_key(|target| target.subgroup_size.is_some());
    best.ok_or_else(|| {
        let lack = |target: &Target| Some(format!("{} needs {}", target.name, adapter.lacks(&target.tier())?));
        let reasons = Target::all().iter().filter_map(lack).collect();
        CliError::Runtime(RuntimeError::NoTier { adapter: adapter.name.clone(), reasons })
    })
}

/// A model that has been read and compiled, its weights not yet packed.
pub(crate) struct Made {
    pub(crate) imported: Imported,
    pub(crate) compiled: Compiled,
    /// The weights that were rounded by calibration.
    calibrated: Option<Calibrated>,
    /// How long reading the checkpoint's headers and building the graph took.
    pub(crate) import_time: Duration,
}

/// Reads and compiles a checkpoint.
pub(crate) fn make(folder: &Path, options: &Options, observe: &mut dyn FnMut(&PhaseReport)) -> Result<Made, CliError> {
    make_of(import, folder, options, observe)
}

/// The same for a folder of which only config.json is read; random weights take the place of real ones.
pub(crate) fn make_of_config(folder: &Path, options: &Options) -> Result<Made, CliError> {
    make_of(import_config, folder, options, &mut |_| ())
}

fn make_of(
    import: fn(&Path) -> Result<Imported, CheckpointError>,
    folder: &Path,
    options: &Options,
    observe: &mut dyn FnMut(&PhaseReport),
) -> Result<Made, CliError> {
    Read::with(import, folder)?.compile(options, None, observe)
}

/// A checkpoint that has been read.
pub(crate) struct Read {
    pub(crate) imported: Imported,
    import_time: Duration,
}

impl Read {
    /// Reads a checkpoint folder.
    pub(crate) fn of(folder: &Path) -> Result<Read, CliError> {
        Read::with(import, folder)
    }

    fn with(import: fn(&Path) -> Result<Imported, CheckpointError>, folder: &Path) -> Result<Read, CliError> {
        let start = Instant::now();
        let mut imported = import(folder)?;
        // A snapshot of the Hub is called after its commit.
        if let Some(name) = hub::name_of(folder) {
            imported.info.name = name;
        }
        Ok(Read { imported, import_time: start.elapsed() })
    }

    /// Compiles it, over the weights that calibration has rounded.
    pub(crate) fn compile(
        self,
        options: &Options,
        calibrated: Option<Calibrated>,
        observe: &mut dyn FnMut(&PhaseReport),
    ) -> Result<Made, CliError> {
        let Read { imported, import_time } = self;
        let compiled = match &calibrated {
            None => compile(&imported.graph, &imported.info, options, observe)?,
            Some(calibrated) => {
                let graph = calibrated.declare(&imported.graph)?;
                let mut compiled = compile(&graph, &imported.info, options, observe)?;
                compiled.plan.quantization = Some(calibrated.told());
                compiled
            }
        };
        Ok(Made { imported, compiled, calibrated, import_time })
    }
}

impl Made {
    /// Bytes of all packed weights.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.compiled.plan.tensors.iter().filter_map(|tensor| tensor.bytes()).sum()
    }

    /// Lets the plan say which weights were rounded, each on its own, how far that moved them, and whether activations are.
    pub(crate) fn tell_roundings(&mut self) -> Result<(), CliError> {
        if self.compiled.plan.quantization.is_none() {
            let told = quantized::of_roundings(&self.compiled.roundings, &self.imported.weights)?;
            self.compiled.plan.quantization = told;
        }
        if let Some(activations) = self.compiled.activations.clone() {
            self.compiled.plan.quantization.get_or_insert_default().activations = Some(activations);
        }
        Ok(())
    }

    /// Writes the plan to a file that appears when it is complete.
    pub(crate) fn write(&self, path: &Path, console: &mut Console<'_>) -> Result<(), CliError> {
        let _section = Section::enter();
        let mut writer = PlanWriter::create(path, &self.compiled.plan, &self.imported.assets)?;
        self.pack(&mut writer, console)?;
        interrupt::check()?;
        Ok(writer.finish()?)
    }

    /// The plan in memory.
    pub(crate) fn in_memory(&self, console: &mut Console<'_>) -> Result<PlanFile, CliError> {
        let mut writer = PlanWriter::new(Vec::new(), &self.compiled.plan, &self.imported.assets)?;
        self.pack(&mut writer, console)?;
        Ok(PlanFile::from_bytes(writer.into_inner()?)?)
    }

    fn pack<W: std::io::Write>(&self, writer: &mut PlanWriter<W>, console: &mut Console<'_>) -> Result<(), CliError> {
        let weights = &self.imported.weights;
        match &self.calibrated {
            None => pack(&self.compiled, weights, writer, console),
            Some(Calibrated { store, .. }) => pack(&self.compiled, &Quantized { weights, store }, writer, console),
        }
    }
}

/// Packs the weights that `source` has into a plan's file.
pub(crate) fn pack<W: std::io::Write>(
    compiled: &Compiled,
    source: &dyn WeightSource,
    writer: &mut PlanWriter<W>,
    console: &mut Console<'_>,
) -> Result<(), CliError> {
    let total = compiled.plan.tensors.iter().filter_map(|tensor| tensor.bytes()).sum();
    let mut bar = console.bar("packing");
    let (mut done, mut current) = (0, None);
    let mut sink = |tensor: usize, bytes: &[u8]| -> Result<(), CliError> {
        interrupt::check()?;
        if current != Some(tensor) {
            writer.tensor(tensor)?;
            current = Some(tensor);
        }
        writer.write(bytes)?;
        done += bytes.len() as u64;
        bar.set(done, total, Unit::Bytes);
        Ok(())
    };
    compiled.packing.write(source, &mut sink).map_err(unwrap_sink)
}

/// What went wrong while a weight was packed.
pub(crate) fn unwrap_sink(error: PackError<CliError>) -> CliError {
    match error {
        PackError::Sink(error) => error,
        other => CliError::Failed(other.to_string()),
    }
}
