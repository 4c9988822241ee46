//! Which pools a settle may have given room or work.

use std::collections::BTreeSet;

use switchyard_common::contract::ids::PoolId;

use crate::pass::Wake;
use crate::store::Applied;

/// Asks for a pass over every pool of a task that changed: an attempt that ended has freed its place, and so has a workspace that was
/// released.
pub(crate) fn wake(wake: &Wake, applied: &[Applied]) {
    let pools: BTreeSet<&PoolId> =
        applied.iter().filter_map(|applied| Some(&applied.after()?.task.pool)).collect();
    for pool in pools {
        wake.pool(pool);
    }
}
