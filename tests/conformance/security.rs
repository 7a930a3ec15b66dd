//! SECURITY.md against the source: every test that it names exists, every path it names is there, and
//! the one place where slices leave for a peer is the one that it says. And the pages that the source
//! names.

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    fn top() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    /// Every Rust file of the project, with its path from the top.
    fn sources() -> Vec<(String, String)> {
        let mut found = Vec::new();
        let folders = [
            "ca",
            "device",
            "guest-module",
            "handshake",
            "policy",
            "tests",
            "tools",
        ];
        let mut left: Vec<PathBuf> = folders.iter().map(|folder| top().join(folder)).collect();
        while let Some(folder) = left.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path);
                } else if path.extension().is_some_and(|kind| kind == "rs") {
                    let name = path
                        .strip_prefix(top())
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned();
                    found.push((name, std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
        found
    }

    /// What stands between backticks in the tables of SECURITY.md.
    fn claimed() -> Vec<String> {
        let text = std::fs::read_to_string(top().join("SECURITY.md")).unwrap();
        let rows = text.lines().filter(|line| line.starts_with('|'));
        rows.flat_map(|row| {
            row.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
    }

    #[test]
    fn every_test_and_path_that_it_names_exists() {
        let sources = sources();
        for name in claimed() {
            if name.contains('/') {
                let place = name.trim_end_matches("*.rs");
                assert!(
                    top().join(&name).exists()
                        || sources.iter().any(|(path, _)| path.starts_with(place)),
                    "SECURITY.md names {name}, which is not there"
                );
            } else if name.contains('_') {
                let test = format!("fn {name}(");
                assert!(
                    sources.iter().any(|(_, text)| text.contains(&test)),
                    "SECURITY.md names the test `{name}`, which is not there"
                );
            }
        }
    }

    #[test]
    fn every_page_that_the_source_names_exists() {
        let mut named = 0;
        for (path, text) in sources() {
            for (at, _) in text.match_indices("docs/") {
                let page: String = text
                    .get(at..)
                    .into_iter()
                    .flat_map(str::chars)
                    .take_while(|letter| letter.is_ascii_alphanumeric() || "/.-_".contains(*letter))
                    .collect();
                // A sentence may end behind the name.
                let page = page.trim_end_matches('.');
                if page.ends_with(".md") {
                    named += 1;
                    assert!(
                        top().join(page).exists(),
                        "{path} names {page}, which is not there"
                    );
                }
            }
        }
        assert!(named > 20, "only {named} pages found: is the search right?");
    }

    /// Files of the backend that hold a piece of code.
    fn holding(needle: &str) -> Vec<String> {
        let code = |text: &str| {
            text.lines()
                .any(|line| !line.trim().starts_with("//") && line.contains(needle))
        };
        let of_backend =
            |path: &str| path.starts_with("device/backend/src/run/") && !path.contains("test");
        let found = sources().into_iter();
        let found = found.filter(|(path, text)| of_backend(path) && code(text));
        let mut paths: Vec<_> = found.map(|(path, _)| path).collect();
        paths.sort();
        paths
    }

    #[test]
    fn i3_slices_leave_through_one_function() {
        // The terms of a link, which alone name what may be sent, are made in admission and nowhere else.
        assert_eq!(
            holding("LinkTerms {"),
            ["device/backend/src/run/admission.rs"]
        );
        // The read-only re-opens are looked at once, to lay them out for admission.
        assert_eq!(
            holding("for_reader"),
            ["device/backend/src/run/inventory.rs"]
        );
        // The peer's terms are asked for in one place, with the proof in hand.
        assert_eq!(
            holding("admission::link_terms("),
            ["device/backend/src/run/peers/exchange.rs"]
        );
    }

    #[test]
    fn i3_services_are_granted_through_one_function() {
        // A grant is made in admission and nowhere else, from an agreement of both services.
        assert_eq!(
            holding("Some(Grant {"),
            ["device/backend/src/run/admission.rs"]
        );
        assert_eq!(
            holding("admission::grants_of_pairing("),
            ["device/backend/src/run/sessions/parts.rs"]
        );
        assert_eq!(
            holding("Payload::Grant(grant)"),
            ["device/backend/src/run/sessions/parts.rs"]
        );
    }
}
