//! The model of the service handshake against what it stands for: `docs/service-handshake.md`, the
//! sources that it names, and the task that has it checked.

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sivshm_tests::document::{below, rows};

    const DOCUMENT: &str = include_str!("../../docs/service-handshake.md");
    const README: &str = include_str!("../../handshake/model/README.md");
    const MODEL: &str = include_str!("../../handshake/model/service.pml");
    const TASK: &str = include_str!("../../tools/xtask/src/model.rs");

    /// The cells of the first table below a heading, without its head.
    fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
        rows(below(page, heading).unwrap())
    }

    /// What stands between backticks.
    fn quoted(text: &str) -> impl Iterator<Item = &str> {
        text.split('`').skip(1).step_by(2)
    }

    #[test]
    fn every_message_is_modelled() {
        let messages = table(DOCUMENT, "### Message types");
        let messages: Vec<_> = messages.iter().map(|row| &row[1]).collect();
        let modelled = table(README, "### Messages");
        let modelled: Vec<_> = modelled.iter().map(|row| &row[0]).collect();
        assert_eq!(modelled, messages);
    }

    #[test]
    fn every_signed_field_is_modelled() {
        let fields = ["open", "accept", "confirm", "agreed"]
            .into_iter()
            .flat_map(|body| {
                let article = if body == "confirm" { "a" } else { "an" };
                let rows = table(DOCUMENT, &format!("### Body of {article} {body}"));
                rows.into_iter()
                    .map(move |row| (body.to_owned(), row[0].clone()))
            });
        let modelled = table(README, "### Signed fields");
        let modelled = modelled.into_iter().map(|row| {
            let [body, field, _] = row.try_into().unwrap();
            (body, field)
        });
        assert_eq!(
            modelled.collect::<Vec<_>>(),
            fields.collect::<Vec<(String, String)>>()
        );
    }

    #[test]
    fn the_names_are_those_of_the_model() {
        let rows = ["### Messages", "### Signed fields"].map(|heading| table(README, heading));
        for row in rows.iter().flatten() {
            let place = row.last().unwrap();
            for name in quoted(place) {
                assert!(MODEL.contains(name), "{row:?}: the model has no {name}");
            }
        }
    }

    #[test]
    fn the_sources_that_it_stands_for_are_there() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let (_, named) = MODEL.split_once("Stands for:\n").unwrap();
        let named = named.lines().map_while(|line| {
            let path = line.trim_start_matches([' ', '*']);
            Some(path.split_once(' ')?.0)
        });
        let named: Vec<_> = named.collect();
        assert_eq!(named.len(), 2);
        for path in named {
            assert!(top.join(path).is_dir(), "{path} is not there");
        }
    }

    #[test]
    fn every_broken_protocol_is_searched() {
        for row in table(README, "## What the checker has to find") {
            let define = quoted(&row[0]).next().unwrap();
            assert!(MODEL.contains(define), "the model has no {define}");
            let search = format!("Some(\"{define}\")");
            assert!(TASK.contains(&search), "the task does not search {define}");
        }
    }
}
