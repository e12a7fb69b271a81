//! Memory that the C library keeps of what the process has freed.

/// Gives it back to the system, down to single pages in the midst of what is in use. Takes the allocator's locks for as
/// long as it looks through the heaps, some milliseconds for large ones: for a process that has nothing to do.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time from any thread; it changes nothing that is allocated.
    unsafe {
        libc::malloc_trim(0);
    }
}
