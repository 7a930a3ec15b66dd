//! `docs/guest.md` against the settings that `guest-module` ships.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    const PAGE: &str = include_str!("../../docs/guest.md");
    const UNIT: &str = include_str!("../../guest-module/settings/sivshm-lockdown.service");

    /// The first two cells of the table of settings, without backticks.
    fn settings() -> Vec<(String, String)> {
        let (_, table) = PAGE.split_once("| file | to | does |\n").unwrap();
        let rows = table.lines().take_while(|line| line.starts_with('|'));
        rows.skip(1)
            .map(|row| {
                let mut cells = row.split('`').skip(1).step_by(2);
                let mut next = || cells.next().unwrap().to_owned();
                (next(), next())
            })
            .collect()
    }

    /// Paths of all files below a folder.
    fn files(top: &Path, folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(top, &path, found);
            } else {
                let name = path.strip_prefix(top).unwrap().to_str().unwrap();
                found.insert(name.to_owned());
            }
        }
    }

    #[test]
    fn every_setting_is_documented() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-module/settings");
        let mut shipped = BTreeSet::new();
        files(&top, &top, &mut shipped);
        let documented = settings().into_iter().map(|(file, _)| file);
        assert_eq!(documented.collect::<BTreeSet<_>>(), shipped);
    }

    #[test]
    fn the_unit_runs_the_script_where_it_is_installed() {
        let settings = settings();
        let (name, folder) = settings
            .iter()
            .find(|(file, _)| file == "sivshm-lockdown")
            .unwrap();
        let start = format!("ExecStart={folder}{name}\n");
        assert!(UNIT.contains(&start), "the unit has no {start}");
    }
}
