//! The keys of the policy file, as one table: the parser and `docs/policy.md` follow it.

/// Version of the policy language that this crate reads.
pub const VERSION: u64 = 1;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value looks like.
    pub form: &'static str,
    /// Value when the key is absent, in words; none if the key is required.
    pub default: Option<&'static str>,
}

/// One kind of table of the policy file.
#[derive(Debug)]
pub struct Table {
    /// How the file names it.
    pub name: &'static str,
    /// Its keys; any other is an error.
    pub keys: &'static [Key],
}

impl Table {
    /// The key with a name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

const fn required(name: &'static str, form: &'static str) -> Key {
    Key {
        name,
        form,
        default: None,
    }
}

const fn optional(name: &'static str, form: &'static str, default: &'static str) -> Key {
    Key {
        name,
        form,
        default: Some(default),
    }
}

/// The file itself.
pub const FILE: Table = Table {
    name: "the file",
    keys: &[
        required("version", "integer"),
        required("trust_domain", "string"),
        required("serial", "integer"),
        optional("vm", "tables", "none"),
        optional("service", "tables", "none"),
        optional("channel", "tables", "none"),
        optional("never", "tables", "none"),
    ],
};

/// `[[vm]]`.
pub const VM: Table = Table {
    name: "[[vm]]",
    keys: &[
        required("name", "string"),
        optional("uncontained", "string", "show"),
    ],
};

/// `[[service]]`.
pub const SERVICE: Table = Table {
    name: "[[service]]",
    keys: &[
        required("vm", "string"),
        required("name", "string"),
        required("process", "table"),
    ],
};

/// `process` of a `[[service]]`.
pub const PROCESS: Table = Table {
    name: "process",
    keys: &[
        required("uid", "integer"),
        optional("exe_sha256", "string", "any executable"),
    ],
};

/// `[[channel]]`.
pub const CHANNEL: Table = Table {
    name: "[[channel]]",
    keys: &[
        required("name", "string"),
        required("from", "string"),
        required("to", "array of strings"),
        required("kind", "string"),
        required("size", "string"),
        optional("slot", "string", "required for a ring"),
        optional("overflow", "string", "block"),
        optional("integrity", "string", "none"),
    ],
};

/// `[[never]]`.
pub const NEVER: Table = Table {
    name: "[[never]]",
    keys: &[
        required("from", "string"),
        required("to", "string"),
        required("reason", "string"),
    ],
};

/// Every kind of table.
pub const TABLES: &[&Table] = &[&FILE, &VM, &SERVICE, &PROCESS, &CHANNEL, &NEVER];

/// The kinds of channel of this version.
pub const KINDS: &[&str] = &["region", "ring"];

/// What a full ring does: make its producer wait, or lose its oldest slot.
pub const OVERFLOWS: &[&str] = &["block", "overwrite"];
