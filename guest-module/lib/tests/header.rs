//! The checked-in C header is what the C interface says.

/// Where the header is.
#[cfg(test)]
const HEADER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include/sivshm.h");

/// Set to write the header instead of comparing it.
#[cfg(test)]
const WRITE_VARIABLE: &str = "SIVSHM_WRITE_HEADER";

#[cfg(test)]
mod tests {
    use super::{HEADER, WRITE_VARIABLE};
    use cbindgen::{Builder, Config, DocumentationStyle, Language, Style};

    fn generate() -> String {
        let config = Config {
            language: Language::C,
            cpp_compat: true,
            header: Some("/* Generated from guest-module/lib/src/capi: do not edit. */".to_owned()),
            include_guard: Some("SIVSHM_H".to_owned()),
            documentation_style: DocumentationStyle::C99,
            style: Style::Type,
            usize_is_size_t: true,
            ..Config::default()
        };
        // The modules that it declares are found from there.
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/capi/mod.rs");
        let mut header = Vec::new();
        Builder::new()
            .with_src(source)
            .with_config(config)
            .generate()
            .unwrap()
            .write(&mut header);
        String::from_utf8(header).unwrap()
    }

    #[test]
    fn the_header_is_up_to_date() {
        let generated = generate();
        if std::env::var_os(WRITE_VARIABLE).is_some() {
            std::fs::write(HEADER, &generated).unwrap();
        }
        let checked_in = std::fs::read_to_string(HEADER).unwrap_or_default();
        assert!(
            checked_in == generated,
            "{HEADER} is stale: run this test once with {WRITE_VARIABLE}=1"
        );
    }
}
