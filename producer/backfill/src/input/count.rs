//! How many rows there are, as far as files say so themselves: Parquet does, in its footer.

use std::io;

use super::{
    format::Format,
    select::Selection,
    source::Source,
    tables::{Input, Opened},
};

/// Rows of a Parquet file that are this shard's: those among its first so many, and all.
pub(super) fn rows(source: Source, selection: Selection, first: u64) -> io::Result<(u64, u64)> {
    let opened = Opened::new(Input::Whole(source), Format::Parquet, None)?;
    let Opened::Parquet(_, metadata) = opened else { return Err(io::Error::other("no Parquet")) };
    let (mut before, mut among, mut all) = (0, 0, 0);
    for (number, group) in metadata.metadata().row_groups().iter().enumerate() {
        let rows = u64::try_from(group.num_rows()).unwrap_or(0);
        if selection.takes_group(number as u64) {
            all += rows;
            among += first.saturating_sub(before).min(rows);
        }
        before += rows;
    }
    Ok((among, all))
}
