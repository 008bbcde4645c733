//! Activation order: columns that belong to groups which are not contiguous.
//!
//! A quantizer that takes columns by falling importance puts columns from all over the row into a group, and stores the
//! number of each column's group (`g_idx`). Sorted by that number, groups are contiguous again.

use super::parts::{integer, wrong_element};
use crate::checkpoint::StoredTensor;
use crate::error::CheckpointError;

/// The columns sorted by their groups, of `size` columns each but for the last; `None` if they are sorted already.
///
/// # Errors
/// When a number is that of no group, or a group has too many or too few columns.
pub(super) fn order(
    index: &StoredTensor<'_>,
    columns: usize,
    size: usize,
) -> Result<Option<Vec<u32>>, CheckpointError> {
    let groups = columns.div_ceil(size);
    let mut of_group: Vec<Vec<u32>> = vec![Vec::new(); groups];
    let mut sorted = true;
    for column in 0..columns {
        let found = integer(index, column);
        let group = usize::try_from(found).ok().and_then(|group| of_group.get_mut(group));
        let Some(group) = group else {
            return Err(wrong_element(index, column, found, format!("the number of one of {groups} groups")));
        };
        group.push(column as u32);
        sorted &= found == (column / size) as i64;
    }
    for (number, group) in of_group.iter().enumerate() {
        let expected = size.min(columns - number * size);
        if group.len() != expected {
            let at = group.last().map_or(0, |&column| column as usize);
            let found = format!("{} columns in group {number}", group.len());
            return Err(wrong_element(index, at, found, format!("{expected} columns in that group")));
        }
    }
    Ok((!sorted).then(|| of_group.concat()))
}

/// For each column of the weight, where it stands in the order.
pub(super) fn places(order: Option<&[u32]>, columns: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..columns).collect();
    for (place, &column) in order.unwrap_or_default().iter().enumerate() {
        places[column as usize] = place;
    }
    places
}
