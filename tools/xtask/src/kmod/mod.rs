//! The guest kernel module, built for any kernel with headers: no CONFIG_RUST, no network but a
//! package registry (DESIGN section 10).
//!
//! `core`, the gate and what it links are compiled for the kernel's target
//! (`guest-module/kmod/target.json`) and merged into one object, which the kernel's own build links
//! with the C shim. `core` is compiled once for each compiler and set of kernel flags.

mod compiler;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use compiler::Compiler;

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
