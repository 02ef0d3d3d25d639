//! Tables for people: columns as wide as what is in them. Pure.

/// The lines of a table. Trailing blanks are left out.
pub(super) fn lines<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let head = head.map(str::to_owned);
    let all = || [&head].into_iter().chain(rows);
    let widths: [usize; N] = std::array::from_fn(|n| all().map(|row| row[n].chars().count()).max().unwrap_or_default());
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["é", "x"], ["long", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(lines(["A", "B"], &rows), ["A     B", "é     x", "long"]);
    }
}
