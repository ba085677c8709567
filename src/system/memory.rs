//! Memory that is needed in large pieces for a moment, and is to go back to the system at once.

/// From this size on, in bytes.
#[cfg(target_env = "gnu")]
const LARGE: i32 = 4 * 1024 * 1024;

/// Lets every large piece of memory have a mapping of its own from now on, which ends with it. glibc raises the
/// size from which it does so with each larger piece, up to 32 MiB, and keeps what is smaller in the heaps of
/// its threads: a hundred hashes of 19 MiB each, calculated two at a time, left half a gigabyte behind.
pub(crate) fn give_large_pieces_back() {
    #[cfg(target_env = "gnu")]
    {
        #![expect(
            unsafe_code,
            reason = "a setting of the C library's, which takes two numbers"
        )]
        // SAFETY: it has a lock of its own, and keeps nothing of ours.
        let is_set = unsafe { nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, LARGE) };
        debug_assert_eq!(is_set, 1);
    }
}
