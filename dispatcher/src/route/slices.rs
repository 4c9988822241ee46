//! A batch in slices, so that the inputs of many assignments are never in memory at the same time: a take-over alone claims hundreds.

use switchyard_common::contract::limits::ARTIFACTS_TOTAL_MAX_BYTES;

/// Most bytes of inputs that one batch holds in memory: what one assignment may have.
const INPUTS_MAX_BYTES: u64 = ARTIFACTS_TOTAL_MAX_BYTES as u64;

/// Cuts `items` into slices of at most [`INPUTS_MAX_BYTES`], in their order; one that is larger is alone.
pub(super) fn slices<T>(items: Vec<T>, bytes: impl Fn(&T) -> u64) -> Vec<Vec<T>> {
    let mut slices: Vec<Vec<T>> = Vec::new();
    let mut filled_bytes = 0_u64;
    for item in items {
        let with_item = filled_bytes.saturating_add(bytes(&item));
        match slices.last_mut() {
            Some(slice) if with_item <= INPUTS_MAX_BYTES => {
                filled_bytes = with_item;
                slice.push(item);
            }
            Some(_) | None => {
                filled_bytes = bytes(&item);
                slices.push(vec![item]);
            }
        }
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(bytes: &[u64]) -> Vec<Vec<u64>> {
        slices(bytes.to_vec(), |bytes| *bytes)
    }

    #[test]
    fn a_slice_is_filled_up_to_the_limit_and_no_further() {
        let half = INPUTS_MAX_BYTES / 2;
        assert_eq!(cut(&[half, half, 1]), [vec![half, half], vec![1]]);
        assert_eq!(cut(&[half, half + 1, 0]), [vec![half], vec![half + 1, 0]]);
    }

    #[test]
    fn one_that_is_larger_than_the_limit_goes_alone() {
        let over = INPUTS_MAX_BYTES + 1;
        assert_eq!(cut(&[over, over, 0]), [vec![over], vec![over], vec![0]]);
        assert_eq!(cut(&[u64::MAX, u64::MAX]), [[u64::MAX], [u64::MAX]]);
    }

    #[test]
    fn what_has_no_inputs_stays_in_one_slice() {
        assert_eq!(cut(&[0; 500]).len(), 1);
        assert!(cut(&[]).is_empty());
    }
}
