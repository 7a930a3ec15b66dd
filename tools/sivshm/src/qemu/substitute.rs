//! `{NAME}` and `{NAME.bytes}` in the user's arguments.

/// A file that `sivshm run` opened for the program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Named {
    /// Name between the braces.
    pub name: String,
    /// What `{NAME}` becomes.
    pub path: String,
    /// What `{NAME.bytes}` becomes: the exact length in bytes.
    pub bytes: u64,
}

/// Replaces the names of `files` in one argument. Other braces stay: QEMU has options in JSON.
pub fn substitute(argument: &str, files: &[Named]) -> String {
    files.iter().fold(argument.to_owned(), |text, file| {
        text.replace(&format!("{{{}}}", file.name), &file.path)
            .replace(&format!("{{{}.bytes}}", file.name), &file.bytes.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_lengths_are_replaced_and_nothing_else() {
        let files = [Named {
            name: "input".into(),
            path: "/proc/self/fd/7".into(),
            bytes: 1001,
        }];
        assert_eq!(
            substitute("x={input} n={input.bytes} {other} {\"a\":1}", &files),
            "x=/proc/self/fd/7 n=1001 {other} {\"a\":1}"
        );
    }
}
