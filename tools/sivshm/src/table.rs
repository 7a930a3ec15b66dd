//! Plain tables.

use std::fmt;

/// A table with a head, aligned by columns, without lines: easy to read and to cut.
#[derive(Debug)]
pub struct Table(comfy_table::Table);

impl Table {
    /// An empty table with these column heads.
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_header(head);
        Self(table)
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.add_row(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Cells are padded by a space on both sides.
        let lines = self.0.lines().map(|line| {
            let line = line.strip_prefix(' ').unwrap_or(&line);
            line.trim_end().to_owned()
        });
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["VM", "pid"]);
        table.row(["manager".into(), "7".into()]);
        assert_eq!(table.to_string(), "VM       pid\nmanager  7");
    }
}
