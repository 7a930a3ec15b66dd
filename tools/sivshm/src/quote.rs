//! Quoting for a POSIX shell.

/// Quotes `text` so that a shell reads it as one word with exactly these characters.
pub fn shell(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_need_no_quotes_get_none() {
        assert_eq!(shell("socket,path=/run/a.sock"), "socket,path=/run/a.sock");
    }

    #[test]
    fn everything_else_is_one_quoted_word() {
        assert_eq!(shell(""), "''");
        assert_eq!(shell("a b"), "'a b'");
        assert_eq!(shell("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(shell("a\nb"), "'a\nb'");
    }
}
