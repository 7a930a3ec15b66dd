//! The module's Rust: `core`, the gate and what it links, compiled as a kernel wants code to be.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fs;
use std::hash::Hasher as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{KmodError, at, joined, recreate, run, sources};
use crate::debian::Suite;

/// The suite of Debian's with newer compilers, and how the version of a package follows from rustc's.
const DEBIAN_SUITE: &str = "trixie-backports";
const DEBIAN_SUFFIX: &str = "+dfsg1-2~bpo13+1";

/// The compiler, and how the kernel wants code to be.
pub struct Compiler {
    root: PathBuf,
    version: String,
    sysroot: PathBuf,
    flags: Vec<OsString>,
}

/// Where compiled `core` is.
pub struct Core {
    folder: PathBuf,
    rlib: PathBuf,
}

impl Compiler {
    /// This machine's compiler, with the flags that suit the kernel whose build directory is `kernel`.
    ///
    /// # Errors
    /// There is no compiler, or none that can suit it.
    pub fn new(root: &Path, kernel: &Path) -> Result<Self, KmodError> {
        let ask = |question: &[&str]| {
            run(Command::new("rustc").args(question).current_dir(root))
                .map(|answer| answer.trim().to_owned())
        };
        let version = ask(&["--version"])?;
        let version = version.split(' ').nth(1).unwrap_or_default().to_owned();
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?);
        let config = kernel.join("include/config/auto.conf");
        let config = fs::read_to_string(&config).map_err(at(&config))?;
        let has = |option: &str| {
            config
                .lines()
                .any(|line| line.strip_suffix("=y") == Some(option))
        };
        for option in [
            "CONFIG_CFI_CLANG",
            "CONFIG_CFI",
            "CONFIG_CALL_DEPTH_TRACKING_STRICT",
        ] {
            if has(option) {
                return Err(KmodError::Kernel {
                    kernel: kernel.to_owned(),
                    option,
                });
            }
        }
        let target = root.join("guest-module/kmod/target.json");
        let mut flags: Vec<OsString> = [
            "--edition=2024",
            "-Zunstable-options",
            "-Copt-level=2",
            "-Cpanic=abort",
            "-Coverflow-checks=on",
            "-Cforce-unwind-tables=n",
            "-Cembed-bitcode=n",
            "-Cjump-tables=n",
            "-Ccodegen-units=1",
            "-Csymbol-mangling-version=v0",
            "-Zlocation-detail=none",
            "-Zfmt-debug=none",
        ]
        .map(OsString::from)
        .to_vec();
        flags.push(joined("--target=", &target));
        if has("CONFIG_RETHUNK") || has("CONFIG_MITIGATION_RETHUNK") {
            flags.push("-Zfunction-return=thunk-extern".into());
        }
        if has("CONFIG_RETPOLINE") || has("CONFIG_MITIGATION_RETPOLINE") {
            flags.push("-Zretpoline-external-thunk".into());
        }
        if has("CONFIG_X86_KERNEL_IBT") {
            flags.push("-Zcf-protection=branch".into());
        }
        Ok(Self {
            root: root.to_owned(),
            version,
            sysroot,
            flags,
        })
    }

    /// `rustc` as the kernel's own build calls it: unstable flags on the stable compiler.
    fn rustc(&self) -> Command {
        let mut rustc = Command::new("rustc");
        rustc
            .env("RUSTC_BOOTSTRAP", "1")
            .current_dir(&self.root)
            .args(&self.flags);
        rustc
    }

    /// Names what a compiled `core` depends on.
    pub fn flavour(&self) -> String {
        let mut hash = DefaultHasher::new();
        for flag in &self.flags {
            hash.write(flag.as_encoded_bytes());
        }
        if let Ok(target) = fs::read(self.root.join("guest-module/kmod/target.json")) {
            hash.write(&target);
        }
        format!("{}-{:016x}", self.version, hash.finish())
    }

    /// Names what the whole module is made from.
    pub fn fingerprint(&self, root: &Path, kernel: &Path) -> Result<String, KmodError> {
        let mut hash = DefaultHasher::new();
        for (folder, extensions) in [
            ("device/abi/src", &["rs"] as &[&str]),
            ("device/ring/src", &["rs"]),
            ("guest-module/gate/src", &["rs"]),
            ("guest-module/kmod", &["rs", "c", "h", "json", "Kbuild"]),
        ] {
            for file in sources(&root.join(folder), extensions)? {
                hash.write(file.as_os_str().as_encoded_bytes());
                hash.write(&fs::read(&file).map_err(at(&file))?);
            }
        }
        let release = kernel.join("include/config/kernel.release");
        hash.write(&fs::read(&release).map_err(at(&release))?);
        Ok(format!("{}-{:016x}", self.flavour(), hash.finish()))
    }

    /// Compiles `core`, unless `cache` has it.
    pub fn core(&self, cache: &Path, out: &Path) -> Result<Core, KmodError> {
        let core = Core {
            folder: cache.to_owned(),
            rlib: cache.join("libcore.rlib"),
        };
        if cache.join("libcompiler_builtins.rlib").exists() {
            return Ok(core);
        }
        let source = self.rust_source(out)?;
        recreate(cache)?;
        run(self
            .rustc()
            .args([
                "--crate-name=core",
                "--crate-type=rlib",
                "--cap-lints=allow",
            ])
            .args(["--sysroot=/nonexistent", "-o"])
            .arg(&core.rlib)
            .arg(source.join("core/src/lib.rs")))?;
        // rustc asks every crate for it; the kernel has no use for what is in the real one.
        let empty = cache.join("compiler_builtins.rs");
        let text = "#![feature(compiler_builtins)]\n#![compiler_builtins]\n#![no_std]\n";
        fs::write(&empty, text).map_err(at(&empty))?;
        run(self
            .rustc()
            .args([
                "--crate-name=compiler_builtins",
                "--crate-type=rlib",
                "--cap-lints=allow",
            ])
            .arg(joined("-L", cache))
            .arg("-o")
            .arg(cache.join("libcompiler_builtins.rlib"))
            .arg(&empty))?;
        Ok(core)
    }

    /// Folder `library` of the compiler's source, of exactly its version.
    fn rust_source(&self, out: &Path) -> Result<PathBuf, KmodError> {
        let component = self.sysroot.join("lib/rustlib/src/rust/library");
        if !component.join("core").exists() {
            // On a machine without rustup, or where it reaches no server, the package is next.
            let mut rustup = Command::new("rustup");
            let _ = run(rustup
                .args(["component", "add", "rust-src"])
                .current_dir(&self.root));
        }
        if component.join("core").exists() {
            return Ok(component);
        }
        debian_source(&self.version, &out.join("rust-src")).map_err(|_| KmodError::NoRustSource {
            version: self.version.clone(),
        })
    }

    /// Compiles the gate and all that it reaches into `kbuild`'s `gate.o_shipped`.
    pub fn gate(&self, root: &Path, core: &Core, kbuild: &Path) -> Result<(), KmodError> {
        let compile = |name: &str, emit: &str, source: &str, uses: &[&str]| {
            let mut rustc = self.rustc();
            rustc
                .arg(joined("-L", &core.folder))
                .arg(joined("-L", kbuild));
            rustc
                .args(["--crate-type=rlib", "--crate-name", name, emit, "--out-dir"])
                .arg(kbuild);
            for used in uses {
                let library = kbuild.join(format!("lib{used}.rlib"));
                rustc
                    .arg("--extern")
                    .arg(joined(&format!("{used}="), &library));
            }
            run(rustc.arg(root.join(source)))
        };
        let library = "--emit=link";
        let (abi, ring, gate) = ("sivshm_abi", "sivshm_ring", "sivshm_gate");
        compile(abi, library, "device/abi/src/lib.rs", &[])?;
        compile(ring, library, "device/ring/src/lib.rs", &[abi])?;
        compile(gate, library, "guest-module/gate/src/lib.rs", &[abi, ring])?;
        let uses = [abi, ring, gate];
        compile(
            "sivshm_kmod",
            "--emit=obj",
            "guest-module/kmod/ffi.rs",
            &uses,
        )?;
        let object = kbuild.join("sivshm_kmod.o");
        // Only what the shim calls is kept, with what that reaches: the kernel accepts no
        // unresolved symbol.
        let symbols = run(Command::new("nm")
            .args(["--defined-only", "--extern-only"])
            .arg(&object))?;
        let exported = (symbols.lines().filter_map(|line| line.split(' ').nth(2)))
            .filter(|name| name.starts_with("sivshm_gate_"));
        let mut ld = Command::new("ld");
        ld.args(["-r", "--gc-sections"]);
        for name in exported {
            ld.args(["-u", name]);
        }
        ld.arg("-o").arg(kbuild.join("gate.o_shipped")).arg(&object);
        ld.args([gate, ring, abi].map(|name| kbuild.join(format!("lib{name}.rlib"))));
        run(ld.arg(&core.rlib))?;
        Ok(())
    }
}

/// Fetches Debian's `rust-src` of this version and unpacks it into `folder`.
fn debian_source(version: &str, folder: &Path) -> anyhow::Result<PathBuf> {
    let library = folder.join(format!("usr/src/rustc-{version}/library"));
    if !library.join("core").exists() {
        let suite = Suite::new(DEBIAN_SUITE, folder)?;
        suite.unpack(&format!("rust-src={version}{DEBIAN_SUFFIX}"))?;
    }
    Ok(library)
}
