//! `refusal`: all that a refused party is told.

use sivshm_abi::wire::{Malformed, Reader};

use super::Contract;
use crate::refusal::RefusalCode;

/// `refusal`: all that a refused party is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Told {
    /// The two policies differ about this link.
    Contract {
        /// The contract as the refusing party has it.
        refuser: Contract,
        /// The contract as the refused party's hello gave it.
        refused: Contract,
    },
    /// Any other reason.
    Code(RefusalCode),
}

impl Told {
    /// The number of the reason.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Contract { .. } => RefusalCode::Contract,
            Self::Code(code) => *code,
        }
    }

    pub(super) fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.code().code().to_le_bytes());
        if let Self::Contract { refuser, refused } = self {
            to.extend(refuser.0);
            to.extend(refused.0);
        }
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match RefusalCode::from_code(from.u16("refusal.code")?)? {
            RefusalCode::Contract => Ok(Self::Contract {
                refuser: Contract(from.array("refusal.refuser")?),
                refused: Contract(from.array("refusal.refused")?),
            }),
            code => Ok(Self::Code(code)),
        }
    }
}
