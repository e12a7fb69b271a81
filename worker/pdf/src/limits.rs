//! What a document may cost.

/// Bounds on one stamp. Beyond any of them a document is left as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The document itself.
    pub bytes_max: usize,
    /// All that is decompressed for the stamp together: object streams, cross-references, the content of stamped pages.
    pub decompressed_bytes_max: usize,
    /// Objects read, those within others counted.
    pub objects_max: usize,
    /// Entries of the cross-reference.
    pub entries_max: usize,
    /// Pages.
    pub pages_max: usize,
    /// A document whose cross-reference is damaged is read whole: it may be no larger than this.
    pub recovered_bytes_max: usize,
    /// Letters of all names and values together that are printed; the rest is cut.
    pub text_max: usize,
}

impl Default for Limits {
    /// Far above what hospitals send, and each reached within two seconds and some hundred megabytes.
    fn default() -> Limits {
        Limits {
            bytes_max: 512 << 20,
            decompressed_bytes_max: 128 << 20,
            objects_max: 4_000_000,
            entries_max: 1_500_000,
            pages_max: 100_000,
            recovered_bytes_max: 64 << 20,
            text_max: 16_384,
        }
    }
}
