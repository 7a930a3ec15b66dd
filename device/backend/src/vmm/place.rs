//! Where a VM's port and windows are on its PCI buses (DESIGN section 6, `docs/port.md`).
//!
//! Root port `k` is slot [`FIRST_ROOT_SLOT`], function `k` of the root bus. Below root port 0 the
//! port is function 0 and windows 0 to 6 are functions 1 to 7; each further root port has eight
//! windows. The arguments of QEMU and the directory that a guest reads come from here both.

use sivshm_abi::directory::PciPlace;
use sivshm_abi::limits::MAX_PCI_WINDOWS;

/// Slot on the root bus whose functions are the root ports.
pub const FIRST_ROOT_SLOT: u8 = 0x10;

/// Functions of one slot.
const FUNCTIONS: usize = 8;

/// Root ports: a slot's functions.
pub const ROOT_PORTS: usize = FUNCTIONS;

/// Where the port is.
pub const PORT: PciPlace = PciPlace {
    root: FIRST_ROOT_SLOT << 3,
    function: 0,
};

/// Where the window with number `window` is; none beyond [`MAX_PCI_WINDOWS`].
#[must_use]
pub fn window(window: usize) -> Option<PciPlace> {
    if window >= MAX_PCI_WINDOWS {
        return None;
    }
    // The port takes the first function.
    let at = window + 1;
    let root = u8::try_from(at / FUNCTIONS).ok()?;
    let function = u8::try_from(at % FUNCTIONS).ok()?;
    Some(PciPlace {
        root: PORT.root | root,
        function,
    })
}

const _: () = assert!(MAX_PCI_WINDOWS < ROOT_PORTS * FUNCTIONS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_distinct_and_never_the_ports() {
        let mut places: Vec<_> = (0..MAX_PCI_WINDOWS).filter_map(window).collect();
        assert_eq!(places.len(), MAX_PCI_WINDOWS);
        assert!(!places.contains(&PORT));
        places.sort();
        places.dedup();
        assert_eq!(places.len(), MAX_PCI_WINDOWS);
        assert_eq!(window(MAX_PCI_WINDOWS), None);
    }

    #[test]
    fn eight_functions_make_a_root_port() {
        let at = |root, function| Some(PciPlace { root, function });
        assert_eq!(window(0), at(0x80, 1));
        assert_eq!(window(6), at(0x80, 7));
        assert_eq!(window(7), at(0x81, 0));
        assert_eq!(window(61), at(0x87, 6));
    }
}
