//! Wall time.

/// A running clock. In browsers it stands still: there is no clock without JavaScript.
pub(crate) struct Clock {
    #[cfg(not(target_arch = "wasm32"))]
    start: std::time::Instant,
}

impl Clock {
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn start() -> Clock {
        Clock { start: std::time::Instant::now() }
    }

    #[cfg(target_arch = "wasm32")]
    pub(crate) fn start() -> Clock {
        Clock {}
    }

    pub(crate) fn seconds(&self) -> f64 {
        #[cfg(not(target_arch = "wasm32"))]
        return self.start.elapsed().as_secs_f64();
        #[cfg(target_arch = "wasm32")]
        0.0
    }
}
