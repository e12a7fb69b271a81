//! The colour space of a laid out document, as an ICC profile (version 2): sRGB with a plain gamma.

/// Red, green and blue of sRGB and the white they make, as ICC has them: seen under D50.
const COLORANTS: [(&[u8; 4], [f64; 3]); 4] = [
    (b"rXYZ", [0.436_074_7, 0.222_504_5, 0.013_932_2]),
    (b"gXYZ", [0.385_064_9, 0.716_878_6, 0.097_104_5]),
    (b"bXYZ", [0.143_080_4, 0.060_616_9, 0.714_173_3]),
    (b"wtpt", WHITE),
];
const WHITE: [f64; 3] = [0.964_2, 1.0, 0.824_9];
const HEADER_BYTES: usize = 128;

/// The profile.
pub(super) fn srgb() -> Vec<u8> {
    let mut tags: Vec<(&[u8; 4], Vec<u8>)> =
        vec![(b"desc", description("sRGB")), (b"cprt", text("No copyright"))];
    tags.extend(COLORANTS.iter().map(|(tag, value)| (*tag, xyz(value))));
    // One number is a gamma, in 256ths: 2.2.
    let gamma = [b"curv", &[0; 4][..], &1u32.to_be_bytes(), &563u16.to_be_bytes(), &[0; 2]].concat();
    tags.extend([b"rTRC", b"gTRC", b"bTRC"].map(|tag| (tag, gamma.clone())));

    let mut table = (tags.len() as u32).to_be_bytes().to_vec();
    let mut data = Vec::new();
    let start = HEADER_BYTES + 4 + tags.len() * 12;
    for (tag, value) in tags {
        table.extend_from_slice(tag);
        table.extend_from_slice(&((start + data.len()) as u32).to_be_bytes());
        table.extend_from_slice(&(value.len() as u32).to_be_bytes());
        data.extend_from_slice(&value);
        data.resize(data.len().next_multiple_of(4), 0);
    }
    let mut profile = header((start + data.len()) as u32);
    profile.extend(table);
    profile.extend(data);
    profile
}

fn header(size: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend(size.to_be_bytes());
    header.extend([0; 4]);
    header.extend(0x0210_0000u32.to_be_bytes());
    header.extend(b"mntrRGB XYZ ");
    header.extend([2024u16, 1, 1, 0, 0, 0].iter().flat_map(|number| number.to_be_bytes()));
    header.extend(b"acsp");
    header.resize(68, 0);
    header.extend(WHITE.iter().flat_map(|&number| fixed(number)));
    header.resize(HEADER_BYTES, 0);
    header
}

fn fixed(number: f64) -> [u8; 4] {
    ((number * 65536.0).round() as i32).to_be_bytes()
}

fn xyz(value: &[f64; 3]) -> Vec<u8> {
    let mut bytes = b"XYZ \0\0\0\0".to_vec();
    bytes.extend(value.iter().flat_map(|&number| fixed(number)));
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [b"text\0\0\0\0", text.as_bytes(), b"\0"].concat()
}

fn description(text: &str) -> Vec<u8> {
    let mut bytes = b"desc\0\0\0\0".to_vec();
    bytes.extend((text.len() as u32 + 1).to_be_bytes());
    bytes.extend(text.as_bytes());
    // The same in two other encodings, both empty.
    bytes.resize(bytes.len() + 1 + 8 + 3 + 67, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_says_its_own_size_and_its_tags_lie_within() {
        let profile = srgb();
        let at = |at: usize| u32::from_be_bytes(profile[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(at(0), profile.len());
        assert_eq!(&profile[36..40], b"acsp");
        for tag in 0..at(128) {
            assert!(at(136 + tag * 12) + at(140 + tag * 12) <= profile.len());
        }
    }
}
