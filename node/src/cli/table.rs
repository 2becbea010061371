//! Columns of text.

use std::fmt;

/// Rows under headings, each column as wide as its widest cell.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[&'static str]) -> Self {
        Self {
            rows: vec![columns.iter().map(ToString::to_string).collect()],
        }
    }

    /// Adds a row. What is empty is shown as a dash, and what would leave its line is not.
    pub(super) fn row(&mut self, cells: Vec<String>) {
        let clean = |cell: String| match cell.is_empty() {
            true => "-".to_owned(),
            false => cell.replace(char::is_control, " "),
        };
        self.rows.push(cells.into_iter().map(clean).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Names with their values, one in a line.
#[derive(Debug, Default)]
pub(super) struct Facts {
    lines: Vec<(&'static str, String)>,
}

impl Facts {
    /// Adds a fact; one without a value is left out.
    pub(super) fn add(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        if !value.is_empty() {
            let value = value.replace(|c: char| c.is_control() && c != '\n', " ");
            self.lines.push((name, value));
        }
        self
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.lines.iter().map(|(name, _)| name.len()).max();
        let width = width.unwrap_or(0) + 2;
        for (name, value) in &self.lines {
            for (index, line) in value.lines().enumerate() {
                let name = if index == 0 { name } else { "" };
                writeln!(f, "{name:<width$}{line}")?;
            }
        }
        Ok(())
    }
}

/// Bytes in the largest unit that leaves at least one of it.
pub(super) fn bytes(count: u64) -> String {
    let mut unit = "B";
    let mut value = count as f64;
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (unit, value) = (next, value / 1024.0);
    }
    match value.fract() == 0.0 {
        true => format!("{value} {unit}"),
        false => format!("{value:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(vec!["a-long-name".into(), "x\ny\u{1b}[2J".into()]);
        table.row(vec!["é".into(), String::new()]);
        assert_eq!(
            table.to_string(),
            "NAME         STATE\na-long-name  x y [2J\né            -\n"
        );
    }

    #[test]
    fn facts_without_a_value_are_left_out() {
        let facts = Facts::default()
            .add("a", "1")
            .add("bc", "")
            .add("def", "2\n3");
        assert_eq!(facts.to_string(), "a    1\ndef  2\n     3\n");
    }

    #[test]
    fn sizes_have_the_unit_that_suits() {
        assert_eq!(bytes(512 << 20), "512 MiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(0), "0 B");
    }
}
