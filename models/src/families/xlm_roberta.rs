//! XLM-R: RoBERTa over another vocabulary. The tensors of both have the same names.

use super::{Parts, roberta};
use crate::config::Config;
use crate::error::CheckpointError;
use crate::net::Net;

/// XLM-R.
pub(super) fn build(config: &Config, net: &mut Net<'_>) -> Result<Parts, CheckpointError> {
    roberta::build(config, net)
}
