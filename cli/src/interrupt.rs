//! Ctrl-C.
//!
//! Outside of a [`Section`] it ends the process at once. Inside, where half-written files lie around, it is noticed by the
//! next [`check`], so that the files are removed on the way out.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::CliError;

/// The exit code of a command that was interrupted, as shells know it: 128 + SIGINT.
pub(crate) const CODE: u8 = 130;

static SECTIONS: AtomicUsize = AtomicUsize::new(0);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Begins to listen. Where that is not possible, the system's own behavior remains.
pub(crate) fn install() {
    let handler = || {
        let second = INTERRUPTED.swap(true, Ordering::SeqCst);
        if second || SECTIONS.load(Ordering::SeqCst) == 0 {
            std::process::exit(CODE.into());
        }
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::debug!(%error, "Ctrl-C is not handled");
    }
}

/// While one lives, Ctrl-C waits for the next [`check`]. A second one ends the process all the same.
pub(crate) struct Section;

impl Section {
    pub(crate) fn enter() -> Section {
        SECTIONS.fetch_add(1, Ordering::SeqCst);
        Section
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        SECTIONS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether Ctrl-C was pressed, which counts as dealt with then.
pub(crate) fn take() -> bool {
    INTERRUPTED.swap(false, Ordering::SeqCst)
}

/// An error if Ctrl-C was pressed.
pub(crate) fn check() -> Result<(), CliError> {
    if INTERRUPTED.load(Ordering::SeqCst) { Err(CliError::Interrupted) } else { Ok(()) }
}
