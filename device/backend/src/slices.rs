//! The slices that a VM writes: created, owned and sealed so that exactly one VM can store to them
//! (I1, I2; DESIGN section 5).

use std::ffi::CString;
use std::io;

use sivshm_abi::directory::SliceId;
use sivshm_abi::grant::Generation;
use sivshm_policy::plan::{Plan, Slice, VmIndex};
use sivshm_sys::memfd::{self, Ownership};

use crate::args::Mode;
use crate::held::OwnSlice;
use crate::ids::VmIds;

/// Permission bits of a slice. Each VMM opens its windows again by itself: the group is the writer
/// VM's VMM, everybody else may only read, and nobody but root is the owner and can change that.
pub const SLICE_MODE: u32 = 0o664;

/// Who a slice belongs to, given the users and groups of its writer VM. Peers check this.
#[must_use]
pub const fn ownership(mode: Mode, writer: VmIds) -> Ownership {
    let uid = match mode {
        Mode::Production => 0,
        Mode::Development => writer.device_uid,
    };
    Ownership {
        uid,
        gid: writer.vmm_gid,
        mode: SLICE_MODE,
    }
}

/// Creates every slice of the plan that `writer` writes, with one open file for each reader.
///
/// # Errors
/// The host refuses; names the slice.
pub fn create(
    plan: &Plan,
    writer: VmIndex,
    ownership: Ownership,
    generation: Generation,
) -> io::Result<Vec<OwnSlice>> {
    (0..)
        .zip(&plan.slices)
        .filter(|(_, slice)| slice.writer == writer)
        .map(|(number, slice)| create_one(SliceId(number), slice, ownership, generation))
        .collect()
}

fn create_one(
    id: SliceId,
    slice: &Slice,
    ownership: Ownership,
    generation: Generation,
) -> io::Result<OwnSlice> {
    let name = CString::new(format!("sivshm-slice-{}", id.0))?;
    let file = memfd::create(&name, slice.bytes, ownership)?;
    let for_reader = slice
        .readers
        .iter()
        .map(|reader| Ok((*reader, memfd::reopen_read_only(&file)?)))
        .collect::<io::Result<_>>()?;
    Ok(OwnSlice {
        id,
        generation,
        file,
        for_reader,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::fstat;
    use nix::unistd::{getegid, geteuid};
    use sivshm_sys::memfd::{Seals, seals_of};

    const POLICY: &str = r#"
        version = 1
        trust_domain = "car.example"
        serial = 1
        [[vm]]
        name = "a"
        [[vm]]
        name = "b"
        [[service]]
        vm = "a"
        name = "x"
        process = { uid = 1000 }
        [[service]]
        vm = "b"
        name = "y"
        process = { uid = 1000 }
        [[channel]]
        name = "one"
        from = "a/x"
        to = ["b/y"]
        kind = "region"
        size = "64KiB"
    "#;

    #[test]
    fn only_the_writer_creates_a_slice_and_each_reader_gets_an_open_file() {
        let plan = sivshm_policy::compile("test", POLICY).unwrap();
        let own = Ownership {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            mode: SLICE_MODE,
        };
        let mut created = Vec::new();
        for writer in [VmIndex(0), VmIndex(1)] {
            for slice in create(&plan, writer, own, Generation(7)).unwrap() {
                let planned = plan.slice(slice.id).unwrap();
                assert_eq!(planned.writer, writer);
                let size = fstat(&slice.file).unwrap().st_size;
                assert_eq!(u64::try_from(size).unwrap(), planned.bytes);
                assert_eq!(seals_of(&slice.file).unwrap(), Seals::FIXED);
                let readers: Vec<_> = slice.for_reader.iter().map(|(vm, _)| *vm).collect();
                assert_eq!(readers, planned.readers);
                created.push(slice.id);
            }
        }
        created.sort();
        let all: Vec<_> = (0..).zip(&plan.slices).map(|(id, _)| SliceId(id)).collect();
        assert_eq!(created, all);
    }

    #[test]
    fn a_production_slice_belongs_to_root_and_the_writers_group() {
        let writer = VmIds {
            device_uid: 1,
            vmm_uid: 2,
            vmm_gid: 3,
        };
        let of = ownership(Mode::Production, writer);
        assert_eq!((of.uid, of.gid, of.mode), (0, 3, 0o664));
        assert_eq!(ownership(Mode::Development, writer).uid, 1);
    }
}
