//! ivshmem's PCI functions, as root reaches them through sysfs and `/dev/mem`.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use sivshm_abi::directory::PciPlace;

use crate::attempt::errno_of;
use crate::device::{Mapped, map};
use crate::guest_user::{PAGE, RW};

/// Red Hat's vendor id and QEMU's ivshmem device.
const IVSHMEM: (&str, &str) = ("0x1af4", "0x1110");

/// Where a function's memory BAR, which has 64 bits, is in its configuration space.
const MEMORY_BAR: u64 = 0x18;

/// Bits of a memory BAR that are no address.
const BAR_FLAGS: u64 = 0xf;

/// Number of the BAR with a port's table of vectors.
const VECTORS: usize = 1;

/// Number of the memory BAR.
const MEMORY: usize = 2;

/// One function.
#[derive(Clone, Debug)]
pub struct Function {
    name: String,
    path: PathBuf,
}

impl Function {
    /// Every ivshmem function of this VM, in the order of their addresses.
    pub fn all() -> Vec<Self> {
        let entries = fs::read_dir("/sys/bus/pci/devices").into_iter().flatten();
        let mut all: Vec<_> = entries
            .flatten()
            .map(|entry| Self {
                name: entry.file_name().to_string_lossy().into_owned(),
                path: entry.path(),
            })
            .filter(|f| (f.read("vendor").as_str(), f.read("device").as_str()) == IVSHMEM)
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The driver that it is bound to.
    pub fn driver(&self) -> Option<String> {
        let link = fs::read_link(self.path.join("driver")).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }

    /// Whether it has a table of interrupt vectors, as a port has and a window has not.
    pub fn is_port(&self) -> bool {
        self.range(VECTORS).is_some_and(|(start, _)| start != 0)
    }

    /// Where it is: below which root port, and which function there.
    pub fn place(&self) -> Option<PciPlace> {
        let path = fs::canonicalize(&self.path).ok()?;
        Some(PciPlace {
            root: slot_and_function(path.parent()?)?,
            function: slot_and_function(&path)?,
        })
    }

    /// Maps the first page of one of its resource files for writing, and loads from it.
    pub fn map_resource(&self, resource: &str) -> nix::Result<()> {
        self.resource(resource, PAGE).map(|page| page.touch())
    }

    /// Maps the first bytes of one of its resource files for writing.
    pub fn resource(&self, resource: &str, length: usize) -> nix::Result<Mapped> {
        map(open(&self.path.join(resource))?.as_fd(), 0, length, RW)
    }

    /// Maps the first page of a BAR by its physical address for writing, and loads from it.
    pub fn map_physical(&self, bar: usize) -> nix::Result<()> {
        let (start, _) = self.range(bar).ok_or(Errno::ENOENT)?;
        let start = i64::try_from(start).map_err(|_| Errno::EOVERFLOW)?;
        map(open(Path::new("/dev/mem"))?.as_fd(), start, PAGE, RW).map(|page| page.touch())
    }

    /// Bytes of its memory.
    pub fn memory_bytes(&self) -> usize {
        let range = self.range(MEMORY).map(|(start, end)| end + 1 - start);
        range
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(0)
    }

    /// Binds it to another driver.
    pub fn take(&self, driver: &str) -> nix::Result<()> {
        write_to(self.path.join("driver_override"), driver)?;
        let bound = write_to(driver_file(driver, "bind"), &self.name);
        write_to(self.path.join("driver_override"), "\n")?;
        bound
    }

    /// Takes it away from its driver.
    pub fn unbind(&self, driver: &str) -> nix::Result<()> {
        write_to(driver_file(driver, "unbind"), &self.name)
    }

    /// Removes it until the next scan of the bus.
    pub fn remove(&self) -> nix::Result<()> {
        write_to(self.path.join("remove"), "1")
    }

    /// Has its driver bind it, if there is one.
    pub fn probe(&self) -> nix::Result<()> {
        write_to("/sys/bus/pci/drivers_probe", &self.name)
    }

    /// Where its memory BAR says it is.
    pub fn bar(&self) -> nix::Result<u64> {
        let mut bytes = [0; 8];
        let config = open(&self.path.join("config"))?;
        config
            .read_exact_at(&mut bytes, MEMORY_BAR)
            .map_err(errno_of)?;
        Ok(u64::from_le_bytes(bytes) & !BAR_FLAGS)
    }

    /// Moves its memory.
    pub fn set_bar(&self, address: u64) -> nix::Result<()> {
        let config = open(&self.path.join("config"))?;
        let bytes = address.to_le_bytes();
        config.write_all_at(&bytes, MEMORY_BAR).map_err(errno_of)
    }

    /// The same through `/proc/bus/pci`.
    pub fn set_bar_by_proc(&self, address: u64) -> nix::Result<()> {
        let place = self
            .name
            .split_once(':')
            .map(|(_, place)| place.replace(':', "/"));
        let place = place.ok_or(Errno::ENODEV)?;
        let config = open(&Path::new("/proc/bus/pci").join(place))?;
        let bytes = address.to_le_bytes();
        config.write_all_at(&bytes, MEMORY_BAR).map_err(errno_of)
    }

    /// First and last address of a BAR.
    fn range(&self, bar: usize) -> Option<(u64, u64)> {
        let table = self.read("resource");
        let mut fields = table.lines().nth(bar)?.split(' ');
        let mut next = || u64::from_str_radix(fields.next()?.trim_start_matches("0x"), 16).ok();
        Some((next()?, next()?))
    }

    fn read(&self, attribute: &str) -> String {
        let text = fs::read_to_string(self.path.join(attribute)).unwrap_or_default();
        text.trim_end().to_owned()
    }
}

/// `slot << 3 | function` of a name such as `0000:00:10.0`.
fn slot_and_function(path: &Path) -> Option<u8> {
    let name = path.file_name()?.to_str()?;
    let (slot, function) = name.rsplit(':').next()?.split_once('.')?;
    let number = |text| u8::from_str_radix(text, 16).ok();
    Some(number(slot)? << 3 | number(function)?)
}

fn driver_file(driver: &str, file: &str) -> PathBuf {
    Path::new("/sys/bus/pci/drivers").join(driver).join(file)
}

fn open(path: &Path) -> nix::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map_err(errno_of)
}

/// Writes a sysfs attribute, in one call.
pub fn write_to(path: impl AsRef<Path>, text: &str) -> nix::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(errno_of)?;
    file.write_all_at(text.as_bytes(), 0).map_err(errno_of)
}
