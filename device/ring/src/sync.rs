//! The one door to atomics and to raw shared memory: the only file of the workspace that names an
//! atomic type (STYLE H13). With `--cfg loom`, `model.rs` takes its place.
//!
//! Accesses are unchecked: `shared.rs` has judged every offset. Loads are relaxed with an acquire
//! fence, because the page may be mapped read-only, for which Rust promises no acquire load; stores
//! are releases.
#![expect(
    unsafe_code,
    reason = "memory shared with another address space is reached through raw pointers"
)]
#![expect(
    clippy::disallowed_types,
    reason = "this is the door that the lint sends everybody to"
)]

use core::ptr::NonNull;
#[cfg(not(target_arch = "x86_64"))]
use core::sync::atomic::AtomicU8;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Orders every earlier store before every later load, which acquire and release do not.
pub(crate) fn store_load_fence() {
    fence(Ordering::SeqCst);
}

/// Orders every earlier store before every later store.
pub(crate) fn store_store_fence() {
    fence(Ordering::Release);
}

/// Orders every earlier load before every later load.
pub(crate) fn load_load_fence() {
    fence(Ordering::Acquire);
}

/// Address of a byte of shared memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw(NonNull<u8>);

// SAFETY:
// - `Raw` is an address without thread affinity; the mapping behind it belongs to the process.
// - Every access through it is atomic or a copy that tolerates concurrent stores.
unsafe impl Send for Raw {}
// SAFETY: as for `Send`; a shared `Raw` offers nothing that an owned one does not.
unsafe impl Sync for Raw {}

impl Raw {
    pub(crate) const fn new(base: NonNull<u8>) -> Self {
        Self(base)
    }

    /// Whether the address is a multiple of `align`, a power of two.
    pub(crate) fn is_aligned(self, align: usize) -> bool {
        self.0.addr().get() & (align - 1) == 0
    }

    /// # Safety
    /// `offset` is at most the number of mapped bytes from here on.
    pub(crate) const unsafe fn add(self, offset: usize) -> Self {
        // SAFETY: the caller promises that the sum stays within, or one past, the same mapping.
        Self(unsafe { self.0.add(offset) })
    }

    /// # Safety
    /// Four mapped bytes from here on, aligned to four.
    pub(crate) unsafe fn load_u32(self) -> u32 {
        // SAFETY:
        // - The caller promises mapping and alignment; any four bytes are a valid value.
        // - Nobody in this process reaches them otherwise than atomically or by `copy`.
        let word = unsafe { AtomicU32::from_ptr(self.0.as_ptr().cast()) };
        let value = word.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }

    /// # Safety
    /// Four mapped, writable bytes from here on, aligned to four.
    pub(crate) unsafe fn store_u32(self, value: u32) {
        // SAFETY: as for `load_u32`.
        let word = unsafe { AtomicU32::from_ptr(self.0.as_ptr().cast()) };
        word.store(value, Ordering::Release);
    }

    /// # Safety
    /// Eight mapped bytes from here on, aligned to eight.
    pub(crate) unsafe fn load_u64(self) -> u64 {
        // SAFETY: as for `load_u32`, with eight bytes.
        let word = unsafe { AtomicU64::from_ptr(self.0.as_ptr().cast()) };
        let value = word.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }

    /// # Safety
    /// Eight mapped, writable bytes from here on, aligned to eight.
    pub(crate) unsafe fn store_u64(self, value: u64) {
        // SAFETY: as for `load_u32`, with eight bytes.
        let word = unsafe { AtomicU64::from_ptr(self.0.as_ptr().cast()) };
        word.store(value, Ordering::Release);
    }

    /// # Safety
    /// `to.len()` mapped bytes from here on.
    pub(crate) unsafe fn copy_out(self, to: &mut [u8]) {
        // SAFETY:
        // - The caller promises that the source is mapped; `to` is borrowed exclusively.
        // - `to` is private memory, so the two do not overlap.
        unsafe { copy(self.0.as_ptr(), to.as_mut_ptr(), to.len()) }
    }

    /// # Safety
    /// `from.len()` mapped, writable bytes from here on.
    pub(crate) unsafe fn copy_in(self, from: &[u8]) {
        // SAFETY: as for `copy_out`, the other way round.
        unsafe { copy(from.as_ptr(), self.0.as_ptr(), from.len()) }
    }

    /// # Safety
    /// `len` mapped, writable bytes from here on.
    pub(crate) unsafe fn fill(self, len: usize, byte: u8) {
        // SAFETY: the caller promises `len` writable bytes.
        unsafe { fill(self.0.as_ptr(), len, byte) }
    }
}

/// Most bytes that are copied in blocks. A string instruction takes tens of nanoseconds to begin, but
/// then it is as fast as any copy.
#[cfg(target_arch = "x86_64")]
const SHORT: usize = 2048;

/// Copies bytes of which one side may change meanwhile.
///
/// JUSTIFICATION: `memcpy` on memory that another party stores to is a data race, and a volatile
/// loop is slow. These instructions are opaque to the compiler. A short copy moves blocks, then words,
/// then bytes; a long one is a string, as fast as `memcpy` on processors with fast strings. Strings
/// move eight bytes at a time because QEMU's TCG emulates one element per iteration. Blocks use vector
/// registers where the compiler may: a kernel's code is compiled without.
///
/// # Safety
/// `len` bytes are readable at `from` and writable at `to`; they do not overlap.
#[cfg(target_arch = "x86_64")]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    if len > SHORT {
        // SAFETY:
        // - Reads `len` bytes from `from` and writes as many to `to`, as the caller allows.
        // - The direction flag is clear on entry (ABI); no instruction here changes any flag.
        unsafe {
            core::arch::asm!(
                "rep movsq",
                "mov rcx, {tail}",
                "rep movsb",
                tail = in(reg) len % 8,
                inout("rcx") len / 8 => _,
                inout("rsi") from => _,
                inout("rdi") to => _,
                options(nostack, preserves_flags),
            );
        }
        return;
    }
    let blocks = len - len % BLOCK;
    let words = len - len % 8;
    for at in (0..blocks).step_by(BLOCK) {
        // SAFETY: the `BLOCK` bytes at `at` are among the first `blocks`, and so of the `len` that the
        // caller vouches for.
        unsafe { copy_block(from.add(at), to.add(at)) }
    }
    for at in (blocks..words).step_by(8) {
        // SAFETY:
        // - The eight bytes at `at` are among the first `words`, and so of `len`.
        // - The instructions read eight bytes and write eight, and change no flag.
        unsafe {
            core::arch::asm!(
                "mov {word}, [{from}]",
                "mov [{to}], {word}",
                word = out(reg) _,
                from = in(reg) from.add(at),
                to = in(reg) to.add(at),
                options(nostack, preserves_flags),
            );
        }
    }
    for at in words..len {
        // SAFETY: as above, with one byte, which is below `len`.
        unsafe {
            core::arch::asm!(
                "mov {byte}, [{from}]",
                "mov [{to}], {byte}",
                byte = out(reg_byte) _,
                from = in(reg) from.add(at),
                to = in(reg) to.add(at),
                options(nostack, preserves_flags),
            );
        }
    }
}

/// Bytes that [`copy_block`] copies: four vector registers.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
const BLOCK: usize = 64;

/// Copies a block, as [`copy`].
///
/// # Safety
/// `BLOCK` bytes are readable at `from` and writable at `to`; they do not overlap.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
unsafe fn copy_block(from: *const u8, to: *mut u8) {
    // SAFETY: reads 64 bytes from `from` and writes 64 to `to`, as the caller allows; changes no flag.
    unsafe {
        core::arch::asm!(
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            from = in(reg) from,
            to = in(reg) to,
            options(nostack, preserves_flags),
        );
    }
}

/// Bytes that [`copy_block`] copies: four words.
#[cfg(all(target_arch = "x86_64", not(target_feature = "sse2")))]
const BLOCK: usize = 32;

/// Copies a block, as [`copy`].
///
/// # Safety
/// `BLOCK` bytes are readable at `from` and writable at `to`; they do not overlap.
#[cfg(all(target_arch = "x86_64", not(target_feature = "sse2")))]
unsafe fn copy_block(from: *const u8, to: *mut u8) {
    // SAFETY: reads 32 bytes from `from` and writes 32 to `to`, as the caller allows; changes no flag.
    unsafe {
        core::arch::asm!(
            "mov {a}, [{from}]",
            "mov {b}, [{from} + 8]",
            "mov {c}, [{from} + 16]",
            "mov {d}, [{from} + 24]",
            "mov [{to}], {a}",
            "mov [{to} + 8], {b}",
            "mov [{to} + 16], {c}",
            "mov [{to} + 24], {d}",
            a = out(reg) _,
            b = out(reg) _,
            c = out(reg) _,
            d = out(reg) _,
            from = in(reg) from,
            to = in(reg) to,
            options(nostack, preserves_flags),
        );
    }
}

/// As [`copy`]: stores `byte` to `len` bytes.
///
/// # Safety
/// `len` bytes are writable at `to`.
#[cfg(target_arch = "x86_64")]
unsafe fn fill(to: *mut u8, len: usize, byte: u8) {
    // SAFETY:
    // - Writes `len` bytes to `to`, as the caller allows.
    // - The direction flag is clear on entry (ABI); no instruction here changes any flag.
    unsafe {
        core::arch::asm!(
            "rep stosq",
            "mov rcx, {tail}",
            "rep stosb",
            tail = in(reg) len % 8,
            in("rax") u64::from_ne_bytes([byte; 8]),
            inout("rcx") len / 8 => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Portable form: one relaxed atomic byte at a time. Right everywhere, fast nowhere.
///
/// # Safety
/// `len` bytes are readable at `from` and writable at `to`; they do not overlap.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    for at in 0..len {
        // SAFETY: `at` is below `len`, for which the caller vouches; a byte is always aligned.
        unsafe {
            let byte = AtomicU8::from_ptr(from.add(at).cast_mut()).load(Ordering::Relaxed);
            AtomicU8::from_ptr(to.add(at)).store(byte, Ordering::Relaxed);
        }
    }
}

/// Portable form of filling.
///
/// # Safety
/// `len` bytes are writable at `to`.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn fill(to: *mut u8, len: usize, byte: u8) {
    for at in 0..len {
        // SAFETY: `at` is below `len`, for which the caller vouches; a byte is always aligned.
        unsafe { AtomicU8::from_ptr(to.add(at)).store(byte, Ordering::Relaxed) }
    }
}
