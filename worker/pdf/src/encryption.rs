//! Encrypted documents that open without a password: their key, and new objects under it.
//!
//! lopdf finds the key and decrypts. It encrypts with a random start value; a stamp must come out the same each time,
//! so that a delivery tried again is known by its bytes. Here the start value is a digest of key, object and text, which
//! is as safe: it repeats only where all three do.

use aes::cipher::{BlockModeEncrypt, KeyIvInit};
use lopdf::encryption::DecryptionError;
use lopdf::encryption::crypt_filters::CryptFilter;
use lopdf::{Dictionary, Document, EncryptionState, Object, ObjectId};
use md5::{Digest, Md5};

const BLOCK_BYTES: usize = 16;

/// Why a document does not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Locked {
    Password,
    Unsupported(String),
}

/// Opens with an empty user password.
pub(crate) fn unlock(encrypt: Object, id: Object) -> Result<EncryptionState, Locked> {
    let Object::Dictionary(dictionary) = &encrypt else {
        return Err(Locked::Unsupported("its dictionary is missing".into()));
    };
    complete(dictionary)?;
    let mut document = Document::new();
    document.objects.insert((1, 0), encrypt);
    document.trailer.set("Encrypt", Object::Reference((1, 0)));
    // A file without an id counts as one with an empty id.
    let first =
        id.as_array().ok().and_then(|halves| halves.first()).filter(|half| half.as_str().is_ok()).cloned();
    let first = first.unwrap_or_else(|| Object::string_literal(""));
    document.trailer.set("ID", Object::Array(vec![first.clone(), first]));
    EncryptionState::decode(&document, "").map_err(|error| match error {
        lopdf::Error::InvalidPassword | lopdf::Error::Decryption(DecryptionError::IncorrectPassword) => {
            Locked::Password
        }
        lopdf::Error::Decryption(error) => Locked::Unsupported(error.to_string()),
        error => Locked::Unsupported(error.to_string()),
    })
}

/// A 256-bit dictionary with a part missing opens in some readers and not in others: not here.
fn complete(dictionary: &Dictionary) -> Result<(), Locked> {
    if dictionary.get(b"V").and_then(Object::as_i64).unwrap_or(0) < 5 {
        return Ok(());
    }
    for (key, bytes) in [("U", 48), ("O", 48), ("UE", 32), ("OE", 32), ("Perms", 16)] {
        let held = dictionary.get(key.as_bytes()).and_then(Object::as_str).map_or(0, <[u8]>::len);
        if held < bytes {
            return Err(Locked::Unsupported(format!("{key} is cut short")));
        }
    }
    Ok(())
}

/// Whether an encryption dictionary has all its parts.
pub(crate) fn is_complete(encrypt: &Object) -> bool {
    encrypt.as_dict().is_ok_and(|dictionary| complete(dictionary).is_ok())
}

/// Encrypts an object's strings and stream under the file's key.
pub(crate) fn seal(
    state: &EncryptionState,
    id: ObjectId,
    object: &mut Object,
) -> Result<(), DecryptionError> {
    if let Object::Stream(stream) = object {
        if stream.dict.has_type(b"XRef") {
            return Ok(());
        }
        // Metadata may be readable by whoever has no key; some readers see that by the filter alone.
        if stream.dict.has_type(b"Metadata") && !state.encrypt_metadata() && !stream.dict.has(b"Filter") {
            let identity = Object::Name(b"Identity".to_vec());
            stream.dict.set("Filter", Object::Name(b"Crypt".to_vec()));
            stream.dict.set("DecodeParms", Object::Dictionary(Dictionary::from_iter([("Name", identity)])));
        }
        if !has_own_filter(&stream.dict) {
            stream.content = encrypt(state, &*state.get_stream_filter(), id, &stream.content)?;
        }
    }
    seal_strings(state, id, object)
}

/// A Crypt filter of its own, which says Identity in practice.
fn has_own_filter(dictionary: &Dictionary) -> bool {
    match dictionary.get(b"Filter") {
        Ok(Object::Array(filters)) => {
            filters.iter().any(|filter| filter.as_name().is_ok_and(|name| name == b"Crypt"))
        }
        Ok(filter) => filter.as_name().is_ok_and(|name| name == b"Crypt"),
        Err(_) => false,
    }
}

fn seal_strings(state: &EncryptionState, id: ObjectId, object: &mut Object) -> Result<(), DecryptionError> {
    match object {
        Object::String(text, _) => {
            *text = encrypt(state, &*state.get_string_filter(), id, text)?;
            Ok(())
        }
        Object::Array(items) => items.iter_mut().try_for_each(|item| seal_strings(state, id, item)),
        Object::Dictionary(dictionary) => seal_dictionary(state, id, dictionary),
        Object::Stream(stream) => seal_dictionary(state, id, &mut stream.dict),
        Object::Null
        | Object::Boolean(_)
        | Object::Integer(_)
        | Object::Real(_)
        | Object::Name(_)
        | Object::Reference(_) => Ok(()),
    }
}

fn seal_dictionary(
    state: &EncryptionState,
    id: ObjectId,
    dictionary: &mut Dictionary,
) -> Result<(), DecryptionError> {
    // A signature's value is never encrypted (§ 7.6.2).
    let signature = dictionary.has(b"ByteRange") && dictionary.has(b"Contents");
    for (key, value) in dictionary.iter_mut() {
        if !(signature && key == b"Contents") {
            seal_strings(state, id, value)?;
        }
    }
    Ok(())
}

fn encrypt(
    state: &EncryptionState,
    filter: &dyn CryptFilter,
    id: ObjectId,
    plain: &[u8],
) -> Result<Vec<u8>, DecryptionError> {
    let key = filter.compute_key(state.file_encryption_key(), id)?;
    if !filter.method().starts_with(b"AES") {
        return filter.encrypt(&key, plain);
    }
    let mut digest = Md5::new();
    digest.update(&key);
    digest.update(id.0.to_le_bytes());
    digest.update(plain);
    let start: [u8; BLOCK_BYTES] = digest.finalize().into();
    let pad = BLOCK_BYTES - plain.len() % BLOCK_BYTES;
    let mut sealed = Vec::with_capacity(BLOCK_BYTES + plain.len() + pad);
    sealed.extend_from_slice(&start);
    sealed.extend_from_slice(plain);
    sealed.resize(sealed.len() + pad, pad as u8);
    match key.len() {
        16 => chain::<cbc::Encryptor<aes::Aes128>>(&key, &start, &mut sealed[BLOCK_BYTES..])?,
        32 => chain::<cbc::Encryptor<aes::Aes256>>(&key, &start, &mut sealed[BLOCK_BYTES..])?,
        _ => return Err(DecryptionError::InvalidKeyLength),
    }
    Ok(sealed)
}

fn chain<C: BlockModeEncrypt + KeyIvInit>(
    key: &[u8],
    start: &[u8],
    text: &mut [u8],
) -> Result<(), DecryptionError> {
    let mut cipher = C::new_from_slices(key, start).map_err(|_| DecryptionError::InvalidKeyLength)?;
    for block in text.chunks_exact_mut(BLOCK_BYTES) {
        let block = block.try_into().map_err(|_| DecryptionError::InvalidCipherTextLength)?;
        cipher.encrypt_block(block);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lopdf::encryption::crypt_filters::{Aes128CryptFilter, Aes256CryptFilter, Rc4CryptFilter};

    #[test]
    fn what_is_sealed_opens_and_is_the_same_each_time() {
        let state = EncryptionState::default();
        for (filter, key) in
            [(&Aes128CryptFilter as &dyn CryptFilter, 16), (&Aes256CryptFilter, 32), (&Rc4CryptFilter, 5)]
        {
            let _ = (&state, filter.compute_key(&vec![1; key], (3, 0)).unwrap());
            for plain in [&b""[..], b"a", b"sixteen bytes ok", b"more than sixteen bytes"] {
                let key = filter.compute_key(&vec![1; key], (3, 0)).unwrap();
                let seal = || {
                    if filter.method() == b"V2" {
                        return filter.encrypt(&key, plain).unwrap();
                    }
                    let start = [7u8; 16];
                    let pad = 16 - plain.len() % 16;
                    let mut text = [&start[..], plain, &vec![pad as u8; pad]].concat();
                    if key.len() == 16 {
                        chain::<cbc::Encryptor<aes::Aes128>>(&key, &start, &mut text[16..]).unwrap();
                    } else {
                        chain::<cbc::Encryptor<aes::Aes256>>(&key, &start, &mut text[16..]).unwrap();
                    }
                    text
                };
                assert_eq!(seal(), seal());
                assert_eq!(filter.decrypt(&key, &seal()).unwrap(), plain);
            }
        }
    }
}
