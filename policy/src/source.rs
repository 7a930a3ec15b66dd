//! Places in the policy's text, and errors that show them.

use std::fmt;
use std::ops::Range;

/// Most errors that one compilation shows; the rest is counted.
///
/// Two screens of errors are what a person reads before correcting the first of them.
pub const MAX_DIAGNOSTICS: usize = 50;

/// Most characters of a source line that an error shows: two columns of a usual terminal.
const SHOWN_CHARS: usize = 160;

/// A byte range of the policy's text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Span {
    start: usize,
    end: usize,
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self {
            start: range.start,
            end: range.end,
        }
    }
}

/// A value with its place in the text.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// A place in the policy's text, with the line to show. Line and column count from 1, the column
/// in characters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column of the first marked character.
    pub column: usize,
    /// The line, without control characters and cut to a width that can be shown.
    pub text: String,
    /// First marked character of `text`, from 0.
    pub marked: usize,
    /// Marked characters; at least one.
    pub width: usize,
}

impl Place {
    fn of(text: &str, span: Span) -> Self {
        let start = span.start.min(text.len());
        let before = text.as_bytes().get(..start).unwrap_or_default();
        let line_start = before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let line = text.get(line_start..).unwrap_or_default();
        let line = line.lines().next().unwrap_or_default();
        let chars = |bytes: usize| {
            line.char_indices()
                .take_while(|(at, _)| *at < bytes)
                .count()
        };
        let column = chars(start - line_start);
        let width = chars(span.end.saturating_sub(line_start)).saturating_sub(column);
        let skipped = column.saturating_sub(SHOWN_CHARS / 2);
        let shown: String = line.chars().skip(skipped).take(SHOWN_CHARS).collect();
        let marked = column - skipped;
        Self {
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            column: column + 1,
            width: width
                .min(shown.chars().count().saturating_sub(marked))
                .max(1),
            text: printable(&shown),
            marked,
        }
    }
}

/// Text of a policy as it may reach a terminal: each control character becomes one visible one.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// One error in a policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Diagnostic {
    /// Where it is.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Other places that take part in the error, with what they are.
    pub notes: Vec<(Place, String)>,
}

/// Everything that is wrong with a policy. Nothing of such a file is used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyErrors {
    /// Name of the file, as the caller gave it.
    pub source_name: String,
    /// The errors, sorted by place.
    pub diagnostics: Vec<Diagnostic>,
    /// Errors beyond [`MAX_DIAGNOSTICS`].
    pub omitted: usize,
}

impl std::error::Error for PolicyErrors {}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.diagnostics {
            self.show(f, &error.place, "error", &error.message)?;
            if let Some(help) = &error.help {
                writeln!(f, "{:>6} = help: {}", "", printable(help))?;
            }
            for (place, note) in &error.notes {
                self.show(f, place, "note", note)?;
            }
        }
        let count = self.diagnostics.len() + self.omitted;
        let plural = if count == 1 { "" } else { "s" };
        let name = printable(&self.source_name);
        write!(f, "{name}: {count} error{plural}")?;
        if self.omitted > 0 {
            write!(f, " ({} not shown)", self.omitted)?;
        }
        write!(f, "; nothing of this file is used")
    }
}

impl PolicyErrors {
    fn show(
        &self,
        f: &mut fmt::Formatter<'_>,
        place: &Place,
        what: &str,
        message: &str,
    ) -> fmt::Result {
        let Place { line, column, .. } = place;
        let name = printable(&self.source_name);
        writeln!(f, "{name}:{line}:{column}: {what}: {}", printable(message))?;
        writeln!(f, "{line:>6} | {}", place.text)?;
        let (blank, marks) = (" ".repeat(place.marked), "^".repeat(place.width));
        writeln!(f, "{:>6} | {blank}{marks}", "")
    }
}

/// An error on its way into the [`Report`].
#[derive(Debug)]
pub(crate) struct Problem {
    span: Span,
    message: String,
    help: Option<String>,
    notes: Vec<(Span, String)>,
}

impl Problem {
    pub(crate) fn new(span: Span, message: impl Into<String>) -> Self {
        Self {
            span,
            message: message.into(),
            help: None,
            notes: Vec::new(),
        }
    }

    pub(crate) fn help(mut self, help: impl Into<Option<String>>) -> Self {
        self.help = help.into();
        self
    }

    pub(crate) fn note(mut self, span: Span, note: impl Into<String>) -> Self {
        self.notes.push((span, note.into()));
        self
    }
}

/// Collects the errors of one compilation.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    text: &'a str,
    errors: PolicyErrors,
}

impl<'a> Report<'a> {
    pub(crate) fn new(source_name: &str, text: &'a str) -> Self {
        Self {
            text,
            errors: PolicyErrors {
                source_name: source_name.to_owned(),
                diagnostics: Vec::new(),
                omitted: 0,
            },
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.errors.diagnostics.is_empty()
    }

    /// Adds a problem; it is not even built when there are enough of them already.
    pub(crate) fn add(&mut self, problem: impl FnOnce() -> Problem) {
        if self.errors.diagnostics.len() == MAX_DIAGNOSTICS {
            self.errors.omitted += 1;
            return;
        }
        let problem = problem();
        let place = |span| Place::of(self.text, span);
        let notes = problem.notes.into_iter();
        let diagnostic = Diagnostic {
            place: place(problem.span),
            message: problem.message,
            help: problem.help,
            notes: notes.map(|(span, note)| (place(span), note)).collect(),
        };
        self.errors.diagnostics.push(diagnostic);
    }

    pub(crate) fn into_errors(mut self) -> PolicyErrors {
        let place = |error: &Diagnostic| (error.place.line, error.place.column);
        self.errors.diagnostics.sort_by_key(place);
        self.errors
    }
}

/// Says which of `candidates` the text was probably meant to be.
pub(crate) fn did_you_mean<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let most = text.chars().count() / 3 + 1;
    candidates
        .into_iter()
        .map(|candidate| (distance(text, candidate), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut corner = i;
        for (y, cell) in b.chars().zip(row.iter_mut().skip(1)) {
            let substituted = corner + usize::from(x != y);
            corner = *cell;
            left = substituted.min(corner + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("worker", "worker", 0),
            ("wroker", "worker", 2),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
        assert_eq!(did_you_mean("zzz", ["worker"]), None);
        assert_eq!(
            did_you_mean("sise", ["kind", "size", "slot"]),
            Some("did you mean `size`?".to_owned())
        );
    }

    #[test]
    fn a_place_counts_characters_and_lines() {
        let text = "a = 1\nü = \"x\"\r\nb";
        let place = Place::of(text, Span::from(11..14));
        assert_eq!((place.line, place.column, place.width), (2, 5, 3));
        assert_eq!(place.text, "ü = \"x\"");
        let end = Place::of(text, Span::from(text.len()..text.len()));
        assert_eq!((end.line, end.column, end.width), (3, 2, 1));
    }

    #[test]
    fn nothing_of_the_text_controls_a_terminal_and_long_lines_are_cut() {
        let text = format!("\u{1b}[2J{}x", "y".repeat(1000));
        let place = Place::of(&text, Span::from(1004..1005));
        assert!(place.text.chars().count() <= SHOWN_CHARS);
        assert_eq!(place.text.chars().nth(place.marked), Some('x'));
        let start = Place::of(&text, Span::from(0..1));
        assert!(!start.text.contains('\u{1b}'));
    }

    #[test]
    fn errors_beyond_the_bound_are_counted() {
        let mut report = Report::new("p", "x");
        for _ in 0..MAX_DIAGNOSTICS + 2 {
            report.add(|| Problem::new(Span::from(0..1), "bad"));
        }
        let errors = report.into_errors();
        assert_eq!(errors.omitted, 2);
        assert!(errors.to_string().contains("52 errors (2 not shown)"));
    }
}
