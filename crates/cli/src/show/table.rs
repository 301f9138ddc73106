//! Rows and columns in plain text: words to the left, numbers to the right.

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// As many cells as there are columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn render(&self) -> String {
        let header: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let lines = || std::iter::once(&header).chain(&self.rows);
        let width = |n: usize| lines().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.columns.len()).map(|n| width(n).unwrap_or(0)).collect();
        lines().map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, (_, align)), width) in row.iter().zip(&self.columns).zip(widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            match align {
                Align::Left => line.push_str(&format!("{cell:<width$}")),
                Align::Right => line.push_str(&format!("{cell:>width$}")),
            }
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

/// `1_234_567`, as numbers are written in a configuration.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

/// `-` for what is not there.
pub fn maybe<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

/// Two units at most: `350ms`, `12s`, `3m 20s`, `2h 5m`, `9d 1h`.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let two = |large: u64, small: u64, names: [&str; 2]| match small {
        0 => format!("{large}{}", names[0]),
        small => format!("{large}{} {small}{}", names[0], names[1]),
    };
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{seconds}s"),
        60..3_600 => two(seconds / 60, seconds % 60, ["m", "s"]),
        3_600..86_400 => two(seconds / 3_600, seconds / 60 % 60, ["h", "m"]),
        _ => two(seconds / 86_400, seconds / 3_600 % 24, ["d", "h"]),
    }
}

/// What happened `at`, seen from `now`, both in milliseconds since 1970.
pub fn ago(at: u64, now: u64) -> String {
    format!("{} ago", duration(now.saturating_sub(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right), ("STATE", Align::Left)]);
        table.row(["a".into(), "5".into(), "ok".into()]);
        table.row(["a long one".into(), "1_000".into(), "-".into()]);
        assert_eq!(table.render(), "NAME            N  STATE\na               5  ok\na long one  1_000  -\n");
    }

    #[test]
    fn numbers_are_readable() {
        for (n, text) in
            [(0, "0"), (999, "999"), (1_000, "1_000"), (28_232, "28_232"), (1_234_567, "1_234_567")]
        {
            assert_eq!(count(n), text);
        }
        for (ms, text) in [
            (0, "0ms"),
            (350, "350ms"),
            (12_345, "12s"),
            (200_000, "3m 20s"),
            (7_500_000, "2h 5m"),
            (180_000, "3m"),
            (781_200_000, "9d 1h"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }
}
