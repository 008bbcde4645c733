//! The model that is calibrated, on a device: as the checkpoint has it, but that weights can be exchanged.

use std::collections::BTreeSet;

use tempfile::TempPath;
use warpweft_compiler::graph::Id;
use warpweft_compiler::quantize::Moments;
use warpweft_compiler::weights::WeightSource;
use warpweft_compiler::{Options as CompileOptions, Packing, compile};
use warpweft_models::Imported;
use warpweft_plan::{OutputKind, PlanFile, PlanWriter};
use warpweft_runtime::{Adapter, Engine, Matrix, Options, Part, block_on};

use super::Setting;
use super::passages::{Around, balance};
use crate::CliError;
use crate::cache::temporary_folder;
use crate::compile::{adapter_target, pack, unwrap_sink};
use crate::console::Console;
use crate::interrupt::{self, Section};
use crate::load::open_on;
use crate::progress::Unit;

/// Rows of a chunk of text. Longer ones would tell little more of a contraction's inputs.
const CONTEXT: usize = 512;

/// Words that are encoded at once where texts are cut.
const WORDS: usize = 32;

/// A model on a device.
pub(super) struct Subject<'i> {
    imported: &'i Imported,
    engine: Engine,
    packing: Packing,
    /// Rows of sessions, or whole sequences.
    cached: bool,
    context: usize,
    /// What stands around each text; nothing where sessions grow.
    around: Around,
    /// The plan's file, removed in the end.
    _file: Option<TempPath>,
}

impl<'i> Subject<'i> {
    /// Compiles the model so that the rows of `taps` can be read, and takes it to the adapter.
    pub(super) fn open(
        imported: &'i Imported,
        taps: &[Id],
        adapter: &Adapter,
        setting: &Setting<'_>,
        console: &mut Console<'_>,
    ) -> Result<Subject<'i>, CliError> {
        let graph = imported.graph.only(&[OutputKind::Hidden, OutputKind::Logits]);
        let options = CompileOptions {
            targets: vec![adapter_target(adapter)?],
            without: setting.without.to_vec(),
            taps: taps.to_vec(),
            ..CompileOptions::default()
        };
        let compiled = compile(&graph, &imported.info, &options, &mut |_| ())?;
        // An interruption waits until the file is removed.
        let _section = Section::enter();
        let file = tempfile::Builder::new().prefix("calibrated-").suffix(".weft").tempfile_in(temporary_folder());
        let file = file.map_err(CliError::io("write a temporary plan"))?;
        let mut writer = PlanWriter::new(std::io::BufWriter::new(file.as_file()), &compiled.plan, &imported.assets)?;
        pack(&compiled, &imported.weights, &mut writer, console)?;
        writer.into_inner()?;
        interrupt::check()?;
        let plan = PlanFile::open(file.path())?;
        // What is open may be removed on Unix, and then nothing is left however the process ends.
        let file = (!cfg!(unix)).then(|| file.into_temp_path());
        let options =
            Options { output: Some(OutputKind::Hidden), memory: setting.memory, lazy: true, ..Options::default() };
        let mut engine = open_on(adapter, plan, &options, console)?;
        let cached = engine.session().is_ok();
        let around = if cached { Around::default() } else { Around::of(&mut engine)? };
        let context = CONTEXT.min(engine.context_limit().0 as usize);
        Ok(Subject { imported, engine, packing: compiled.packing, cached, context, around, _file: file })
    }

    /// A model of sessions that is on the device already.
    #[cfg(test)]
    pub(super) fn of(imported: &'i Imported, engine: Engine, packing: Packing) -> Subject<'i> {
        let context = CONTEXT.min(engine.context_limit().0 as usize);
        Subject { imported, engine, packing, cached: true, context, around: Around::default(), _file: None }
    }

    /// The ids of a text, however long it is.
    pub(super) fn encode(&mut self, text: &str) -> Result<Vec<u32>, CliError> {
        if self.cached {
            return Ok(self.engine.encode(text, false)?);
        }
        // An encoder's texts are cut at its limit.
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut ids = Vec::new();
        for piece in words.chunks(WORDS) {
            ids.extend(self.engine.encode(&piece.join(" "), false)?);
        }
        Ok(ids)
    }

    /// The text of ids.
    #[cfg(test)]
    pub(super) fn decode(&mut self, ids: &[u32]) -> Result<String, CliError> {
        Ok(self.engine.decode(ids, true)?)
    }

    /// Rows of a chunk of text.
    #[cfg(test)]
    pub(super) fn context(&self) -> usize {
        self.context
    }

    /// Whether it gives scores over the vocabulary for a next token.
    pub(super) fn is_language_model(&self) -> bool {
        self.imported.graph.output(OutputKind::Next).is_some()
            && self.imported.graph.output(OutputKind::Logits).is_some()
    }

    /// Second moments of the taps' rows, whose columns are `widths`, over a text. Each passage that an encoder reads counts
    /// as much as the others.
    pub(super) fn collect(
        &mut self,
        ids: &[u32],
        widths: &[usize],
        console: &mut Console<'_>,
    ) -> Result<Vec<Moments>, CliError> {
        let mut moments: Vec<Moments> = widths.iter().map(|&width| Moments::new(width)).collect();
        let mut bar = console.bar("collecting moments");
        let mut done = 0;
        let mut add = |engine: &Engine, scales: &[f32]| {
            interrupt::check()?;
            for (tap, moments) in moments.iter_mut().enumerate() {
                let mut rows = block_on(engine.read_tap(OutputKind::Hidden, tap))?;
                for (row, scale) in rows.values.chunks_exact_mut(rows.width.max(1)).zip(scales) {
                    row.iter_mut().for_each(|x| *x *= scale);
                }
                moments.add(&rows.values);
            }
            Ok::<(), CliError>(())
        };
        if !self.cached {
            for group in self.around.passages(ids, self.context) {
                let scales = balance(&group);
                block_on(self.engine.run(OutputKind::Hidden, &group))?;
                if self.engine.submissions().len() == 1 {
                    add(&self.engine, &scales)?;
                } else {
                    // A slow device takes fewer rows at once, and only the last ones can be read.
                    let mut first = 0;
                    for passage in &group {
                        block_on(self.engine.run(OutputKind::Hidden, &[passage]))?;
                        add(&self.engine, &scales[first..first + passage.len()])?;
                        first += passage.len();
                    }
                }
                done = ids.len().min(done + scales.len());
                bar.set(done as u64, ids.len() as u64, Unit::Items);
            }
            return Ok(moments);
        }
        for chunk in ids.chunks(self.context) {
            self.run(OutputKind::Hidden, chunk, &mut |engine, rows| {
                add(engine, &[])?;
                done += rows.rows;
                bar.set(done as u64, ids.len() as u64, Unit::Items);
                Ok(())
            })?;
        }
        Ok(moments)
    }

    /// Hands the scores over the vocabulary for each id of a text to `each`, some rows at a time.
    pub(super) fn scores(
        &mut self,
        ids: &[u32],
        each: &mut dyn FnMut(Matrix) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        for chunk in ids.chunks(self.context) {
            self.run(OutputKind::Logits, chunk, &mut |_, rows| {
                interrupt::check()?;
                each(rows)
            })?;
        }
        Ok(())
    }

    /// Runs a chunk of text in submissions of which each is handed to `each`.
    fn run(
        &mut self,
        output: OutputKind,
        ids: &[u32],
        each: &mut dyn FnMut(&Engine, Matrix) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        if !self.cached {
            let rows = block_on(self.engine.run(output, &[ids]))?;
            return each(&self.engine, rows);
        }
        let mut session = self.engine.session()?;
        let mut rest = ids;
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(self.engine.step_rows(output).clamp(1, rest.len()));
            let part = Part { session: &mut session, ids: piece };
            let rows = block_on(self.engine.advance(output, &mut [part]))?;
            each(&self.engine, rows)?;
            rest = tail;
        }
        Ok(())
    }

    /// Puts what `source` has in the place of the weights of these names, and of all that is packed with them.
    pub(super) fn replace<'n>(
        &mut self,
        names: impl IntoIterator<Item = &'n str>,
        source: &dyn WeightSource,
    ) -> Result<(), CliError> {
        let tensors: BTreeSet<usize> = names.into_iter().flat_map(|name| self.packing.made_of(name)).collect();
        for tensor in tensors {
            interrupt::check()?;
            let mut packed = Vec::new();
            let mut sink = |_: usize, bytes: &[u8]| -> Result<(), CliError> {
                packed.extend_from_slice(bytes);
                Ok(())
            };
            self.packing.write_one(tensor, source, &mut sink).map_err(unwrap_sink)?;
            block_on(self.engine.replace_tensor(tensor, &packed))?;
        }
        Ok(())
    }
}
