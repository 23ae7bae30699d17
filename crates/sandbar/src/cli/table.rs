//! Columns for people.

use chrono::{DateTime, Utc};

/// Left-aligned columns, two spaces apart, each as wide as its widest cell.
pub(super) fn render<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header = header.map(str::to_owned);
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// How long ago, in one unit.
pub(super) fn age(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - then).num_seconds().max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// An amount of memory or disk.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [["1".to_owned(), "longer".to_owned()], ["22222".to_owned(), "b".to_owned()]];
        assert_eq!(render(["ID", "B"], &rows), "ID     B\n1      longer\n22222  b\n");
        assert_eq!(render(["ID", "B"], &[]), "ID  B\n");
    }

    #[test]
    fn what_is_there_is_never_nothing() {
        for (bytes, text) in [(0, "0 MiB"), (1, "1 MiB"), (1 << 20, "1 MiB"), (300 << 20, "300 MiB")] {
            assert_eq!(mebibytes(bytes), text);
        }
    }

    #[test]
    fn ages_are_told_in_one_unit_and_are_never_negative() {
        let now = Utc::now();
        for (seconds, text) in [
            (-5, "0 s"),
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_600, "1 h"),
            (86_399, "23 h"),
            (864_000, "10 d"),
        ] {
            assert_eq!(age(now - chrono::Duration::seconds(seconds), now), text);
        }
    }
}
