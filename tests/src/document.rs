//! Tables of the project's documents, for the tests that compare them with the code.

/// What stands below a heading, which is a whole line; none if the document does not have it.
#[must_use]
pub fn below<'a>(document: &'a str, heading: &str) -> Option<&'a str> {
    let (_, below) = document.split_once(&format!("\n{heading}\n"))?;
    Some(below)
}

/// The rows of the first table in a text, as cells, without its head.
#[must_use]
pub fn rows(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().skip_while(|line| !line.starts_with('|'));
    lines
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

/// The same without the marks of code.
#[must_use]
pub fn plain_rows(text: &str) -> Vec<Vec<String>> {
    let mut rows = rows(text);
    for cell in rows.iter_mut().flatten() {
        *cell = cell.replace('`', "");
    }
    rows
}
