//! The guest kernel module, built for any kernel with headers: no CONFIG_RUST, no network but a
//! package registry (DESIGN section 10).
//!
//! `core`, the gate and what it links are compiled for the kernel's target
//! (`guest-module/kmod/target.json`) and merged into one object, which the kernel's own build links
//! with the C shim. `core` is compiled once for each compiler and set of kernel flags.

use std::collections::hash_map::DefaultHasher;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::Hasher as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::debian::Suite;

/// The suite of Debian's with newer compilers, and how the version of a package follows from rustc's.
const DEBIAN_SUITE: &str = "trixie-backports";
const DEBIAN_SUFFIX: &str = "+dfsg1-2~bpo13+1";

/// Why there is no module.
#[derive(Debug, thiserror::Error)]
pub enum KmodError {
    /// The host's file system refused.
    #[error("can't use {}", path.display())]
    File {
        /// What could not be read or written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("can't start {program}: install it")]
    Start {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed:\n{output}")]
    Failed {
        /// Its name.
        program: String,
        /// What it said.
        output: String,
    },
    /// The kernel is built in a way that the module can't follow.
    #[error("the kernel in {} has {option}, which the gate is not compiled for", kernel.display())]
    Kernel {
        /// Its build directory.
        kernel: PathBuf,
        /// The option.
        option: &'static str,
    },
    /// The source of `core` is nowhere to be had.
    #[error(
        "no rust-src for rustc {version}: run `rustup component add rust-src`, or install Debian's \
         rust-src of that version"
    )]
    NoRustSource {
        /// The compiler's version.
        version: String,
    },
}

/// Where a kernel's headers are, and what builds for it.
#[derive(Clone, Copy, Debug)]
pub enum System<'a> {
    /// This one.
    Host,
    /// The one in this folder, below which its kernel's build directory is, and what is built.
    Chroot(&'a Path),
}

/// Builds `sivshm.ko` for the kernel whose build directory is `kernel` into `out`, and returns its
/// path. Does nothing if what it would be made from has not changed.
///
/// # Errors
/// [`KmodError`] says which step failed and what it said.
pub fn build(
    root: &Path,
    system: System<'_>,
    kernel: &Path,
    out: &Path,
) -> Result<PathBuf, KmodError> {
    let compiler = Compiler::new(root, kernel)?;
    let inputs = compiler.fingerprint(root, kernel)?;
    let (module, stamp) = (out.join("sivshm.ko"), out.join("inputs"));
    if module.exists() && fs::read_to_string(&stamp).is_ok_and(|built| built == inputs) {
        return Ok(module);
    }
    let cache = out.join("core").join(compiler.flavour());
    let core = compiler.core(&cache, out)?;
    let kbuild = out.join("build");
    recreate(&kbuild)?;
    compiler.gate(root, &core, &kbuild)?;
    for file in sources(&root.join("guest-module/kmod"), &["c", "h", "Kbuild"])? {
        let name = file.file_name().unwrap_or_default();
        fs::copy(&file, kbuild.join(name)).map_err(at(&file))?;
    }
    system.make(kernel, &kbuild)?;
    let built = kbuild.join("sivshm.ko");
    fs::rename(&built, &module).map_err(at(&built))?;
    fs::write(&stamp, inputs).map_err(at(&stamp))?;
    Ok(module)
}

impl System<'_> {
    /// Runs the kernel's own build of the module whose sources are in `folder`.
    ///
    /// # Errors
    /// It fails; warnings of the compiler and of objtool are errors.
    pub fn make(self, kernel: &Path, folder: &Path) -> Result<(), KmodError> {
        let folder = fs::canonicalize(folder).map_err(at(folder))?;
        let (mut make, kernel, folder) = match self {
            Self::Host => (Command::new("make"), kernel.to_owned(), folder),
            Self::Chroot(root) => {
                let root = fs::canonicalize(root).map_err(at(root))?;
                let inside = |path: &Path| {
                    let below = path.strip_prefix(&root).unwrap_or(path);
                    Path::new("/").join(below)
                };
                let kernel = fs::canonicalize(kernel).map_err(at(kernel))?;
                // objtool looks into /proc; the mount ends with the command.
                let mut make = Command::new("unshare");
                make.args(["--fork", "--pid"]);
                make.arg(joined("--mount-proc=", &root.join("proc")));
                make.arg("chroot").arg(&root).arg("make");
                (make, inside(&kernel), inside(&folder))
            }
        };
        make.arg("-C").arg(kernel).arg("modules");
        make.arg(joined("M=", &folder)).arg("KCFLAGS=-Werror");
        // 6.12 and later fail without pahole; nobody needs the module's BTF.
        make.arg("CONFIG_DEBUG_INFO_BTF_MODULES=");
        let (output, complaints) = said(&mut make)?;
        eprint!("{complaints}");
        if complaints.contains("warning: objtool") {
            // No flag makes it an error in every kernel.
            return Err(KmodError::Failed {
                program: "objtool".to_owned(),
                output: output + &complaints,
            });
        }
        Ok(())
    }
}

/// The compiler, and how the kernel wants code to be.
struct Compiler {
    root: PathBuf,
    version: String,
    sysroot: PathBuf,
    flags: Vec<OsString>,
}

/// Where compiled `core` is.
struct Core {
    folder: PathBuf,
    library: PathBuf,
}

impl Compiler {
    fn new(root: &Path, kernel: &Path) -> Result<Self, KmodError> {
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
    fn flavour(&self) -> String {
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
    fn fingerprint(&self, root: &Path, kernel: &Path) -> Result<String, KmodError> {
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
    fn core(&self, cache: &Path, out: &Path) -> Result<Core, KmodError> {
        let core = Core {
            folder: cache.to_owned(),
            library: cache.join("libcore.rlib"),
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
            .arg(&core.library)
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
    fn gate(&self, root: &Path, core: &Core, kbuild: &Path) -> Result<(), KmodError> {
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
        run(ld.arg(&core.library))?;
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

/// Runs a program to its end and returns what it wrote.
fn run(command: &mut Command) -> Result<String, KmodError> {
    let (output, complaints) = said(command)?;
    // What it says although it succeeds is a warning.
    eprint!("{complaints}");
    Ok(output)
}

/// Runs a program to its end and returns what it wrote and what it complained of.
fn said(command: &mut Command) -> Result<(String, String), KmodError> {
    let program = command.get_program().display().to_string();
    let ended = command.output().map_err(|source| KmodError::Start {
        program: program.clone(),
        source,
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (output, complaints) = (text(&ended.stdout), text(&ended.stderr));
    if ended.status.success() {
        Ok((output, complaints))
    } else {
        Err(KmodError::Failed {
            program,
            output: output + &complaints,
        })
    }
}

/// Files below `folder` whose name, or what follows its last point, is one of `extensions`; sorted.
fn sources(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, KmodError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry.map_err(at(folder))?;
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path, extensions)?);
            continue;
        }
        let kind = path
            .extension()
            .or(path.file_name())
            .and_then(OsStr::to_str);
        if kind.is_some_and(|kind| extensions.contains(&kind)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn recreate(folder: &Path) -> Result<(), KmodError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(folder)(error)),
        _ => {}
    }
    fs::create_dir_all(folder).map_err(at(folder))
}

fn joined(prefix: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(prefix);
    argument.push(path);
    argument
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> KmodError {
    let path = path.to_owned();
    move |source| KmodError::File { path, source }
}
